"""Keys of all that is stored, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

HALF = 16  # hex digits of a key, which are 64 bits

Halves = npt.NDArray[np.uint64]
NONE: Halves = np.array([], dtype=np.uint64)


class Known:
    """The first halves of many keys: 24 million take 200 MB, where a set of texts takes 3 GB.

    Two keys in 24 million agree in that half with a probability of 2e-5, so who finds a key here
    looks whether its row is there. Halves lie in sorted runs, each at most half as long as the one
    before: adding n keys in all costs O(n log n).
    """

    def __init__(self, halves: Halves = NONE) -> None:
        """Know the keys of these halves, in any order."""
        self.runs: list[Halves] = [np.sort(halves)]

    def __len__(self) -> int:
        """Number of keys that are known."""
        return sum(map(len, self.runs))

    def add(self, keys: Iterable[str]) -> None:
        """Know further keys, none of which is known."""
        self.runs.append(np.sort(_halves(list(keys))))
        while len(self.runs) > 1 and 2 * len(self.runs[-1]) > len(self.runs[-2]):
            last, before = self.runs.pop(), self.runs.pop()
            self.runs.append(np.sort(np.concatenate([before, last]), kind="stable"))

    def among(self, keys: Sequence[str]) -> set[str]:
        """Subset of some keys that is known."""
        if not keys:
            return set()
        halves = _halves(keys)
        found = np.zeros(len(halves), dtype=bool)
        for run in self.runs:
            places = np.searchsorted(run, halves)
            inside = places < len(run)
            found[inside] |= run[places[inside]] == halves[inside]
        return {keys[place] for place in np.flatnonzero(found)}


def _halves(keys: Sequence[str]) -> Halves:
    return np.array([int(key[:HALF], 16) for key in keys], dtype=np.uint64)
