"""Small checkpoints, dialogues and slow twins of joint training."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from hcache.engines import Engine, make_engine
from hcache.experiment import Experiment
from hcache.joint.checkpoint import Checkpoint, Checkpoints
from hcache.joint.engine import LowRankEngine
from hcache.joint.generator import LowRank
from hcache.joint.policy import JointPolicy
from hcache.joint.scoring import Tokens
from hcache.models.arms import Arm
from hcache.policies import load_policy
from hcache.replay.features import make_encoder
from hcache.runs.folder import Run
from hcache.runs.training import train, with_train
from hcache.store import Store
from hcache.workflows import Message
from helpers.experiments import load, per_1000
from helpers.paths import ROOT

ROLES = ROOT / "data" / "roles"


transformers: Any = pytest.importorskip("transformers")
sys.path.insert(0, str(ROLES))
train_people: Any = importlib.import_module("train_people")


CPU = torch.device("cpu")


def write_checkpoint(folder: Path, seed: int, heads: int = 2, head_dim: int = 24) -> None:
    """A Llama whose o_proj is not square: head_dim·heads in, 32 out."""
    torch.manual_seed(seed)
    tokenizer = train_people.build_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=heads, head_dim=head_dim, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def raw(folder: Path, **sampling: Any) -> dict[str, Any]:
    model = {"dtype": "float32", "max_model_len": 48}
    arm = {"max_tokens": 5, "temperature": 1}
    return {
        "name": "roles",
        "db": "roles.duckdb",
        "workflow": {"name": "relay", "hops": 2, "reply": "look up {reply}"},
        "models": {name: {"path": str(folder / name), **model} for name in ("one", "two")},
        "arms": {"a": {"model": "one", **arm}, "b": {"model": "two", **arm}},
        "data": {"made": {"sources": {
            split: {"path": str(ROLES / "questions" / f"{split}.jsonl"), "limit": 3}
            for split in ("train", "valid", "test")
        }}},
        "sampling": {"replicas": 2, "logprobs": True} | sampling,
        "features": {"dim": 16},
    }  # fmt: skip


def serve(arm: Arm, logprobs: bool) -> Engine:
    """Models without vLLM, which is slow to load; the search tool as ever."""
    if arm.model_config.engine == "vllm":
        return LowRankEngine(Checkpoint(arm, CPU))
    return make_engine(arm, logprobs)


def random_low(checkpoint: Checkpoint, batch: int, seed: int = 0) -> LowRank:
    out, into = checkpoint.shape
    generator = torch.Generator().manual_seed(seed)
    a_BOR = torch.randn(batch, out, 2, generator=generator)
    return LowRank(a_BOR, torch.randn(batch, 2, into, generator=generator), 0.3)


def merged(checkpoint: Checkpoint, low: LowRank, row: int, layers: int) -> Any:
    """The model with one sample's ΔW in its weights, as it would be without any hook."""
    model = copy.deepcopy(checkpoint.model)
    for layer in model.base_model.layers[-layers:]:
        layer.self_attn.o_proj.weight.data += low.scale * low.a_BOR[row] @ low.b_BRI[row]
    return model


def slow_logprob(model: Any, tokens: Tokens) -> torch.Tensor:
    """Σ log π of one call, alone and unpadded."""
    ids = torch.tensor([[*tokens.prompt, *tokens.output]])
    logprob_TV = model(input_ids=ids).logits[0].log_softmax(dim=1)
    places = range(len(tokens.prompt) - 1, len(tokens) - 1)
    return sum(
        (logprob_TV[place, token] for place, token in zip(places, tokens.output, strict=True)),
        torch.zeros(()),
    )


LARGE = {"init": "xavier", "lora_scale": 1.0, "rank": 3, "generator_hidden": 16, "hidden": 8,
         "adapted_layers": 2}  # fmt: skip


"""Settings of a ΔW that is far from 0 from the start."""


