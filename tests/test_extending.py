"""docs/extending.md, run against an installed wheel: as a file, and as a package of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.bare_env import bare_environment, run_bare
from helpers.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ENTRIES = {
    "metrics": {"contains": "contains"},
    "extractors": {"last_word": "last_word"},
    "readers": {"lines": "lines"},
    "workflows": {"second_look": "SecondLook"},
    "engines": {"echo": "Echo"},
    "encoders": {"lengths": "Lengths"},
    "policies": {"stop_when_long": "StopWhenLong"},
    "trainers": {"stop_when_long": "StopTrainer"},
    "trackers": {"csv": "CSV"},
}
QUESTIONS = "Say yes|YES|short\nSay no please|NO|long\nSay up|UP|short\nSay down now|DOWN|long\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty environment, `bare`, in which hcache is installed from its wheel."""
    folder = tmp_path_factory.mktemp("extending")
    bare_environment(folder / "bare")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with questions in a format of one's own."""
    for split in ("train", "valid", "test"):
        text = re.sub("^Say", f"Say {split}", QUESTIONS, flags=re.MULTILINE)
        (tmp_path / f"{split}.txt").write_text(text)
    return tmp_path


def experiment(name: str, workflow: dict[str, Any], plugins: list[str]) -> dict[str, Any]:
    data = {
        "reader": "lines",
        "extract": "last_word",
        "metrics": ["contains", "f1"],
        "sources": {split: {"path": f"{split}.txt"} for split in ("train", "valid", "test")},
    }
    return {
        "name": name,
        "db": f"{name}.duckdb",
        "plugins": plugins,
        "workflow": workflow,
        "models": {"loud": {"path": ".", "engine": "echo"}},
        "arms": {
            "a": {"model": "loud", "price": {"input": 1, "output": 1, "per": 1000}},
            "b": {"model": "loud", "price": {"input": 2, "output": 2, "per": 1000}},
        },
        "data": {"made": data},
        "quality": "contains",
        "features": {"encoder": "lengths"},
        "train": {"algo": "stop_when_long", "alpha": 0.001},
    }


def hcache(home: Path, work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_bare([home / "bare" / "venv" / "bin" / "hcache", *words], work)


def said(home: Path, work: Path, *words: str) -> str:
    done = hcache(home, work, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def use_all(home: Path, work: Path, plugins: list[str]) -> dict[str, Any]:
    """Sample, train and evaluate with everything of the page; the manifest of the run."""
    relay = experiment("relay", {"name": "relay", "hops": 2}, plugins)
    (work / "relay.yaml").write_text(json.dumps(relay))
    look = experiment("look", {"name": "second_look"}, plugins)
    (work / "look.yaml").write_text(json.dumps(look))
    for name, sequences in (("relay", {"a", "b", "a>a", "a>b", "b>a", "b>b"}), ("look", {"a>a"})):
        said(home, work, "sample", f"{name}.yaml")
        query = "select distinct sequence, quality, contains from outcomes"
        rows = json.loads(
            said(home, work, "sql", query, "--db", f"{name}.duckdb", "--format", "json")
        )
        assert sequences <= {row["sequence"] for row in rows}
        assert all(row["quality"] == row["contains"] for row in rows)
    # The last word, in capitals, is what the references of half of the questions are.
    best = "select max(quality) as best, min(quality) as worst from sequences where depth = 1"
    (found,) = json.loads(said(home, work, "sql", best, "--db", "relay.duckdb", "--format", "json"))
    assert found == {"best": 0.5, "worst": 0.5}
    # Trained in another process, and evaluated.
    bench = ("bench", "relay.yaml", "--algos", "stop_when_long", "--tracker", "csv")
    assert "stop_when_long" in said(home, work, *bench)
    (rewards,) = (work / "runs").rglob("rewards.csv")
    assert rewards.read_text().startswith("iteration,stop_when_long\n0,")
    (manifest,) = (work / "runs").rglob("manifest.json")
    manifest_read: dict[str, Any] = json.loads(manifest.read_text())
    return manifest_read


@pytest.mark.slow
def test_blocks_are_short() -> None:
    assert len(BLOCKS) == len(ENTRIES)
    for block in BLOCKS:
        code = [line for line in block.splitlines() if line.strip() and "import" not in line]
        assert len(code) <= 20, block


@pytest.mark.slow
def test_the_page_as_a_file(home: Path, work: Path) -> None:
    plugin = work / "my_plugins.py"
    plugin.write_text("\n".join(BLOCKS))
    manifest = use_all(home, work, ["my_plugins.py"])
    (source,) = manifest["plugins"]
    assert source["name"].endswith("my_plugins.py")
    # A changed metric: scores are made anew, with no model; a changed trainer is another run.
    plugin.write_text(plugin.read_text().replace("return float(any(", "return 0.25 * float(any("))
    assert "made (6" not in said(home, work, "sample", "relay.yaml")
    best = "select max(contains) as best from outcomes"
    rows = json.loads(said(home, work, "sql", best, "--db", "relay.duckdb", "--format", "json"))
    assert rows == [{"best": 0.25}]
    said(home, work, "train", "relay.yaml")
    runs = {json.loads(file.read_text())["name"] for file in (work / "runs").rglob("manifest.json")}
    assert len(runs) == 2


@pytest.mark.slow
def test_a_name_without_its_plugin(home: Path, work: Path) -> None:
    (work / "my_plugins.py").write_text("\n".join(BLOCKS))
    (work / "e.yaml").write_text(json.dumps(experiment("e", {"name": "relay"}, [])))
    missing = hcache(home, work, "plan", "e.yaml")
    assert missing.returncode == 1
    words = ("unknown engine 'echo'", "scripted", "vllm", "hcache.engines", "--plugin")
    assert all(word in missing.stderr for word in words), missing.stderr
    assert "a" in said(home, work, "plan", "e.yaml", "--plugin", "my_plugins.py")


@pytest.mark.slow
def test_a_plugin_that_fails_says_so(home: Path, work: Path) -> None:
    (work / "my_plugins.py").write_text("1 / 0\n")
    (work / "e.yaml").write_text(json.dumps(experiment("e", {"name": "relay"}, ["my_plugins.py"])))
    failed = hcache(home, work, "plan", "e.yaml")
    assert failed.returncode == 1
    assert "my_plugins.py: ZeroDivisionError" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_the_page_as_a_package(
    home: Path, work: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Last in this file: the package stays installed in the environment."""
    source = tmp_path_factory.mktemp("package")
    (source / "my_package.py").write_text("\n".join(BLOCKS))
    groups = "".join(
        f'[project.entry-points."hcache.{kind}"]\n'
        + "".join(f'{name} = "my_package:{entry}"\n' for name, entry in entries.items())
        for kind, entries in ENTRIES.items()
    )
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "my-package"\nversion = "1.0"\n{groups}'
        '[tool.setuptools]\npy-modules = ["my_package"]\n'
    )
    python = home / "bare" / "venv" / "bin" / "python"
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", source],
        [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps",
         "--no-index", "--find-links", source / "dist", "my-package"],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (found,) = use_all(home, work, [])["plugins"]
    assert found["name"] == "my_package"
