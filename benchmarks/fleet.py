"""Tokens per second: bare vLLM, one process, workers, Ray, and servers of vLLM, side by side.

    python -m benchmarks.fleet CHECKPOINT [--questions 200] [--tokens 64] [--rounds 2]
    python -m benchmarks.fleet data/demo/experiment.yaml

Of a checkpoint, one hop of one arm at temperature 0 in float32; of an experiment, all that it has.
Bare is one call of `LLM.generate` for each model, with hcache's arguments of vLLM and all prompts
known: those that one process has asked before, which therefore comes first. Every way is run in a
process of its own, once with two questions and once with all: the difference is what the further
tokens took, without imports and the loading of models. CPU time is that of the whole machine, which
has to be quiet. Prints a row of JSON for each way and round, with the number of processes that ran
or waited for a core (`load`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ASKED = "select fingerprint, messages from generations join messages using (messages_id)"
WAYS = ("1", "bare", "2", "ray", "server")
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


def sampled(file: Path, overrides: list[str], db: Path) -> int:
    """Tokens that `hcache sample` makes."""
    from hcache.experiment import Experiment
    from hcache.sampling import Sampler
    from hcache.sampling.placing import serving

    experiment = Experiment.load(file, overrides, db)
    served = serving(experiment)
    sampler = Sampler(experiment, served.factory, workers=served.workers, swap=served.swap)
    return sampler.run().output_tokens


def bare(file: Path, overrides: list[str], db: Path) -> int:
    """Tokens of one call of `LLM.generate` for each model, with the prompts of a database."""
    from vllm import SamplingParams

    from hcache.engines.base import Request
    from hcache.engines.vllm import VllmEngine
    from hcache.experiment import Experiment
    from hcache.store import Store
    from hcache.workflows import Message

    experiment = Experiment.load(file, overrides, db)
    with Store(db) as store:
        asked = store.sql(
            "select fingerprint, messages from generations join messages using (messages_id)"
        )
    tokens = 0
    for arm in experiment.pool:
        engine = VllmEngine(arm, False)
        requests = [
            Request("", arm, tuple(Message(**each) for each in json.loads(messages)), "", 0)
            for fingerprint, messages in asked.iter_rows()
            if fingerprint == arm.fingerprint
        ]
        prompts = [{"prompt_token_ids": prompt.ids} for prompt in engine.render(requests)]
        how = SamplingParams(temperature=0.0, max_tokens=arm.config.max_tokens, detokenize=False)
        outputs = engine.llm.generate(prompts, how, use_tqdm=False)
        tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        engine.close()
    return tokens


@contextmanager
def servers(file: Path) -> Iterator[list[str]]:
    """A server of vLLM for each model of an experiment; the settings that ask them."""
    from hcache.experiment import Experiment

    with ExitStack() as stack:
        overrides = []
        for port, (name, arm) in enumerate(_models(Experiment.load(file)).items(), 18000):
            stack.enter_context(_server(arm, name, port))
            served = {
                "path": name,  # which identifies it; two models of one name were one arm
                "engine": "openai",
                "max_model_len": arm.model_config.max_model_len,
                "engine_args": {"return_token_ids": True, "skip_special_tokens": False},
                "server": {"endpoints": [f"http://127.0.0.1:{port}/v1"], "concurrency": 128},
            }
            overrides.append(f"models.{name}={json.dumps(served)}")
        yield overrides


def _models(experiment: Any) -> dict[str, Any]:
    return {arm.model: arm for arm in experiment.pool}


@contextmanager
def _server(arm: Any, name: str, port: int) -> Iterator[None]:
    from hcache.engines.vllm import CPU_ONLY, QUIET

    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(arm.path),
        "--served-model-name", name, "--dtype", arm.model_config.dtype, "--enforce-eager",
        "--max-model-len", str(arm.model_config.max_model_len), "--block-size", "32",
        "--max-num-seqs", "128", "--host", "127.0.0.1", "--port", str(port),
        "--generation-config", "vllm",
    ]  # fmt: skip
    environment = os.environ | QUIET | CPU_ONLY | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def measure(way: str, given: argparse.Namespace, questions: int) -> Row:
    """One way in this process: tokens, seconds of the wall and of all processors."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file, overrides = Path(given.what), []
        if file.is_dir():
            file = write_experiment(Path(folder), file, questions, given.tokens)
        elif questions < given.questions:
            overrides = [f"data.{part}.limit={questions}" for part in _sources(file)]
        db = Path(given.db or folder) / f"{way}-{questions}.duckdb"
        known = db.with_name(f"1-{questions}.duckdb")
        if way == "server":
            overrides += stack.enter_context(servers(file))
        began, busy = time.monotonic(), _busy()
        if way == "bare":
            made = bare(file, overrides, known)
        elif way == "server":
            made = sampled(file, overrides, db)
        else:
            made = sampled(file, [*overrides, f"sampling.workers={way}"], db)
        return {"tokens": made, "wall": time.monotonic() - began, "cpu": _busy() - busy}


def _sources(file: Path) -> list[str]:
    from hcache.experiment import Experiment

    data = Experiment.load(file).config.data
    return [f"{name}.sources.{split}" for name, part in data.items() for split in part.sources]


def _busy() -> float:
    """Seconds that all processors have worked: user, nice and system."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(map(int, fields[1:4])) / os.sysconf("SC_CLK_TCK")


def run(way: str, given: argparse.Namespace, questions: int, db: str) -> Row:
    """One way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fleet", given.what, "--way", way, "--db", db]
    command += ["--questions", str(given.questions), "--tokens", str(given.tokens)]
    command += ["--first", str(questions)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure every way in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", help="folder of a checkpoint, or file of an experiment")
    parser.add_argument("--questions", type=int, default=200, help="of a checkpoint")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--way", help="only this one, in this process")
    parser.add_argument("--first", type=int, help="with so many questions")
    parser.add_argument("--db", help="folder of databases that are kept")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given, given.first)))
        return
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as db:
            for way in given.ways:
                print(json.dumps(compared(way, given, db)), flush=True)


def compared(way: str, given: argparse.Namespace, db: str) -> Row:
    """What the tokens beyond those of two questions take."""
    few, all_ = run(way, given, 2, db), run(way, given, given.questions, db)
    tokens, wall, cpu = (all_[name] - few[name] for name in ("tokens", "wall", "cpu"))
    return {
        "way": way,
        "tokens": tokens,
        "wall": round(wall, 1),
        "cpu": round(cpu, 1),
        "tokens per second": round(tokens / wall, 1),
        "tokens per CPU second": round(tokens / cpu, 1),
        "load": round(os.getloadavg()[0], 1),
        "start": round(few["wall"], 1),
    }


if __name__ == "__main__":
    main()
