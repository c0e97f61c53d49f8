"""How processor time and peak memory of each command grow with the number of queries.

    python benchmarks/growth.py                      # 10³, 10⁴ and 10⁵ queries
    python benchmarks/growth.py 1000 1000000         # these numbers; --out FOLDER, --work FOLDER

Two scripted arms, one hop: two generations and two trajectories of each query, half of the queries
to train on, a quarter each to validate and to test. Each step is a process of its own, the command
that a user types; its processor time (user and system, all threads) and its largest resident set
are those that the kernel counts. The exponent is the slope between the two largest numbers of
queries in logarithms: 1 is linear. Figures go to `growth.json`, `growth.md` and `growth.svg`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ARMS = "ab"
SHARES = {"train": 2, "valid": 4, "test": 4}  # a split is one of so many parts
LOAD = """
import sys, hcache
experiment = hcache.Experiment.load("experiment.yaml")
with hcache.Store(experiment.db) as store:
    for split in ("train", "valid", "test"):
        hcache.load_replay(store, experiment.config, split)
"""
BEST = "select * from leaderboard where split = 'test' order by place limit 10"
COUNT = "select count(*) from queries"

Figures = dict[str, Any]
"""A step, the number of queries, processor and wall seconds, peak memory in MB."""


def main() -> None:
    """Measure every step at each size, and write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("queries", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path("growth"))
    parser.add_argument("--work", type=Path, help="Folder for databases, which then stay.")
    told = parser.parse_args()
    found: list[Figures] = []
    for queries in told.queries:
        with tempfile.TemporaryDirectory() as name:
            folder = (told.work or Path(name)) / str(queries)
            write_experiment(folder, queries)
            for step, command in commands():
                found.append({"step": step, "queries": queries, **measured(command, folder)})
                print(json.dumps(found[-1]), flush=True)
                write_figures(told.out, found)
    print(table(found))


def write_experiment(folder: Path, queries: int) -> None:
    """An experiment of scripted arms, of which one is right on even questions, one on odd ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for place, arm in enumerate(ARMS):
        rules = [[rf"(\w+\d*[{place}{place + 2}468])\b", rf"the word is \1 says {arm}"]]
        (folder / f"{arm}.json").write_text(json.dumps(rules), encoding="utf-8")
    for split, share in SHARES.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(queries // share):
                row = {"question": f"Say {split}{number}", "answer": f"{split}{number}"}
                file.write(json.dumps(row) + "\n")
    settings = {
        "name": "growth",
        "db": "growth.duckdb",
        "runs": "runs",
        "workflow": {"name": "relay", "hops": 1},
        "models": {arm: {"path": f"{arm}.json", "engine": "scripted"} for arm in ARMS},
        "arms": {
            arm: {"model": arm, "price": {"input": place, "output": place, "per": 1000}}
            for place, arm in enumerate(ARMS, 1)
        },
        "data": {"made": {"sources": {split: {"path": f"{split}.jsonl"} for split in SHARES}}},
        "features": {"dim": 16},
        "train": {"algo": "sft", "iterations": 4, "evaluate_every": 2},
    }
    (folder / "experiment.yaml").write_text(json.dumps(settings), encoding="utf-8")


def commands() -> Iterator[tuple[str, list[str]]]:
    """The steps in order, each with the command that it is."""
    hcache = [sys.executable, str(ROOT / "cli.py")]
    load = [sys.executable, "-c", LOAD]
    db = ["--db", "growth.duckdb"]
    yield "plan", [*hcache, "plan", "experiment.yaml"]
    yield "sample", [*hcache, "sample", "experiment.yaml"]
    yield "sample again", [*hcache, "sample", "experiment.yaml"]
    yield "plan again", [*hcache, "plan", "experiment.yaml"]
    yield "load", load  # encodes the states
    yield "load again", load
    yield "train", [*hcache, "train", "experiment.yaml"]
    yield "eval", [*hcache, "eval", "experiment.yaml"]
    yield "report", [*hcache, "report", "experiment.yaml"]
    yield "sql, a leaderboard", [*hcache, "sql", BEST, *db]
    yield "sql, a count", [*hcache, "sql", COUNT, *db]


def measured(command: Sequence[str], folder: Path) -> Figures:
    """Processor seconds, wall seconds and peak memory of a command that is to succeed."""
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH") or str(ROOT)}
    began = time.monotonic()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(command)} has failed:\n{(folder / 'log').read_text()}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.monotonic() - began, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def write_figures(folder: Path, found: Sequence[Figures]) -> None:
    """What was found so far, for machines and for people."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "growth.md").write_text(table(found), encoding="utf-8")
    draw(folder / "growth.svg", found)


def table(found: Sequence[Figures]) -> str:
    """A step a row, as Markdown: processor seconds and peak memory at each size, and exponents."""
    sizes = sorted({each["queries"] for each in found})
    steps = list(dict.fromkeys(each["step"] for each in found))
    at = {(each["step"], each["queries"]): each for each in found}
    head = [f"{size:,}" for size in sizes]
    lines = [
        f"| step | {' | '.join(head)} | exponents: time, memory |",
        f"|---|{'---|' * (len(sizes) + 1)}",
    ]
    for step in steps:
        own = [at.get((step, size)) for size in sizes]
        cells = [f"{each['cpu_s']:,.1f} s, {each['peak_mb']:,} MB" if each else "" for each in own]
        grown = [f"{exponent(found, step, name):.2f}" for name in ("cpu_s", "peak_mb")]
        lines.append(f"| {step} | {' | '.join(cells)} | {', '.join(grown)} |")
    return "\n".join(lines) + "\n"


def exponent(found: Sequence[Figures], step: str, name: str) -> float:
    """Slope of a figure of a step between the last two sizes, in logarithms; NaN for one size."""
    *_, (m, x), (n, y) = [
        (math.nan, math.nan),
        *sorted((each["queries"], each[name]) for each in found if each["step"] == step),
    ]
    return math.log(y / x) / math.log(n / m)


def draw(file: Path, found: Sequence[Figures]) -> None:
    """Time and memory over the number of queries, both in logarithms, beside a linear slope."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for axis, name, title in zip(
        axes, ("cpu_s", "peak_mb"), ("processor time, s", "peak memory, MB"), strict=True
    ):
        for step in dict.fromkeys(each["step"] for each in found):
            own = [each for each in found if each["step"] == step]
            axis.loglog([e["queries"] for e in own], [e[name] for e in own], "o-", label=step)
        axis.set(title=title, xlabel="queries")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize="small", loc="upper left")
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
