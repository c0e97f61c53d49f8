"""Tokens per second: bare vLLM, one process, and several workers, on one checkpoint.

    python -m benchmarks.fleet CHECKPOINT [--questions 200] [--tokens 64] [--rounds 2]

One hop of one arm at temperature 0 in float32, so that all prompts are known from the start. Bare
is a single `LLM.generate` with hcache's arguments of vLLM. Every way is run in a process of its
own, once with two questions and once with all: the difference is what the further tokens took,
without imports and the loading of models. CPU time is that of all processes. Prints a row of JSON
for each way and round, with the number of processes that ran or waited for a core (`load`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]
WORDS = ("river", "stone", "lamp", "green", "seven", "market", "winter", "paper", "salt", "music")


def write_experiment(folder: Path, checkpoint: Path, questions: int, tokens: int) -> Path:
    """One arm, one hop, and as many questions."""
    rows = [
        {
            "question": f"Write a story about {WORDS[n % 10]} and {WORDS[n // 10 % 10]}, part {n}.",
            "answer": "none",
        }
        for n in range(questions)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    raw = {
        "name": "fleet",
        "db": "fleet.duckdb",
        "workflow": {"name": "relay", "hops": 1},
        "models": {
            "m": {"path": str(checkpoint.resolve()), "dtype": "float32", "max_model_len": 512}
        },
        "arms": {"m": {"model": "m", "max_tokens": tokens}},
        "data": {"made": {"sources": {"train": {"path": "questions.jsonl"}}}},
    }
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(raw), encoding="utf-8")  # JSON is YAML
    return file


def sampled(file: Path, workers: int) -> int:
    """Tokens sampled with so many workers."""
    from hcache.engines.fleet import Fleet
    from hcache.experiment import Experiment
    from hcache.sampling import Sampler
    from hcache.sampling.placing import placement_of

    overrides = [f"sampling.workers={workers}"]
    experiment = Experiment.load(file, overrides, file.parent / "fleet.duckdb")
    placement = placement_of(experiment)
    fleet = None if placement is None else Fleet(placement, experiment.pool)
    return Sampler(experiment, fleet, workers=workers).run().output_tokens


def bare(file: Path) -> int:
    """Tokens of one call of `LLM.generate` with all prompts."""
    from hcache.engines.vllm import VllmEngine
    from hcache.experiment import Experiment
    from hcache.sampling.enumerator import Enumerator

    experiment = Experiment.load(file)
    enumerator = Enumerator(experiment.workflow, experiment.pool)
    engine = VllmEngine(experiment.pool[0], False)
    queries = experiment.queries()
    requests = [request for query in queries for request in enumerator.start(query, 1)]
    prompts = [{"prompt_token_ids": prompt.ids} for prompt in engine.render(requests)]
    from vllm import SamplingParams

    tokens = experiment.pool[0].config.max_tokens
    how = SamplingParams(temperature=0.0, max_tokens=tokens, detokenize=False)
    outputs = engine.llm.generate(prompts, how, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def measure(way: str, checkpoint: Path, questions: int, tokens: int) -> Row:
    """One way in this process: tokens, seconds of the wall and of processors."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = write_experiment(Path(folder), checkpoint, questions, tokens)
        made = bare(file) if way == "bare" else sampled(file, int(way))
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(use.ru_utime + use.ru_stime for use in uses)
    return {"tokens": made, "wall": time.monotonic() - began, "cpu": cpu}


def run(way: str, given: argparse.Namespace, questions: int) -> Row:
    """One way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fleet", str(given.checkpoint), "--way", way]
    command += ["--questions", str(questions), "--tokens", str(given.tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure every way in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=["bare", "1", "2"], help="bare, or workers")
    parser.add_argument("--way", help="only this one, in this process")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.checkpoint, given.questions, given.tokens)))
        return
    for _ in range(given.rounds):
        for way in given.ways:
            few, all_ = run(way, given, 2), run(way, given, given.questions)
            tokens, wall, cpu = (all_[name] - few[name] for name in ("tokens", "wall", "cpu"))
            row = {
                "way": way,
                "tokens": tokens,
                "wall": round(wall, 1),
                "cpu": round(cpu, 1),
                "tokens per second": round(tokens / wall, 1),
                "tokens per CPU second": round(tokens / cpu, 1),
                "load": round(os.getloadavg()[0], 1),
                "start": round(few["wall"], 1),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
