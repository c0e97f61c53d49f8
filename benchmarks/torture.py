"""Sampling killed at random moments, resumed, and compared with a run that nothing disturbed.

    python benchmarks/torture.py 100         # so many SIGKILLs; --seed N, --queries N

Three scripted arms over two hops. A sampler is killed, and another goes on with its files, until
one comes to its end; then the database must have the digest of one that nothing disturbed. So on,
with a new database each time, until there were as many kills as asked for. Commits follow each
other fast, so that many kills fall into one. Exit code 1 at the first fault.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hcache
from hcache.sampling import sampler
from hcache.store.digest import content_digest

# Nothing here but a child process works with DuckDB or polars, whose threads a fork would lose.
CHILDREN = multiprocessing.get_context("fork")
COMMIT_SECONDS = 0.05
ARMS = "abc"


def main() -> None:
    """Kill as often as told, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=200)
    told = parser.parse_args()
    sampler.COMMIT_SECONDS = COMMIT_SECONDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = write_experiment(folder, told.queries)
        began = time.monotonic()
        wanted = finished(folder / "undisturbed", experiment)
        span = time.monotonic() - began
        kills, databases = torture(folder, experiment, wanted, told.kills, span, told.seed)
    print(f"{kills} kills of sampling, {databases} databases made: all equal to an undisturbed run")


def write_experiment(folder: Path, queries: int) -> Path:
    """An experiment whose replies differ by arm, hop and question."""
    for arm in ARMS:
        rules = [["(\\w+\\d+)[^\\0]*said", f"{arm} again \\1"], ["(\\w+\\d+)", f"{arm} on \\1"]]
        (folder / f"{arm}.json").write_text(json.dumps(rules), encoding="utf-8")
    shares = {"train": queries // 2, "valid": queries // 4, "test": queries // 4}
    for split, count in shares.items():
        rows = [{"question": f"{split}{i}", "answer": f"{ARMS[i % 3]} on"} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    settings = {
        "name": "torture",
        "db": "torture.duckdb",
        "workflow": {"name": "relay", "hops": 2},
        "models": {arm: {"path": f"{arm}.json", "engine": "scripted"} for arm in ARMS},
        "arms": {arm: {"model": arm, "price": place} for place, arm in enumerate(ARMS, 1)},
        "data": {"made": {"sources": {split: {"path": f"{split}.jsonl"} for split in shares}}},
        "features": {"dim": 8},
    }
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return file


def torture(
    folder: Path, experiment: Path, wanted: str, kills: int, span: float, seed: int
) -> tuple[int, int]:
    """Kill samplers at moments drawn from `span` seconds; numbers of kills and of databases."""
    rng, done, databases = random.Random(seed), 0, 0
    while done < kills:
        place = folder / f"database-{databases}"
        while done < kills and killed(place, experiment, rng.uniform(0, span)):
            done += 1
        if finished(place, experiment) != wanted:
            sys.exit(f"seed {seed}: after {done} kills, database {databases + 1} differs")
        shutil.rmtree(place)
        databases += 1
    return done, databases


def killed(place: Path, experiment: Path, seconds: float) -> bool:
    """Sample for so long and no longer; whether there was more to do."""
    child = CHILDREN.Process(target=_sample, args=(place, experiment))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    if child.exitcode not in (0, -9):
        sys.exit(f"a sampler did not go on from what another had left (exit {child.exitcode})")
    return child.exitcode != 0


def finished(place: Path, experiment: Path) -> str:
    """Sample to the end; the digest of the database."""
    return _asked(_digest, place, experiment)


def _asked(work: Callable[[Path, Path], str], place: Path, experiment: Path) -> str:
    """The result of work that another process does."""
    near, far = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=lambda: far.send(work(place, experiment)))
    child.start()
    far.close()
    try:
        found: str = near.recv()
    except EOFError:
        sys.exit("a sampler could not come to its end")
    child.join()
    return found


def _sample(place: Path, experiment: Path) -> hcache.Experiment:
    loaded = hcache.Experiment.load(experiment, (), place / "torture.duckdb")
    hcache.Sampler(loaded).run()
    return loaded


def _digest(place: Path, experiment: Path) -> str:
    with hcache.Store(_sample(place, experiment).db) as store:
        return content_digest(store).digest


if __name__ == "__main__":
    main()
