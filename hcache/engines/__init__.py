"""Engines, one file each. To add one, write its file and name it in `make_engine`."""

from __future__ import annotations

import importlib

from hcache.engines.base import (
    TOO_LONG,
    Engine,
    EngineFactory,
    Engines,
    Generation,
    Request,
    request_for,
)
from hcache.engines.scripted import ScriptedEngine, scripted_engine
from hcache.models.arms import Arm

__all__ = [
    "TOO_LONG",
    "Engine",
    "EngineFactory",
    "Engines",
    "Generation",
    "Request",
    "ScriptedEngine",
    "make_engine",
    "request_for",
]


def make_engine(arm: Arm, logprobs: bool) -> Engine:
    """The engine that an arm's model asks for; what is slow to import is only when due."""
    if arm.by_question:  # made where policies are known
        serving = importlib.import_module("hcache.joint.serving")
        engine: Engine = serving.serve(arm, logprobs)
        return engine
    if arm.model_config.engine == "scripted":
        return scripted_engine(arm, logprobs)
    if arm.model_config.engine == "search":
        from hcache.engines.search import SearchEngine

        return SearchEngine(arm)
    from hcache.engines.vllm import VllmEngine

    return VllmEngine(arm, logprobs)
