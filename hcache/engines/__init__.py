"""Engines, one file each: requests in, generations out.

To add one, write a file with a class under `@ENGINES.register("name")` that says which files of a
model its replies depend on and how it is made (`EngineType`). Every module here is imported with
the package, so nothing else needs an edit, and nothing slow may be imported at its top.
"""

from hcache.engines.base import (
    ENGINES,
    TOO_LONG,
    Engine,
    EngineFactory,
    Engines,
    EngineType,
    Generation,
    Request,
    check_request,
    engine_of,
    make_engine,
    request_for,
)
from hcache.engines.pool import build_pool
from hcache.engines.scripted import ScriptedEngine
from hcache.plugins import load_package

__all__ = [
    "ENGINES",
    "TOO_LONG",
    "Engine",
    "EngineFactory",
    "EngineType",
    "Engines",
    "Generation",
    "Request",
    "ScriptedEngine",
    "build_pool",
    "check_request",
    "engine_of",
    "make_engine",
    "request_for",
]

load_package(__name__, __path__)
