"""A short form of the fuzzer: some cases of each target, in none of which may be a finding."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.harness import fuzz
from fuzz.targets import TARGETS

SHORT = {"config": 40, "readers": 1_000, "scripts": 1_000, "extractors": 1_000,
         "imports": 60, "folders": 40}  # fmt: skip


@pytest.mark.parametrize("target", SHORT)
def test_hostile_input_ends_well_or_in_an_error_of_ours(target: str, tmp_path: Path) -> None:
    outcome = fuzz(target, TARGETS[target], tmp_path, seed=1, cases=SHORT[target])
    assert outcome.cases == SHORT[target]
    assert not outcome.findings, str(outcome)
