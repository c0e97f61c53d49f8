"""The study of a cache: it runs from end to end, and writes the same page twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.experiments import sample, settings, write_questions, write_scripts

from benchmarks.findings import __main__ as findings
from benchmarks.findings import answers, study


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets, two arms; few routers, briefly trained."""
    monkeypatch.chdir(tmp_path)
    write_scripts(tmp_path, "ab")
    raw = settings("ab", name="real")
    data = {}
    for name, start in (("one", ""), ("two", "other")):
        sources = {}
        for split in ("train", "valid", "test"):
            write_questions(tmp_path, f"{start}{split}", 12)
            sources[split] = {"path": f"{start}{split}.jsonl"}
        data[name] = {"sources": sources}
    raw |= {"data": data, "train": {"algo": "ensemble", "iterations": 4, "patience": 2}}
    cascade = raw | {"name": "real-cascade", "workflow": {"name": "cascade", "hops": 2}}
    sample(tmp_path, cascade)
    (tmp_path / "experiment.yaml").rename(tmp_path / "cascade.yaml")
    sample(tmp_path, raw)
    monkeypatch.setattr(findings, "EXPERIMENT", tmp_path / "experiment.yaml")
    monkeypatch.setattr(findings, "CASCADE", tmp_path / "cascade.yaml")
    monkeypatch.setattr(answers, "OURS", "sft")
    monkeypatch.setattr(answers, "SEEDS", 1)
    monkeypatch.setattr(study, "SEEDS", 1)
    monkeypatch.setattr(answers, "algorithms", lambda experiment: {"sft": "", "knn": ""})
    return tmp_path


def test_page_and_figures_are_the_same_twice(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for place in ("first", "second"):
        arguments = ["findings", "--db", "small.duckdb", "--runs", "runs", "--docs", place]
        monkeypatch.setattr("sys.argv", arguments)
        study.study_of.cache_clear()
        findings.main()
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        made.append({path.relative_to(place).as_posix(): path.read_bytes() for path in files})
    assert made[0] == made[1]
    assert set(made[0]) == {
        "findings.md", *(f"findings/{key}.svg" for key in ("routers", "context", "claim", "gap")),
    }  # fmt: skip
    page = made[0]["findings.md"].decode()
    for title in ("All routers", "Value of context", "HierRouter's claim", "Where the gap is lost"):
        assert f"## {title}" in page
    assert "nan" not in page
