"""What real checkpoints say is stored as it was said, and thoughts are told from answers."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from helpers.experiments import load, table
from helpers.joint import CPU
from helpers.speaking import END, write_speaker

from hcache.engines import Engine, make_engine
from hcache.experiment import Experiment
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.engine import LowRankEngine
from hcache.models.arms import Arm
from hcache.sampling import Sampler

THINK = ("<think>", "</think>")
BODY = ("    if n < 2:\n", "        return n\n", "    return f(n - 1)\n")
SAID: dict[str, dict[str, Any]] = {
    "special": {"said": ("<think>", "Lyon", "</think>", "Paris"), "special": THINK},
    "plain": {"said": ("<think>", "Lyon", "</think>", "Paris")},
    "open": {"said": ("Lyon", "</think>", " Paris"), "opening": "<think>\n"},
    "opened": {"said": ("Lyon", "</think>", " Paris"), "special": THINK, "opening": "<think>"},
    "indented": {"said": BODY},
    "marked": {"said": ("Paris", "<|mark|>", " and Rome"), "special": ("<|mark|>",)},
    "padded": {"said": ("Paris", "<|pad|>")},
}
ARMS: dict[str, dict[str, Any]] = {
    **{name: {"model": name} for name in SAID},
    "cut": {"model": "open", "max_tokens": 1},
    "cut_opened": {"model": "opened", "max_tokens": 1},
    "stopped": {"model": "special", "stop": ["aris"]},
    "unstopped": {"model": "special", "stop": ["never"]},
    "stopped_at_special": {"model": "marked", "stop": ["<|mark|>"]},
}
TEXTS = {
    "special": "<think>Lyon</think>Paris",
    "plain": "<think>Lyon</think>Paris",
    "open": "Lyon</think> Paris",
    "opened": "Lyon</think> Paris",
    "indented": "".join(BODY),
    "marked": "Paris<|mark|> and Rome",
    "padded": "Paris",
    "cut": "Lyon",
    "cut_opened": "Lyon",
    "stopped": "<think>Lyon</think>P",
    "unstopped": "<think>Lyon</think>Paris",
    "stopped_at_special": "Paris",
}
OUTPUTS = TEXTS | {
    "special": "Paris", "plain": "Paris", "open": " Paris", "opened": " Paris", "cut": "",
    "cut_opened": "", "stopped": "P", "unstopped": "Paris",
}  # fmt: skip
THINKING = {"open", "opened", "cut", "cut_opened"}


def serve(arm: Arm, logprobs: bool) -> Engine:
    """The engine of joint training, in which a checkpoint is quick to load."""
    return LowRankEngine(Checkpoint(arm, CPU))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((serve, tuple(SAID)), id="transformers"),
        pytest.param(
            (make_engine, ("special", "open", "indented", "marked")),
            id="vllm",
            marks=[
                pytest.mark.vllm,
                pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
            ],
        ),
    ],
)
def sampled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two hops of all that some checkpoints say to a question and a function, by an engine."""
    factory, names = request.param
    folder = tmp_path_factory.mktemp("speaking")
    for name in names:
        write_speaker(folder / name, **SAID[name])
    (folder / "rows.jsonl").write_text(json.dumps({"question": "Which?", "answer": "Paris"}))
    row = {"prompt": "def f(n):\n", "canonical_solution": "".join(BODY)}
    (folder / "body.jsonl").write_text(json.dumps(row))
    raw = {
        "name": "speaking",
        "db": "speaking.duckdb",
        "workflow": {"name": "relay", "hops": 2},
        "models": {
            name: {"path": str(folder / name), "dtype": "float32", "max_model_len": 256}
            for name in names
        },
        "arms": {
            name: {"max_tokens": 32, "temperature": 1, **arm}
            for name, arm in ARMS.items()
            if arm["model"] in names
        },
        "data": {
            "rows": {"sources": {"train": {"path": "rows.jsonl"}}},
            "body": {
                "reader": "humaneval",
                "extract": "code",
                "sources": {"train": {"path": "body.jsonl"}},
            },
        },
    }
    experiment = load(folder, raw)
    Sampler(experiment, factory).run()
    return experiment


def said(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The generations of the first hop of the question, by arm."""
    sql = """(select a.name, g.*, m.messages from generations g join messages m using (messages_id)
              join arms a using (fingerprint) where m.messages like '%"Which?"%')"""
    return {row["name"]: row for row in table(experiment.db, sql).to_dicts()}


def only(texts: dict[str, str], experiment: Experiment) -> dict[str, str]:
    """Those of the arms of an experiment."""
    return {arm.name: texts[arm.name] for arm in experiment.pool}


def outcomes(experiment: Experiment, dataset: str) -> dict[str, dict[str, Any]]:
    sql = f"""(select o.*, t.output from outcomes o join trajectories t using (trajectory_id)
               where o.dataset = '{dataset}')"""
    return {row["sequence"]: row for row in table(experiment.db, sql).to_dicts()}


def test_text_is_stored_as_it_was_said(sampled: Experiment) -> None:
    rows = said(sampled)
    assert {name: row["text"] for name, row in rows.items()} == only(TEXTS, sampled)
    assert {name for name, row in rows.items() if row["thinking"]} == THINKING & rows.keys()
    assert not any(END in row["text"] for row in rows.values())


def test_answer_is_what_was_said_behind_the_thought(sampled: Experiment) -> None:
    found = outcomes(sampled, "rows")
    wanted = only(OUTPUTS, sampled)
    assert {name: found[name]["output"] for name in wanted} == wanted
    right = {"special", "plain", "open", "opened", "padded", "unstopped", "stopped_at_special"}
    assert {name for name in wanted if found[name]["em"] == 1} == right & wanted.keys()
    assert found["cut"]["f1"] == 0


def test_next_hop_reads_no_thought_and_no_white_space(sampled: Experiment) -> None:
    prompts = [json.loads(row)[-1]["content"] for row in table(sampled.db, "messages")["messages"]]
    read = {prompt for prompt in prompts if prompt.startswith("Which?")}
    answers = {text.strip() for text in only(OUTPUTS, sampled).values()}
    assert read == {"Which?", *(f"Which?\n\n{text}" for text in answers if text)}


def test_indentation_of_the_first_line_is_kept(sampled: Experiment) -> None:
    assert outcomes(sampled, "body")["indented"]["answer"] == "".join(BODY).rstrip()


def test_key_of_the_prompt_can_be_found_from_the_tokenizer_alone(sampled: Experiment) -> None:
    from hcache.engines.base import render
    from hcache.engines.rendering import tokenizer_of
    from hcache.workflows import Message

    models = {arm.name: arm.model_config for arm in sampled.pool}
    for name, row in said(sampled).items():
        messages = [Message(**message) for message in json.loads(row["messages"])]
        [prompt] = render(tokenizer_of(models[name]), [messages], models[name])
        assert (prompt.key, len(prompt.ids)) == (row["prompt_key"], row["prompt_tokens"])
        other = models[name].model_copy(update={"chat_template": __file__})
        [changed] = render(tokenizer_of(other), [messages], other)
        assert changed.key != row["prompt_key"]
