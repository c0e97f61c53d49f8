"""Findings: what came of a fault, whether that is right, and the table of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .scene import Ended


@dataclass(frozen=True)
class Finding:
    """What came of one fault."""

    fault: str
    outcome: str  # a few words, the same for all that ended alike
    wrong: str = ""  # what should not have been, and where


@dataclass
class Table:
    """Findings, by fault and outcome."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[Finding] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings in, and say at once which are wrong."""
        for finding in findings:
            outcome = "WRONG" if finding.wrong else finding.outcome
            self.counts.setdefault(finding.fault, Counter())[outcome] += 1
            if finding.wrong:
                self.wrong.append(finding)
                print(f"WRONG {finding.fault}: {finding.wrong}", flush=True)

    def __str__(self) -> str:
        lines = ["| fault | times | what happened |", "|---|---|---|"]
        for fault, outcomes in self.counts.items():
            what = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
            lines.append(f"| {fault} | {outcomes.total()} | {what} |")
        return "\n".join(lines)


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
