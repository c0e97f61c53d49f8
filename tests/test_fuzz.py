"""A short form of the fuzzer: some cases of each target, in none of which may be a finding."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.formats import FORMATS
from fuzz.harness import fuzz
from fuzz.targets import TARGETS

from hcache.recorded import IMPORTERS

SHORT = {"config": 40, "readers": 1_000, "scripts": 1_000, "extractors": 1_000}
SHORT |= {f"imports-{kind}": 8 for kind in FORMATS} | {"imports-hf": 40}


def test_every_format_is_fuzzed() -> None:
    ours = {f"imports-{kind}" for kind in IMPORTERS if IMPORTERS.source(kind) is None}
    assert ours == {name for name in TARGETS if name.startswith("imports-")}


@pytest.mark.parametrize("target", SHORT)
def test_hostile_input_ends_well_or_in_an_error_of_ours(target: str, tmp_path: Path) -> None:
    outcome = fuzz(target, TARGETS[target], tmp_path, seed=1, cases=SHORT[target])
    assert outcome.cases == SHORT[target]
    assert not outcome.findings, str(outcome)
