"""Small scripted experiments for tests: no model, a few questions, seconds at most.

The script of an arm says its name and repeats its whole prompt, so that all replies differ: a
tree of K arms and L hops then takes exactly K + K² + … + K^L generations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from hcache.config.schema import ArmConfig, ModelConfig
from hcache.engines import EngineFactory, Generation, Request, ScriptedEngine
from hcache.engines.scripted import read_script
from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.models.arms import Arm
from hcache.runs.folder import Run
from hcache.sampling import Sampler, Tally
from hcache.store import Store
from hcache.store.digest import content_digest

Raw = dict[str, Any]
SPLITS = {"train": 3, "valid": 1, "test": 1}  # questions of each split


def write_scripts(folder: Path, names: Iterable[str]) -> None:
    """A script for each name, and questions for three splits."""
    for name in names:
        write_script(folder, name, [["(?s)^(.*)$", rf"{name} \1"]])
    for split, count in SPLITS.items():
        write_questions(folder, split, count)


def write_script(folder: Path, name: str, rules: list[list[str]]) -> None:
    """A script of [pattern, reply] rules."""
    (folder / f"{name}.json").write_text(json.dumps(rules), encoding="utf-8")


def write_questions(folder: Path, split: str, count: int) -> None:
    """Questions of one word; the answers are such that qualities differ between sequences."""
    rows = [
        {
            "question": f"{split}{number}",
            "answer": ("a", "b a x", f"b {split}{number}")[number % 3],
            "kind": ("odd", "even")[number % 2],
        }
        for number in range(count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def per_1000(price: float) -> Raw:
    """A price for 1,000 tokens, read or written."""
    return {"input": price, "output": price, "per": 1000}


def settings(arms: Iterable[str], **sections: object) -> Raw:
    """The settings of an experiment whose arms are named like their scripts."""
    names = list(arms)
    raw: Raw = {
        "name": "small",
        "db": "small.duckdb",
        "workflow": {"name": "relay", "hops": 2},
        "models": {name: {"path": f"{name}.json", "engine": "scripted"} for name in names},
        "arms": {
            name: {"model": name, "price": per_1000(place + 1)} for place, name in enumerate(names)
        },
        "data": {"made": {"sources": {split: {"path": f"{split}.jsonl"} for split in SPLITS}}},
        "features": {"dim": 8},
    }
    return raw | sections


def load(folder: Path, raw: Raw, *overrides: str) -> Experiment:
    """The experiment of these settings; its database stands in the same folder."""
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(raw), encoding="utf-8")  # JSON is YAML
    return Experiment.load(file, overrides, folder / raw["db"])


def sample(
    folder: Path, raw: Raw, factory: EngineFactory | None = None, budget: int | None = None
) -> Tally:
    """One sampling run of these settings."""
    experiment = load(folder, raw)
    if factory is None:
        return Sampler(experiment, budget=budget).run()
    return Sampler(experiment, factory, budget=budget).run()


def generated(folder: Path, raw: Raw, **how: Any) -> dict[str, int]:
    """What one run generates, by arm."""
    return dict(sample(folder, raw, **how).generated)


def digest_of(db: Path) -> str:
    """The digest of all that a database holds."""
    with Store(db) as store:
        return content_digest(store).digest


def table(db: Path, name: str, order: str = "all") -> pl.DataFrame:
    """A table or view of the database."""
    with Store(db) as store:
        return store.sql(f"select * from {name} order by {order}")


FACTS = {
    "generations": "generation_id, fingerprint, messages_id, sample, text, token_ids, "
    "prompt_tokens, output_tokens, finish_reason",
    "messages": "*",
    "texts": "*",
    "states": "*",
    "trajectories": "*",
    "scores": "*",
}


def facts(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All that sampling finds, without when and by what, in an order of its own."""
    with Store(db) as store:
        return {
            name: sorted(store.sql(f"select {columns} from {name}").rows(), key=repr)
            for name, columns in FACTS.items()
        }


class FaultyEngine(ScriptedEngine):
    """Answers one request a step, and calls `fault` with how many it has answered before."""

    def __init__(self, arm: Arm, fault: Callable[[int], None]) -> None:
        super().__init__(read_script(arm.path), batch=1)
        self.fault = fault
        self.answered = 0

    def step(self) -> list[Generation]:
        """See `Engine`."""
        self.fault(self.answered)
        finished = super().step()
        self.answered += len(finished)
        return finished


def failing(names: Iterable[str], after: int, error: BaseException | None = None) -> EngineFactory:
    """Engines of which those of the named models fail once they have given `after` replies."""
    faulty = set(names)

    def fault(answered: int) -> None:
        if answered >= after:
            raise error or EngineError("the engine died.", "Start it again.")

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return FaultyEngine(arm, fault if arm.model in faulty else lambda answered: None)

    return factory


@contextmanager
def held(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a run, killed when the block ends if not before."""
    code = (
        "import sys, time; from pathlib import Path; from hcache.runs.folder import Run\n"
        "with Run(Path(sys.argv[1])).lock():\n    print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def plain_arm(name: str, *, fingerprint: str = "", **config: Any) -> Arm:
    """An arm without files, for tests that run no sampler."""
    model = ModelConfig(path=name, engine="scripted")
    arm = ArmConfig(model=name, **config)
    return Arm(name, name, Path(name), fingerprint or f"print of {name}", model, arm)


def prompt_of(request: Request) -> str:
    """All that a request says, in one text."""
    return "\n".join(message.content for message in request.messages)
