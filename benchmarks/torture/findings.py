"""Findings: what came of a fault, whether that is right, and the table of all of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from .scene import Ended


@dataclass(frozen=True)
class Finding:
    """What came of one fault."""

    fault: str
    outcome: str  # a few words, the same for all that ended alike
    wrong: str = ""  # what should not have been, and where


def tabulate(findings: Iterable[Finding]) -> bool:
    """Print a table of findings that come fault by fault; whether none of them is wrong."""
    right = True
    print("| fault | times | what happened |\n|---|---|---|", flush=True)
    for fault, found in groupby(findings, lambda finding: finding.fault):
        counts: Counter[str] = Counter()
        for finding in found:
            counts["WRONG" if finding.wrong else finding.outcome] += 1
            if finding.wrong:
                right = False
                print(f"WRONG {fault}: {finding.wrong}", file=sys.stderr, flush=True)
        outcomes = ", ".join(f"{outcome}: {count}" for outcome, count in counts.most_common())
        print(f"| {fault} | {counts.total()} | {outcomes} |", flush=True)
    return right


def improper(ended: Ended) -> str:
    """What is not as documented in how a command ended, or ""."""
    for word in ("Traceback", "Exception ignored", "Error in sys.excepthook"):
        if word in ended.said:
            return f"{word} …{ended.said[-300:]!r}"
    errors = [line for line in ended.said.splitlines() if line.startswith("error:")]
    if ended.code not in (0, 1):
        return f"exit code {ended.code}: {ended.said[-300:]!r}"
    if len(errors) != ended.code:
        return f"exit code {ended.code} with {len(errors)} lines of error: {ended.said[-300:]!r}"
    return ""
