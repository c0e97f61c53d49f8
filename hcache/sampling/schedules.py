"""Schedules: which engine works next. Engines are known by their keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

Busy = Callable[[str], bool]
"""Tells whether the engine of a key has anything to do."""


class Resident:
    """All engines stay loaded and work in turn."""

    def __init__(self, keys: Sequence[str], busy: Busy) -> None:
        self.keys, self.busy = deque(keys), busy

    def next(self) -> str | None:
        """The next engine in turn that has something to do; None where none has."""
        for _ in range(len(self.keys)):
            self.keys.rotate(-1)
            if self.busy(self.keys[-1]):
                return self.keys[-1]
        return None


class Sweep:
    """One engine at a time: drained, then swapped, in alternating order.

    L·(K−1)+1 loads for K checkpoints and L hops, against L·K in a fixed order. Tools are small:
    they stay loaded with the others and answer first.
    """

    def __init__(
        self,
        keys: Sequence[str],
        tools: Sequence[str],
        busy: Busy,
        keep: Callable[[set[str]], None],
    ) -> None:
        """`keys` without those of `tools`; `keep` unloads every engine but those of some keys."""
        self.keys, self.tools, self.busy, self.keep = keys, tools, busy, keep
        self.index = 0
        self.direction = 1

    def next(self) -> str | None:
        """The engine to run: the one loaded while it has work, then the next on the way."""
        if tool := next(filter(self.busy, self.tools), None):
            return tool
        for _ in range(2 * len(self.keys)):
            key = self.keys[self.index]
            if self.busy(key):
                self.keep({key, *self.tools})
                return key
            self._move()
        return None

    def _move(self) -> None:
        if not 0 <= self.index + self.direction < len(self.keys):
            self.direction = -self.direction
        self.index = max(0, min(len(self.keys) - 1, self.index + self.direction))
