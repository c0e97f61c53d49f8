"""Writes docs/findings.md and its figures from the cache of real models.

    python -m benchmarks.findings [--db FILE] [--runs FOLDER] [--docs FOLDER]

Routers are trained in runs/findings unless they are there; from the same cache and the same
versions the page and its figures come out byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.findings.answers import ANSWERS, Finding, draw
from benchmarks.findings.study import Place
from hcache.files import replace_file
from hcache.reporting.figures import rendered

EXPERIMENT = Path("examples/real.yaml")
CASCADE = Path("examples/real-cascade.yaml")
OPENING = """# Findings

Four benchmarks, three public models in four arms, every sequence of up to two calls, sampled once
([examples/real.yaml](../examples/real.yaml)). Everything below is computed from that cache by

    python -m benchmarks.findings

which writes this page and its figures byte for byte. Intervals are of 95%, over test questions and
the seeds of training, paired where two are compared; all is chosen on training and validation, and
the test questions are judged once.
"""


def main() -> None:
    """Write the page and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", type=Path, default=Path("runs/real/hcache.duckdb"))
    parser.add_argument("--runs", type=Path, default=Path("runs/findings"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    given = parser.parse_args()
    place = Place(EXPERIMENT, CASCADE, given.db, given.runs)
    findings = [answer(place) for answer in ANSWERS]
    folder = given.docs / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    for finding in findings:
        replace_file(folder / f"{finding.key}.svg", svg(finding))
    page = "\n".join([OPENING, *map(section, findings)])
    replace_file(given.docs / "findings.md", page.encode())


def section(finding: Finding) -> str:
    """A finding as Markdown."""
    lines = [f"## {finding.title}", "", *(f"- {sentence}" for sentence in finding.sentences), ""]
    lines += [f"![{finding.title}](findings/{finding.key}.svg)", ""]
    lines += [_row(finding.header), _row(["---"] * len(finding.header))]
    lines += [_row(row) for row in finding.rows]
    return "\n".join([*lines, ""])


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def svg(finding: Finding) -> bytes:
    """The figure of a finding."""
    height = 0.6 + 0.19 * (len(finding.bars) + 2)
    return rendered((6.4, height), lambda figure: draw(figure.add_subplot(), finding))[0]


if __name__ == "__main__":
    main()
