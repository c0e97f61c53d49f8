"""Acts in replies of a dialogue: `Search[…]` or `Finish[…]`, `[Continue]` or `[Rethink]`.

Taken as people would read it: upper and lower case alike, with or without a space before the
bracket, brackets within brackets, over several lines; where the closing bracket is missing, the
action ends with its line. Of several actions the first counts, since what a model writes after it
only imagines how things go on; but one behind the label `Action:` goes before one in a thought.
An action with nothing in its brackets is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_ACTION = re.compile(r"\b(search|finish)[ \t]*\[", re.IGNORECASE)
_LABEL = re.compile(r"\baction\b[ \t*_]*(?:\d+[ \t*_]*)?:", re.IGNORECASE)
_BRACKET = re.compile(r"[\[\]]")
_VERDICT = re.compile(r"\[\s*(?:continue|rethink)\s*\]", re.IGNORECASE)


class Act(NamedTuple):
    """One action, with the reply up to its end."""

    kind: str  # "search" or "finish"
    text: str
    step: str


def parse_act(reply: str) -> Act | None:
    """The action of a reply, or None where there is none."""
    label = _LABEL.search(reply)
    labelled = next(_acts(reply, label.end()), None) if label else None
    return labelled or next(_acts(reply, 0), None)


def has_verdict(reply: str) -> bool:
    """True if a reply says [Continue] or [Rethink]."""
    return _VERDICT.search(reply) is not None


def _acts(reply: str, start: int) -> Iterator[Act]:
    for match in _ACTION.finditer(reply, start):
        end = _end(reply, match.end())
        text = reply[match.end() : end].strip()
        if text:
            yield Act(match[1].lower(), text, reply[: end + 1].strip())


def _end(reply: str, start: int) -> int:
    """Place where the bracket opened before `start` closes, or else where the line ends."""
    depth = 1
    for bracket in _BRACKET.finditer(reply, start):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return bracket.start()
    line_end = reply.find("\n", start)
    return len(reply) if line_end < 0 else line_end
