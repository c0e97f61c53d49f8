"""The README is true: its tree lists every file, its commands exist and run."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.experiments import load, settings, write_questions, write_scripts
from helpers.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
TREE = next(block for block in BLOCKS if block.startswith("cli.py"))


def listed() -> dict[str, str]:
    """Paths of the tree with what is said of them."""
    found, parents = {}, [""]
    for line in TREE.splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        name, _, text = line.strip().partition(" ")
        parents[depth + 1 :] = [parents[depth] + name]
        found[parents[depth] + name] = text.strip()
    return found


def test_tree_lists_every_module_and_nothing_else() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    modules = {
        name for name in tracked
        if name.startswith("hcache/") and name.endswith(".py") and not name.endswith("__init__.py")
    }  # fmt: skip
    paths = listed()
    assert {path for path in paths if path.endswith(".py") and path != "cli.py"} == modules
    assert all((ROOT / path).exists() for path in paths)
    assert all(text for path, text in paths.items() if path != "hcache/")
    folders = {name.split("/")[0] + "/" for name in tracked if "/" in name} - {".ci/"}
    assert folders <= {path.split("/")[0] + "/" for path in paths}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_reference_of_settings_is_what_the_code_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    reference = importlib.import_module("reference")
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


def commands() -> list[str]:
    """Every hcache command of the README, without its comment."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.startswith("hcache ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted experiment that was sampled, with a run; its database stands where demo's does."""
    folder = tmp_path_factory.mktemp("readme")
    write_scripts(folder, "ab")
    for split in ("train", "valid", "test"):
        write_questions(folder, split, 6)
    raw = settings("ab", db="runs/demo/hcache.duckdb", runs="runs/demo")
    raw["train"] = {"iterations": 10}
    load(folder, raw)
    for arguments in (["sample"], *(["train", "--algo", algo] for algo in ("sft", "joint"))):
        hcache([arguments[0], "experiment.yaml", *arguments[1:]], folder)
    for number, name in enumerate(("ONE.duckdb", "TWO.duckdb")):  # sampled apart, to be merged
        part = ["--set", f"db={name}", "--set", f"data.made.sources.train.path=train{number}.jsonl"]
        write_questions(folder, f"train{number}", 4 + number)
        hcache(["sample", "experiment.yaml", *part], folder)
    cells = [f"{q},{arm},{len(arm) % 2}" for q in "abcdefghijkl" for arm in ("one", "two2")]
    log = ["question,episode,hop,action,propensity,cost,score", "test0,1,1,a,1,0,1"]
    log.append("test0,1,2,STOP,0.5,0,1")
    (folder / "LOG.csv").write_text("\n".join(log), encoding="utf-8")
    (folder / "RUNS.csv").write_text("\n".join(["query,arm,score", *cells]), encoding="utf-8")
    return folder


def hcache(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, workplace: Path) -> None:
    """With the experiment, the run and the trajectory of a small scripted database put in."""
    query = "select trajectory_id from outcomes limit 1"
    database = ["--db", "runs/demo/hcache.duckdb"]
    trajectory = hcache(["sql", query, *database, "--format", "csv"], workplace).split()[-1]
    algo = "joint" if "--policy" in command else "sft"
    run = min((workplace / "runs" / "demo").glob(f"{algo}-s0-*"))
    words = {"EXPERIMENT.yaml": "experiment.yaml", "TRAJECTORY": trajectory}
    words |= dict.fromkeys(("RUN", "OTHER"), str(run))
    arguments = [words.get(word, word) for word in shlex.split(command)[1:]]
    assert hcache(arguments, workplace).strip()
