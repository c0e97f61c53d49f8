"""The engine of arms whose outcomes others have recorded: it says nothing that was not recorded.

An arm is known by its source and its name there (`engine_args.source` and `path` of its model);
no file of a model is read. `hcache import` writes what was recorded; what is missing stays missing.
"""

from __future__ import annotations

from hcache.config.schema import ModelConfig
from hcache.engines.base import ENGINES, Engine, QueueEngine, Request
from hcache.errors import ArmError, ConfigError, EngineError
from hcache.models.arms import Arm

NAME = "recorded"
UNASKED = "its outcomes were recorded by others, it cannot be asked"
WAY_OUT = "Import what is missing with `hcache import`, or name an engine that runs the model."


@ENGINES.register(NAME)
class RecordedEngine(QueueEngine):
    """Stands for models that cannot be asked any more."""

    files = ()

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: where the outcomes are from, and the model's name there."""
        if not isinstance(model.engine_args.get("source"), str):
            raise ConfigError(
                f"{place}.engine_args.source: missing, which engine {NAME} needs.",
                "Take the experiment file that `hcache import` has written.",
            )
        return {"engine": NAME, "model": model.path}

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> Engine:
        """See `EngineType`: there is none to serve it."""
        raise EngineError(f"{arm.name}: {UNASKED}.", WAY_OUT)

    @staticmethod
    def check(request: Request) -> None:
        """See `EngineType`: no request can be taken."""
        raise ArmError(f"{request.arm.name}: {UNASKED}.", WAY_OUT)
