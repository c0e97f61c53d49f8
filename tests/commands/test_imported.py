"""Commands on an experiment that is an import: what was not recorded, and who cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.shell import Shell

from hcache.recorded.importing import import_files
from hcache.store import Store
from hcache.store.digest import content_digest

ROWS = [
    {"query": "q1", "arm": "weak", "score": 1, "cost": 0.5},
    {"query": "q1", "arm": "strong", "score": 0, "reply": "so 4", "input_tokens": 3,
     "output_tokens": 4},
    {"query": "q2", "arm": "weak", "score": 1},
]  # fmt: skip


@pytest.fixture
def shell(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    import_files("long", [table], tmp_path / "db.duckdb", name="mine", split="test")
    return Shell(tmp_path, capfd, monkeypatch)


def shown(shell: Shell, arm: str) -> str:
    sql = f"""select trajectory_id from outcomes join queries using (query_id)
              where sequence = '{arm}' and question = 'q1'"""
    with Store(shell.folder / "db.duckdb") as store:
        key = store.sql(sql).item()
    return " ".join(shell("show", key, "--db", "db.duckdb").split())


def test_show_says_what_was_not_recorded(shell: Shell) -> None:
    text = shown(shell, "weak")
    assert "1. weak: tokens not recorded, cost 0.5" in text
    assert "prompt: not recorded" in text and "reply: not recorded" in text
    assert "0 + 0" not in text and "user:" not in text


def test_show_says_what_was_recorded_beside_an_unknown_cost(shell: Shell) -> None:
    text = shown(shell, "strong")
    assert "1. strong: 3 + 4 tokens, cost not recorded, stop" in text
    assert "reply: so 4" in text and "prompt: not recorded" in text


@pytest.mark.parametrize(
    "more", [[], ["--set", 'arms.third={"model": "weak", "temperature": 1}']], ids=["", "third"]
)
def test_sampling_what_nobody_can_be_asked_is_refused_and_changes_nothing(
    shell: Shell, more: list[str]
) -> None:
    with Store(shell.folder / "db.duckdb") as store:
        before = content_digest(store), store.sql("from experiments").rows()
    message = shell("sample", "mine.yaml", *more, code=1)
    assert message.count("\n") == 1 and "no arm can be asked" in message
    assert "again" not in message.replace("scores it again", "")
    with Store(shell.folder / "db.duckdb") as store:
        assert (content_digest(store), store.sql("from experiments").rows()) == before
