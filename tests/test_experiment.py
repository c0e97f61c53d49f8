"""An experiment's questions, from its files: repeated ones in one split, and across splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.experiments import Raw, load, settings, write_scripts
from helpers.shell import Shell

from hcache.data.queries import Dropped
from hcache.errors import DataError

PLUS = "What is two plus two?,1,2,3,4,D\n"
RED = "Which is red?,sky,blood,grass,snow,B\n"
DRESSED = "what is TWO plus two,1,2,3,4,D\n"
WRONG = "What is two plus two?,1,2,3,4,C\n"


def choices(folder: Path, **files: str) -> Raw:
    """Settings of questions of multiple choice; a file is a split, or belongs to it by a folder."""
    write_scripts(folder, "a")
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text(rows, encoding="utf-8")
    sources = {name: {"path": f"{name}.csv"} for name in files}
    data = {"reader": "mmlu", "extract": "choice", "metrics": ["choice"], "sources": sources}
    return settings("a", data={"d": data}, quality="choice", workflow={"name": "relay", "hops": 1})


def test_a_question_repeated_in_a_file_is_read_once(tmp_path: Path) -> None:
    experiment = load(tmp_path, choices(tmp_path, train=PLUS + RED + PLUS))
    assert len(experiment.splits["train"]) == 2
    assert experiment.dropped == {Dropped("d", "train", "repeated"): 1}


def test_a_question_repeated_in_the_files_of_a_folder_is_read_once(tmp_path: Path) -> None:
    raw = choices(tmp_path)
    raw["data"]["d"]["sources"] = {"train": {"path": "across"}}
    (tmp_path / "across").mkdir()
    (tmp_path / "across" / "clinic_test.csv").write_text(PLUS)
    (tmp_path / "across" / "medicine_test.csv").write_text(PLUS + RED)
    experiment = load(tmp_path, raw)
    plus = next(q for q in experiment.splits["train"] if "plus" in q.question)
    assert plus.kind == "clinic"
    assert experiment.dropped == {Dropped("d", "train", "repeated"): 1}


def test_a_question_in_two_splits_is_refused_or_stays_in_test(tmp_path: Path) -> None:
    raw = choices(tmp_path, train=PLUS + RED, valid=RED.replace("red?", "RED "), test=DRESSED)
    with pytest.raises(DataError) as caught:
        _ = load(tmp_path, raw).splits
    assert caught.value.message.startswith("2 questions stand where they may not")
    assert f"train of d ({tmp_path / 'train.csv'}:1): in another split too" in caught.value.message
    assert "set `on_duplicate: drop` in data.d" in caught.value.hint
    raw["data"]["d"]["on_duplicate"] = "drop"
    with pytest.raises(DataError, match="every question of train stands in another split too"):
        _ = load(tmp_path, raw).splits
    (tmp_path / "train.csv").write_text(PLUS + RED + "Why?,1,2,3,4,A\n")
    experiment = load(tmp_path, raw)
    assert {split: len(queries) for split, queries in experiment.splits.items()} == {
        "train": 1, "valid": 1, "test": 1,
    }  # fmt: skip
    assert experiment.dropped == {Dropped("d", "train", "in another split too"): 2}


def test_another_answer_is_refused_or_the_first_stays(tmp_path: Path) -> None:
    raw = choices(tmp_path, train=PLUS + RED + WRONG)
    with pytest.raises(DataError, match=r"train\.csv:3\): repeated with another answer: .*csv:1\)"):
        _ = load(tmp_path, raw).splits
    raw["data"]["d"]["on_duplicate"] = "drop"
    experiment = load(tmp_path, raw)
    assert {query.references for query in experiment.splits["train"]} == {("D",), ("B",)}


def test_a_question_of_another_data_set_counts_too(tmp_path: Path) -> None:
    raw = choices(tmp_path, train=PLUS, test=RED)
    raw["data"]["e"] = raw["data"]["d"] | {"sources": {"train": {"path": "test.csv"}}}
    with pytest.raises(DataError, match=r"train of e .*: in another split too: test of d"):
        _ = load(tmp_path, raw).splits


def test_options_belong_to_the_question(tmp_path: Path) -> None:
    other = "What is two plus two?,3,4,5,6,B\n"
    raw = choices(tmp_path, train=PLUS, test=other)
    assert load(tmp_path, raw).dropped == {}


def test_commands_say_in_one_line_what_was_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = choices(tmp_path, train=PLUS + RED + PLUS + PLUS)
    (tmp_path / "experiment.yaml").write_text(json.dumps(raw))
    shell = Shell(tmp_path, capsys, monkeypatch)
    said = "questions dropped: 2 of train of d (repeated)\n"
    assert said in shell("plan", "experiment.yaml")
    assert said in shell("sample", "experiment.yaml")
