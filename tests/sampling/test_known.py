"""What is known of stored keys is what a set of them knows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hcache.sampling.known import Known

KEYS = st.integers(0, 2**128 - 1).map(lambda value: f"{value:032x}")


@given(st.lists(st.sets(KEYS, max_size=9), max_size=12), st.sets(KEYS, max_size=5))
def test_what_a_set_knows(batches: list[set[str]], others: set[str]) -> None:
    """Keys are given in batches, none twice; the first batch is there from the start."""
    seen: set[str] = set()
    known = Known()
    for place, batch in enumerate(batches):
        new = batch - seen
        seen |= new
        if place == 0:
            known = Known(np.array([int(key[:16], 16) for key in new], dtype=np.uint64))
        else:
            known.add(new)
        assert len(known) == len(seen)
        lengths = [len(run) for run in known.runs]
        assert all(2 * two <= one for one, two in pairwise(lengths))
    asked = sorted(seen | others)
    halves = {key[:16] for key in seen}
    assert known.among(asked) == {key for key in asked if key[:16] in halves}


def test_the_largest_and_the_smallest_key_are_found() -> None:
    known = Known(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert known.among(["f" * 32, "0" * 32, "1" * 32]) == {"f" * 32, "0" * 32}
    assert known.among([]) == set()