def write_experiment(folder: Path, head_dim: int = 24, **sections: Any) -> Experiment:
    """Untrained models of which two arms share one; any word may be right, some oftener."""
    write_checkpoint(folder / "one", 1, head_dim=head_dim)
    write_checkpoint(folder / "two", 2, heads=4, head_dim=head_dim)
    words = sorted(train_people.build_tokenizer().get_vocab())
    for split in ("train", "valid", "test"):
        lines = (ROLES / "questions" / f"{split}.jsonl").read_text().splitlines()[:3]
        rows = [
            json.loads(line) | {"answer": " ".join(words[place::3])}
            for place, line in enumerate(lines)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    settings = raw(folder) | {"runs": str(folder / "runs"), "evaluate": {"resamples": 100}}
    arm = settings["arms"]["a"]
    prices = {"a": ("one", 1), "b": ("two", 2), "c": ("one", 3)}
    settings["arms"] = {
        name: arm | {"model": model, "price": per_1000(price)}
        for name, (model, price) in prices.items()
    }
    sources = {split: {"path": f"{split}.jsonl"} for split in ("train", "valid", "test")}
    settings["data"] = {"made": {"sources": sources}}
    settings["train"] = {
        "algo": "joint", "iterations": 2, "evaluate_every": 1, "settings": LARGE,
    }  # fmt: skip
    return load(folder, settings | sections)


def trained(
    experiment: Experiment, db: Path | None = None, init: Path | None = None, **how: Any
) -> Run:
    sampled = Experiment(experiment.config, experiment.source, db or experiment.db)
    settings = experiment.config.train.model_copy(update=how)
    return train(with_train(sampled, settings), init=init)


def policy_of(run: Run) -> JointPolicy:
    policy = load_policy(run.policy_folder)
    assert isinstance(policy, JointPolicy)
    return policy


class Slow:
    """What a reply's log-probability should be, one at a time and with merged weights."""

    def __init__(self, experiment: Experiment, policy: JointPolicy) -> None:
        self.experiment, self.policy = experiment, policy
        self.checkpoints = Checkpoints(experiment.pool, CPU)
        self.models = lru_cache(self._models)

    def _models(self, arm: str, question: str) -> tuple[Checkpoint, Any]:
        """The checkpoint of an arm, and its model with the ΔW of a question."""
        place = self.policy.arms.index(arm)
        features = make_encoder(self.experiment.config.features).encode([(question,)])
        low = self.policy.delta(place, torch.from_numpy(features).float())
        checkpoint = self.checkpoints.by_arm[place]
        layers = self.policy.low.settings.adapted_layers
        return checkpoint, merged(checkpoint, low, 0, layers)

    @torch.no_grad()
    def logprob(
        self, arm: str, question: str, messages: Sequence[Message], ids: Sequence[int]
    ) -> float:
        checkpoint, model = self.models(arm, question)
        return float(slow_logprob(model, Tokens(tuple(checkpoint.render(messages)), tuple(ids))))

    @torch.no_grad()
    def plain(self, arm: str, messages: Sequence[Message], ids: Sequence[int]) -> float:
        checkpoint = self.checkpoints.by_arm[self.policy.arms.index(arm)]
        tokens = Tokens(tuple(checkpoint.render(messages)), tuple(ids))
        return float(slow_logprob(checkpoint.model, tokens))


CALLS = """
select distinct a.name as arm, q.question, m.messages, g.token_ids, g.logprobs
from (select query_id, unnest(asks) as ask from trajectories) t
join splits s using (query_id) join queries q using (query_id)
join arms a on a.arm_id = t.ask.arm
join generations g on g.generation_id = t.ask.generation join messages m using (messages_id)
where s.split = $1
"""


def calls(db: Path, split: str) -> list[dict[str, Any]]:
    """All that was said on the questions of a split."""
    with Store(db) as store:
        rows = store.sql(CALLS, [split]).to_dicts()
    for row in rows:
        row["messages"] = tuple(Message(**message) for message in json.loads(row["messages"]))
    return rows


SHORT = {
    "student": "act|{question}|{summary}|{advice}",
    "last": "last|{question}|{summary}|{advice}",
    "student_summary": "note|{question}|{summary}|{advice}|{step}|{found}",
    "teacher": "advise|{question}|{summary}|{advice}|{step}|{found}",
    "teacher_summary": "watch|{question}|{summary}|{advice}|{step}|{found}|{comment}",
    "no_action": "no action",
    "nothing": "-",
}
