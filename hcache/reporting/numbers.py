"""Numbers and names as a report prints them."""

from __future__ import annotations

import math

from hcache.data.visible import visible
from hcache.evaluation.statistics import Interval

DASH = "–"
LONGEST = 24  # characters of a name in a figure


def number(value: float) -> str:
    """Three significant digits; a dash where there is no number."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def signed(value: float) -> str:
    """The same with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def spans(interval: Interval) -> tuple[str, ...]:
    """The interval in brackets, and the spread over seeds, where there are."""
    parts = []
    if not math.isnan(interval.low):
        parts.append(f"[{number(interval.low)}, {number(interval.high)}]")
    if not math.isnan(interval.spread):
        parts.append(f"± {number(interval.spread)}")
    return tuple(parts)


def reason(interval: Interval) -> str:
    """Why an estimate or its interval is missing; empty where neither is."""
    missing = math.isnan(interval.estimate) or math.isnan(interval.low)
    return (interval.note or "no number") if missing else ""


def printable(text: str) -> str:
    """One line without characters that XML forbids or that turn text round."""
    return " ".join(visible(text).split())


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits into a figure."""
    shown = printable(name) or "(none)"
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
