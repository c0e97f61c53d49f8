"""Scripts of the scripted engine that are none: one error, which says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcache.engines.scripted import read_script
from hcache.errors import EngineError


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (b'{"ab": 1}', "no list"),
        (b'["ab"]', "no pair of texts"),
        (b'[["a", null]]', "no pair of texts"),
        (b'[["a", 1]]', "no pair of texts"),
        (b'[["a", "b", "c"]]', "no pair of texts"),
        (rb'[["a", "\\1"]]', "invalid group reference"),
        (rb'[["a", "\\g<w>"]]', "unknown group name"),
        (rb'[["a", "\\q"]]', "bad escape"),
        (b'[["(", "b"]]', "missing"),
        (b'[["a{99999999999999}", "b"]]', "repetition number"),
        (rb'[["a", "\ud800"]]', "half a surrogate pair"),
        (b"[" * 5_000, "recursion"),
        (b"[" + b"9" * 5_000 + b"]", "digits"),
        (b"\xff", "decode"),
        (b"", "Expecting value"),
    ],
)
def test_defect_of_a_script_is_named(tmp_path: Path, script: bytes, problem: str) -> None:
    file = tmp_path / "script.json"
    file.write_bytes(script)
    with pytest.raises(EngineError, match=rf"script\.json: not a script \(.*{problem}") as refused:
        read_script(file)
    assert refused.value.hint


def test_script_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not a script"):
        read_script(tmp_path)
