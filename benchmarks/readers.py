"""How much a reader that asks the database every second slows sampling.

    python -m benchmarks.readers 5            # so many pairs; --queries N

Scripted arms, as in `growth.py`. Each pair samples the same queries alone and beside a reader, in
turns; who begins changes from pair to pair. Printed are medians of the ratios of processor time of
the sampler and of wall time, and their ranges.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .growth import ROOT, measured, write_experiment

READER = """
import sys, time, hcache
from pathlib import Path
while True:
    if Path("growth.duckdb").exists():
        with hcache.Store("growth.duckdb", patience=60) as store:
            store.sql("select split, count(*), avg(quality) from outcomes group by split")
        print("read", flush=True)
    time.sleep(1)
"""


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pairs", type=int)
    parser.add_argument("--queries", type=int, default=5000)
    told = parser.parse_args()
    ratios: dict[str, list[float]] = {"cpu_s": [], "wall_s": []}
    reads = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "readers"
        for pair in range(told.pairs):
            found = {}
            for beside in (False, True) if pair % 2 else (True, False):
                write_experiment(folder, told.queries)
                found[beside], count = sampling(folder, beside)
                reads += count
            for figure, known in ratios.items():
                known.append(found[True][figure] / found[False][figure])
            print(found, flush=True)
    print(f"{told.pairs} pairs of {told.queries:,} queries, {reads} reads")
    for figure, known in ratios.items():
        middle = statistics.median(known)
        print(f"{figure}: {middle:.3f} times as much ({min(known):.3f} to {max(known):.3f})")


def sampling(folder: Path, beside_reader: bool) -> tuple[dict[str, float], int]:
    """Figures of one sampling, and how often the reader has read meanwhile."""
    sample = [sys.executable, str(ROOT / "cli.py"), "sample", "experiment.yaml"]
    if not beside_reader:
        return measured(sample, folder), 0
    with subprocess.Popen(
        [sys.executable, "-c", READER], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as reader:
        time.sleep(3)  # its imports are not to be measured
        figures = measured(sample, folder)
        reader.kill()
        said, _ = reader.communicate()
    return figures, said.count("read")


if __name__ == "__main__":
    main()
