"""The command line of the fuzzer; see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .harness import fuzz
from .targets import TARGETS

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("target", choices=TARGETS, nargs="?")
parser.add_argument("--list", action="store_true", help="print the targets")
parser.add_argument("--minutes", type=float, default=1.0, help="CPU minutes")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--case", type=int, help="this case only")
given = parser.parse_args()
if given.list or given.target is None:
    print(*TARGETS)
    sys.exit()

with TemporaryDirectory() as scratch:
    outcome = fuzz(
        given.target,
        TARGETS[given.target],
        Path(scratch),
        given.seed,
        seconds=60 * given.minutes,
        only=given.case,
    )
print(outcome)
sys.exit(bool(outcome.findings))
