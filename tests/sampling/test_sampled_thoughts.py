"""Thoughts in a sampling run: neither scored nor read, by the tags of whoever said them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.experiments import generated, load, settings, table, write_questions, write_script

from hcache.data.queries import Query
from hcache.errors import ConfigError, StoreError
from hcache.keys import digest
from hcache.replay.loading import load_replay
from hcache.sampling import Sampler
from hcache.store import Spool, Store
from hcache.workflows import Finished, Flow, advance
from hcache.workflows.effects import reply_of
from hcache.workflows.search import SearchSettings

FORMS = [
    ("<think>Lyon</think> Paris", 1),
    ("<THINK>Lyon</THINK> Paris", 1),
    ("<thinking>Lyon</thinking> Paris", 1),
    ("<thought>Lyon</thought> Paris", 1),
    ("<reasoning>Lyon</reasoning> Paris", 1),
    ("[THINK]Lyon[/THINK] Paris", 1),
    ("<seed:think>Lyon</seed:think> Paris", 1),
    ("◁think▷Lyon◁/think▷ Paris", 1),
    ("<|begin_of_thought|>Lyon<|end_of_thought|> Paris", 1),
    ("<|START_THINKING|>Lyon<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>", 1),
    ("<|channel|>analysis<|message|>Lyon<|end|><|start|>assistant"
     "<|channel|>final<|message|>Paris", 1),
    ("<think>Lyon", 0),
    ("[THINK]Paris", 0),
    ("Lyon</think>Paris", 1),
]  # fmt: skip


def write_replies(folder: Path, name: str, reply: str) -> None:
    write_script(folder, name, [["", reply.replace("\\", r"\\")]])
    for split in ("train", "valid", "test"):
        write_questions(folder, split, 1)
        (folder / f"{split}.jsonl").write_text(
            json.dumps({"question": f"The capital? {split}", "answer": "Paris"})
        )


def said_by(folder: Path, reply: str, workflow: str = "relay", **model: Any) -> dict[str, Any]:
    write_replies(folder, "m", reply)
    raw = settings("m", workflow={"name": workflow, "hops": 2})
    raw["models"]["m"] |= model
    return raw


def prompts(db: Path) -> list[str]:
    rows = table(db, "messages")["messages"]
    return [json.loads(row)[-1]["content"] for row in rows]


def outcomes(db: Path) -> pl.DataFrame:
    return table(db, "outcomes").filter(pl.col("split") == "test")


@pytest.mark.parametrize(("reply", "score"), FORMS)
def test_thought_is_neither_scored_nor_read(tmp_path: Path, reply: str, score: int) -> None:
    raw = said_by(tmp_path, reply)
    generated(tmp_path, raw)
    db = tmp_path / raw["db"]
    assert set(outcomes(db)["em"]) == {score}
    answer = "\n\nParis" if score else ""
    read = {f"The capital? {split}{end}" for split in ("train", "valid", "test")
            for end in ("", answer)}  # fmt: skip
    assert set(prompts(db)) == read
    assert set(table(db, "generations")["text"]) == {reply}


@pytest.mark.parametrize("workflow", ["relay", "cascade"])
@pytest.mark.parametrize(
    ("reply", "answer"), [("Lyon", ""), ("Lyon</think> Paris", "Paris"), ("<think>Lyon", "")]
)
def test_thought_that_the_prompt_opened(
    tmp_path: Path, workflow: str, reply: str, answer: str
) -> None:
    raw = said_by(tmp_path, reply, workflow)
    raw["arms"]["m"]["instruction"] = "Think. <think>\n"
    generated(tmp_path, raw)
    db = tmp_path / raw["db"]
    assert set(table(db, "generations")["thinking"]) == {True}
    assert set(outcomes(db)["answer"]) == {answer}
    assert not any("Lyon" in prompt for prompt in prompts(db))
    assert not any("Lyon" in text for text in table(db, "texts")["text"])


def test_search_finds_what_looks_like_a_thought() -> None:
    call = SearchSettings().ask(Query("What?", ("x",)), "tag")

    def flow() -> Flow:
        return (yield from reply_of(call))

    passage = "HTML has no <think> tag."
    assert advance(flow(), [], lambda ask: passage) == Finished(passage, (call,))


def test_other_tags_make_trajectories_anew_of_the_same_generations(tmp_path: Path) -> None:
    raw = said_by(tmp_path, "*thinks* Lyon *speaks* Paris")
    assert sum(generated(tmp_path, raw).values()) == 6
    first = load(tmp_path, raw)
    raw["models"]["m"]["reasoning_tags"] = [["*thinks*", "*speaks*"]]
    assert sum(generated(tmp_path, raw).values()) == 3  # the second hop reads something else
    second = load(tmp_path, raw)
    (old,), (new,) = first.pool, second.pool
    assert old.fingerprint == new.fingerprint and old.id != new.id
    assert set(outcomes(second.db)["em"]) == {1}
    with Store(first.db) as store, pytest.raises(StoreError, match=r"arms\.m differ"):
        load_replay(store, first.config, "train")


def test_known_tags_leave_the_arm_what_it_was(tmp_path: Path) -> None:
    raw = said_by(tmp_path, "Paris")
    (arm,) = load(tmp_path, raw).pool
    assert arm.id == digest([arm.fingerprint, "", "", "m"])[:12]


def test_a_tag_of_nothing_is_refused(tmp_path: Path) -> None:
    for pair in (["", "x"], ["x", " "], ["x", "X"]):
        raw = said_by(tmp_path, "Paris", reasoning_tags=[pair])
        with pytest.raises(ConfigError, match=r"reasoning_tags.*two different tags"):
            load(tmp_path, raw)


def test_white_space_of_a_reply_is_stored(tmp_path: Path) -> None:
    raw = said_by(tmp_path, "    if n < 2:\n        return n\n")
    for data in raw["data"].values():
        data["extract"] = "code"
    generated(tmp_path, raw)
    db = tmp_path / raw["db"]
    assert set(table(db, "generations")["text"]) == {"    if n < 2:\n        return n\n"}
    assert set(table(db, "outcomes")["answer"]) == {"    if n < 2:\n        return n"}
    assert any(prompt.endswith("\n\nif n < 2:\n        return n") for prompt in prompts(db))


def test_records_of_an_older_version_are_recovered(tmp_path: Path) -> None:
    raw = said_by(tmp_path, "Paris")
    experiment = load(tmp_path, raw)
    kept: list[dict[str, Any]] = []
    append = Spool.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "append", lambda self, records: kept.extend(records))
        Sampler(experiment).run()
    experiment.db.unlink()
    spool = Spool(experiment.db)
    new = ("thinking", "prompt_key")
    append(spool, [{k: v for k, v in record.items() if k not in new} for record in kept])
    spool.close()
    assert generated(tmp_path, raw) == {}
    assert set(table(experiment.db, "generations")["prompt_key"]) == {""}
