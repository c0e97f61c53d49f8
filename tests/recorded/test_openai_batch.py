"""Batches of OpenAI's API on hand-made files after its documentation: requests, results, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hcache.checking import check_database
from hcache.errors import HcacheError
from hcache.recorded.importing import Imported, import_files
from hcache.store import Store

ANSWERS = {"2 + 2?": "4", "2 + 3?": "5"}


def asked(key: str, model: str, question: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0.5, **more}
    return {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}


def replied(key: str, model: str, text: str | None, end: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": end,
              "logprobs": {"content": [{"token": "x", "logprob": -0.5}]}}  # fmt: skip
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"model": model, "choices": [choice], "usage": usage}
    return {"id": "batch_req_1", "custom_id": key, "error": None,
            "response": {"status_code": 200, "request_id": "r", "body": body}}  # fmt: skip


def failed(key: str) -> dict[str, Any]:
    said = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"id": "batch_req_2", "custom_id": key, "response": None, "error": said}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def batch(folder: Path, model: str, texts: list[str | None]) -> None:
    """Requests of a model and what came back; None is an error, in a file of its own."""
    keys = [f"q{n}" for n in range(len(texts))]
    lines(folder / "in.jsonl", [asked(k, model, q) for k, q in zip(keys, ANSWERS, strict=True)])
    said = dict(zip(keys, texts, strict=True))
    good = [replied(key, f"{model}-2025", text) for key, text in said.items() if text is not None]
    lines(folder / "out.jsonl", good)
    bad = [failed(key) for key, text in said.items() if text is None]
    lines(folder / "errors.jsonl", bad)
    if not bad:
        (folder / "errors.jsonl").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    batch(tmp_path / "in" / "weak", "weak", ["4", "It is 6."])
    batch(tmp_path / "in" / "strong", "strong", ["4", None])
    rows = [{"query": question, "reference": answer} for question, answer in ANSWERS.items()]
    lines(tmp_path / "references.jsonl", rows)
    return tmp_path


def bring(folder: Path, **options: str) -> Imported:
    given = {"references": str(folder / "references.jsonl"), "metric": "numeric"}
    given |= {"extract": "number", **options}
    how: dict[str, Any] = {"split": "test", "name": "mine", "options": given}
    return import_files("openai_batch", [folder / "in"], folder / "db.duckdb", **how)


def test_batches_of_several_models_become_a_tree(folder: Path) -> None:
    told = bring(folder)
    assert told.arms == ("strong", "weak") and told.splits == {"test": 2} and told.outcomes == 3
    assert told.failures == {"strong": 1} and told.holes == {"strong": 1}
    assert told.recomputed == {"numeric": (3, 0)}
    assert "weak was asked, weak-2025 has replied" in told.notes
    sql = """select question, sequence, recorded, prompt_tokens, output_tokens
             from outcomes join queries using (query_id) order by all"""
    with Store(folder / "db.duckdb") as store:
        found = store.sql(sql).rows()
    assert found == [
        ("2 + 2?", "strong", 1, 7, 3), ("2 + 2?", "weak", 1, 7, 3), ("2 + 3?", "weak", 0, 7, 3),
    ]  # fmt: skip
    assert not check_database(folder / "db.duckdb").faults


def test_several_calls_of_a_model_are_samples(folder: Path) -> None:
    for name, text in (("again", "5"), ("third", "4")):
        place = folder / "in" / name
        lines(place / "in.jsonl", [asked(name, "weak", q, seed=len(name + q)) for q in ["2 + 2?"]])
        lines(place / "out.jsonl", [replied(name, "weak", text)])
    bring(folder)
    with Store(folder / "db.duckdb") as store:
        found = store.sql("""select replica, recorded from outcomes join queries using (query_id)
            where sequence = 'weak' and question = '2 + 2?' order by all""").rows()
    assert found == [(0, 0), (1, 1), (2, 1)] or found == [(0, 1), (1, 0), (2, 1)]


def test_what_failed_and_was_sent_again_counts_once(folder: Path) -> None:
    lines(folder / "in" / "later" / "in.jsonl", [asked("q1", "strong", "2 + 3?")])
    lines(folder / "in" / "later" / "out.jsonl", [replied("q1", "strong-2025", "5")])
    told = bring(folder)
    assert not told.failures and told.outcomes == 4


@pytest.mark.parametrize("end", ["content_filter", "tool_calls"])
def test_what_is_no_reply_is_a_failure(folder: Path, end: str) -> None:
    out = folder / "in" / "weak" / "out.jsonl"
    text = None if end == "tool_calls" else "cut"
    lines(out, [replied("q0", "weak", "4"), replied("q1", "weak", text, end)])
    assert bring(folder).failures == {"strong": 1, "weak": 1}


def test_question_is_what_the_user_said_in_whatever_form(folder: Path) -> None:
    parts = [{"type": "text", "text": "2 + 2?"}]
    lines(folder / "in" / "parts" / "in.jsonl", [asked("p", "third", parts)])
    lines(folder / "in" / "parts" / "out.jsonl", [replied("p", "third", "4")])
    assert bring(folder).splits == {"test": 2}


def test_answers_by_id(folder: Path) -> None:
    table = folder / "references.csv"
    table.write_text("custom_id,reference\nq0,4\nq1,5\n", encoding="utf-8")
    assert bring(folder, references=str(table)).outcomes == 3


def no_requests(folder: Path) -> None:
    (folder / "in" / "weak" / "in.jsonl").unlink()
    (folder / "in" / "strong" / "in.jsonl").unlink()


def unknown_id(folder: Path) -> None:
    lines(folder / "in" / "weak" / "out.jsonl", [replied("other", "weak", "4")])


def one_folder(folder: Path) -> None:
    for file in (folder / "in" / "weak").iterdir():
        file.rename(folder / "in" / "strong" / f"weak-{file.name}")


def other_settings(folder: Path) -> None:
    lines(folder / "in" / "x" / "in.jsonl", [asked("x", "weak", "2 + 2?", temperature=1)])
    lines(folder / "in" / "x" / "out.jsonl", [replied("x", "weak", "4")])


def two_replies(folder: Path) -> None:
    lines(folder / "in" / "weak" / "more.jsonl", [replied("q0", "weak-2025", "another")])


def no_answer(folder: Path) -> None:
    lines(folder / "references.jsonl", [{"query": "2 + 2?", "reference": "4"}])


def two_answers(folder: Path) -> None:
    rows = [{"query": "2 + 2?", "reference": answer} for answer in "45"]
    lines(folder / "references.jsonl", rows)


def no_number(folder: Path) -> None:
    rows = [{"query": question, "reference": "four"} for question in ANSWERS]
    lines(folder / "references.jsonl", rows)


def no_chat(folder: Path) -> None:
    lines(folder / "in" / "weak" / "in.jsonl", [{"custom_id": "q0", "body": {"input": "x"}}])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_requests, "errors.jsonl:1: no request has custom_id 'q1'"),
        (unknown_id, r"out.jsonl:1: no request has custom_id 'other'"),
        (one_folder, r"jsonl:1: custom_id 'q.' is that of several requests.*folder of its own"),
        (other_settings, r"in.jsonl:1: asks weak the question of .* with other settings"),
        (two_replies, r"out.jsonl:1: holds another reply than .*more.jsonl:1"),
        (no_answer, r"errors.jsonl, row 1: .*references.jsonl has no answer to it"),
        (two_answers, r"references.jsonl, row 1: query '2 \+ 2\?' has another answer"),
        (no_number, r"row 1: metric 'numeric' needs .* as reference"),
        (no_chat, r"in.jsonl:1: asks no model with messages"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)
    with pytest.raises(HcacheError, match=said) as caught:
        bring(folder)
    assert "\n" not in str(caught.value) and not (folder / "db.duckdb").exists()


@pytest.mark.parametrize("missing", ["references", "metric"])
def test_without_answers_it_is_said_what_to_give(folder: Path, missing: str) -> None:
    with pytest.raises(HcacheError, match=r"hold no scores.*-o references=FILE -o metric=f1"):
        bring(folder, **{missing: ""})
