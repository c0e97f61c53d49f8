"""The command line of the benchmark of speed; see the package."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .contest import Figures, spread

PARTS = ("environments", "evaluation", "features", "resampling", "loading", "scale")  # modules
OTHERS = ("peak over the tensors", "peak in GiB")


def main() -> None:
    """Measure each part; write and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("speed.json"))
    parser.add_argument("--work", type=Path, help="Folder for data, which then stay (10 GB).")
    told = parser.parse_args()
    with TemporaryDirectory() as folder:
        found: list[Figures] = []
        for name in told.only:
            part = importlib.import_module(f"{__package__}.{name}")
            found += part.rows(told.rounds, told.work or Path(folder))
            told.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1))
    print("\n".join(table(found)))


def machine() -> Figures:
    """The machine, and the load on it."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
    }


def table(found: Sequence[Figures]) -> Iterator[str]:
    """A row for each contestant."""
    yield "| | | a second of processor time | hcache's over it | memory |"
    yield "|---|---|---|---|---|"
    for row in found:
        memory = "".join(f"{name} {spread(row[name])}" for name in OTHERS if name in row)
        cells = row["part"], row["name"], f"{spread(row['rates'])} {row['unit']}"
        yield f"| {' | '.join(cells)} | {spread(row['times'])} | {memory} |"


if __name__ == "__main__":
    main()
