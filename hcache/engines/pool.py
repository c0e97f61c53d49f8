"""The pool: models and arms of an experiment -> arms with fingerprints. Reads files, loads nothing.

The engine says what its replies depend on in a model's files (`EngineType.content`) and in its own
arguments (`EngineType.reply_arguments`); what all engines have in common in settings stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hcache.config.schema import ArmConfig, ModelConfig
from hcache.engines.base import ENGINES, engine_of
from hcache.engines.vllm_arguments import PATHS
from hcache.errors import ConfigError
from hcache.keys import digest
from hcache.models.arms import Arm, Pool
from hcache.models.files import by_content, locate


def build_pool(
    models: Mapping[str, ModelConfig], arms: Mapping[str, ArmConfig], folder: Path
) -> Pool:
    """The arms of an experiment, in its order, with fingerprints.

    Raises:
        ConfigError: an unknown engine, a model path that does not exist, or an argument that the
            engine does not take.
        EngineError: a folder that holds no checkpoint.
    """
    located = {name: _located(name, model, folder) for name, model in models.items()}
    contents = {name: _content(name, model) for name, model in located.items()}
    pool = []
    for name, arm in arms.items():
        model = located[arm.model]
        _check_drawn(name, model, arm)
        fingerprint = digest({**contents[arm.model], **reply_settings(name, model, arm)})
        pool.append(Arm(name, arm.model, Path(model.path), fingerprint, model, arm))
    return tuple(pool)


def _located(name: str, model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with every path of it found."""
    kind = ENGINES.find(engine_of(model), f"models.{name}.engine")
    paths = {
        field: str(locate(value, folder, f"models.{name}.{field}"))
        for field in kind.files
        if (value := getattr(model, field)) is not None
    }
    return model.model_copy(update=paths)


def _content(name: str, model: ModelConfig) -> dict[str, object]:
    """All that replies of a model depend on besides settings; a plug-in's own code among it."""
    engine = engine_of(model)
    kind = ENGINES.find(engine, f"models.{name}.engine")
    content = kind.content(model, f"models.{name}")
    if arguments := kind.reply_arguments(model.engine_args):
        content = {**content, "engine_args": by_content(arguments, PATHS)}
    source = ENGINES.source(engine)
    return content if source is None else {**content, "engine": engine, "plugin": source.digest}


def _check_drawn(name: str, model: ModelConfig, arm: ArmConfig) -> None:
    """Refuse other draws under a ΔW than those that training knows the probability of."""
    if model.low_rank is not None and (arm.temperature, arm.top_p) != (1.0, 1.0):
        raise ConfigError(
            f"arms.{name}: temperature {arm.temperature:g}, top_p {arm.top_p:g}; with a ΔW, "
            "replies are drawn at 1 and 1.",
            f"Set arms.{name}.temperature=1 and arms.{name}.top_p=1.",
        )


def reply_settings(name: str, model: ModelConfig, arm: ArmConfig) -> dict[str, object]:
    """The settings of an arm that its replies depend on, whatever the engine."""
    settings: dict[str, object] = {
        "dtype": model.dtype,
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "chat_template_args": model.chat_template_args,
        "max_tokens": arm.max_tokens,
        "stop": list(arm.stop),
        "temperature": arm.temperature,
    }
    if model.low_rank is not None:
        settings["low_rank_of"] = name  # each arm has a ΔW of its own
    if arm.temperature > 0:
        settings |= {"top_p": arm.top_p, "seed": arm.seed}
    return settings
