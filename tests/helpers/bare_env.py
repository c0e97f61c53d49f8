"""An environment that holds hcache and what its metadata declares, and nothing else.

In: the checkout, and the environment that the tests run in. Out: a fresh virtual environment with
hcache installed from its wheel. The dependencies are links to those installed here, so this takes
seconds and no network. What hcache does not declare, an engine above all, cannot be imported there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.paths import ROOT

LEFT_BEHIND = {"build", "dist", "models", "runs"}  # what using a checkout may add at its top


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the checkout, which stays clean, and returns its path."""
    source = folder / "source"
    source.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if entry.name.startswith(".") or entry.suffix == ".egg-info" or entry.name in LEFT_BEHIND:
            continue
        if entry.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(entry, source / entry.name, ignore=ignore)
        else:
            shutil.copy(entry, source)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def bare_environment(folder: Path) -> Path:
    """Makes the environment in `folder` (absent or empty) and returns its python."""
    wheel = build_wheel(folder / "wheel")
    home = folder / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    _run(*pip, "install", "-qq", "--no-deps", "--no-index", wheel)

    (site_packages,) = home.glob("lib/python*/site-packages")
    (hcache,) = (d for d in distributions(path=[str(site_packages)]) if d.name == "hcache")
    links = folder / "dependencies"
    links.mkdir()
    for dependency in _closure(hcache):
        for name in {file.parts[0] for file in dependency.files or []} - {"..", "__pycache__"}:
            if not (links / name).is_symlink():
                (links / name).symlink_to(Path(str(dependency.locate_file(name))))
    (site_packages / "dependencies.pth").write_text(f"{links}\n", encoding="utf-8")
    return python


def run_bare(command: Iterable[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of a bare environment in `folder`, with nothing of this process's paths."""
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(command), cwd=folder, env=outside, capture_output=True, text=True, check=False
    )


def _closure(root: Distribution) -> Iterable[Distribution]:
    """What `root` requires, and what that requires in turn, as installed here."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(root, "")]
    while waiting:
        dependent, extra = waiting.pop()
        for requirement in map(Requirement, dependent.requires or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in ("", *requirement.extras):
                key = (canonicalize_name(requirement.name), wanted)
                if key not in found:
                    found[key] = distribution(requirement.name)
                    waiting.append((found[key], wanted))
    return found.values()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
