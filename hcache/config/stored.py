"""Settings as databases and manifests hold them, in whatever version they were stored.

The one place where stored settings are read. A price that was stored without its unit is of a
version in which all prices were for 1,000 tokens.
"""

from __future__ import annotations

from hcache.config.schema import ArmConfig, ExperimentConfig

UNIT_BEFORE = 1_000  # tokens that a price without a unit was for


def stored_config(settings: object) -> ExperimentConfig:
    """The settings of an experiment.

    Raises:
        ValidationError: they are none.
    """
    if isinstance(settings, dict) and isinstance(arms := settings.get("arms"), dict):
        settings = settings | {"arms": {name: _with_unit(arm) for name, arm in arms.items()}}
    return ExperimentConfig.model_validate(settings)


def stored_arm(settings: object) -> ArmConfig:
    """The settings of an arm.

    Raises:
        ValidationError: they are none.
    """
    return ArmConfig.model_validate(_with_unit(settings))


def _with_unit(arm: object) -> object:
    """Settings of an arm whose price has its unit."""
    price = arm.get("price") if isinstance(arm, dict) else None
    if not isinstance(arm, dict) or not isinstance(price, dict) or "per" in price:
        return arm
    return arm | {"price": price | {"per": UNIT_BEFORE}}
