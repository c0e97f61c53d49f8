"""The findings of a check: faults by kind, and what could not be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""Takes what is being checked, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Fault:
    """Rows of a table that are wrong in one way."""

    table: str
    fault: str
    count: int
    example: str  # key of one of the rows
    hint: str = ""  # what to do, where that is known

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.table}: {self.count:,} × {self.fault} (such as {self.example}){hint}"


@dataclass
class Findings:
    """Findings of a check so far."""

    checked: dict[str, int] = field(default_factory=dict)  # rows, by what was done with them
    notes: list[str] = field(default_factory=list)  # what was not checked, and why
    _faults: dict[tuple[str, str], Fault] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """One for each kind of fault, in the order in which they were found."""
        return tuple(self._faults.values())

    def add(self, table: str, fault: str, example: str, count: int = 1, hint: str = "") -> None:
        """Count rows with a fault; the first example of a kind is kept."""
        known = self._faults.get((table, fault))
        if known is not None:
            count, example = known.count + count, known.example
        self._faults[table, fault] = Fault(table, fault, count, example, hint)

    def add_all(self, table: str, fault: str, examples: Iterable[object], hint: str = "") -> None:
        """Count rows with a fault, each given by an example."""
        for example in examples:
            self.add(table, fault, str(example), hint=hint)

    def count(self, what: str, number: int) -> None:
        """Count rows that were checked in some way."""
        self.checked[what] = self.checked.get(what, 0) + number

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values."""
        return {
            "clean": not self.faults,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": self.notes,
            "checked": self.checked,
        }
