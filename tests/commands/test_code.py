"""`pass@1` on the command line: nothing that a model wrote is run unless that is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.experiments import load, settings, table, write_script
from helpers.shell import Shell

from hcache.data import metrics
from hcache.processes import sandbox

FRAME = "def one():\n    'One.'\n{answer}\nassert one() == 1"


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Arm a writes code that is right, b code that is wrong, both as prose around a fence."""
    monkeypatch.setattr(metrics, "_allowed", False)
    for name, value in (("a", 1), ("b", 2)):
        reply = f"Here it is:\n```python\ndef one():\n    return {value}\n```\nDone."
        write_script(tmp_path, name, [[r"(?s).*", reply]])
    for split in ("train", "valid", "test"):
        rows = [
            {"question": f"{split} {number}", "answer": f"by {number}", "tests": tests}
            for number, tests in enumerate((FRAME, "{answer}\nassert one() == 2"))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    raw = settings("ab", runs="runs")
    raw["data"]["made"] |= {"extract": "code", "metrics": ["pass@1", "f1"], "quality": "pass@1"}
    load(tmp_path, raw)
    return Shell(tmp_path, capsys, monkeypatch)


def test_code_is_run_only_where_the_command_line_says_so(shell: Shell) -> None:
    said = shell("sample", "experiment.yaml")
    assert "36 not made, since they run code that models wrote" in " ".join(said.split())
    scores = table(shell.folder / "small.duckdb", "scores")
    assert set(scores["metric"]) == {"f1"}
    refused = " ".join(shell("train", "experiment.yaml", "--algo", "sft", code=1).split())
    assert "no score 'pass@1'" in refused and "--allow-code-execution" in refused
    assert "36 not made" in " ".join(shell("rescore", "experiment.yaml").split())
    assert "clean" in shell("check", "experiment.yaml")
    assert "36 new scores" in shell("rescore", "experiment.yaml", "--allow-code-execution")
    made = table(shell.folder / "small.duckdb", "outcomes")
    for row in made.iter_rows(named=True):
        right = "a" if row["references"] == ["by 0"] else "b"
        assert row["pass@1"] == float(row["sequence"].endswith(right))
    assert "36 scores pass@1 of code were not checked" in _check(shell)


def _check(shell: Shell) -> str:
    metrics._allowed = False
    unchecked = " ".join(shell("check", "experiment.yaml").split())
    checked = shell("check", "experiment.yaml", "--allow-code-execution")
    assert "72 scores made again" in checked and "not checked" not in checked
    return unchecked


def test_sampling_scores_at_its_end_and_routers_learn_from_it(shell: Shell) -> None:
    said = shell("sample", "experiment.yaml", "--allow-code-execution")
    assert "36 new scores" in said
    quick = shell.sets("train.iterations=20", "train.patience=3")
    shell("train", "experiment.yaml", "--algo", "sft", *quick)
    report = json.loads(shell("eval", "experiment.yaml", "--format", "json"))
    assert report["best_static"] in ("a", "b")


def test_programs_without_an_end_are_counted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("sample", "experiment.yaml")
    ended = sandbox.Outcome.TIMED_OUT
    monkeypatch.setattr(sandbox, "run_program", lambda program, seconds: ended)
    said = " ".join(shell("rescore", "experiment.yaml", "--allow-code-execution").split())
    assert "36 new scores; 4 programs did not end within 10 s and count as wrong" in said


def test_no_setting_of_an_experiment_allows_it(shell: Shell) -> None:
    for setting in ("sampling.allow_code_execution=true", "allow_code_execution=true"):
        assert "unknown setting" in shell("sample", "experiment.yaml", "--set", setting, code=1)
