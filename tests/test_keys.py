"""Keys: identities that never change by accident, and never depend on the machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.keys import canonical, digest, digest_file, digest_text, generation_key, seed_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    """The same value with every dict filled in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_canonical_text_is_the_value_in_whatever_order_it_was_written(value: Any) -> None:
    assert canonical(value) == canonical(reordered(value))
    assert json.loads(canonical(value)) == value


@given(JSON, JSON)
def test_distinct_values_have_distinct_keys(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


@given(st.text(st.characters()), st.text(st.characters()))  # surrogates too
def test_distinct_texts_have_distinct_keys(one: str, other: str) -> None:
    assert (digest_text(one) == digest_text(other)) == (one == other)
    assert (digest([one]) == digest([other])) == (one == other)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"x": math.nan}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(value)
    with pytest.raises(TypeError):
        digest({1, 2})


def test_generation_key_depends_on_each_part() -> None:
    parts = [(f, m, s) for f in ("f", "g") for m in ("m", "n") for s in (0, 1, 1 << 16)]
    assert len({generation_key(*part) for part in parts}) == len(parts)


def test_parts_of_a_generation_key_cannot_run_together() -> None:
    assert generation_key("a", "b1", 1) != generation_key("a", "b", 11)
    assert generation_key("ab", "c", 1) != generation_key("a", "bc", 1)


@given(st.text())
def test_seed_is_a_31_bit_number(text: str) -> None:
    assert 0 <= seed_of(digest_text(text)) < 1 << 31


def test_identities_stay_what_they_are(tmp_path: Path) -> None:
    # A change of any of these makes every stored generation unreachable.
    (tmp_path / "file").write_bytes(b"abc")
    assert canonical({"b": [1, 2.5, None, True], "a": "é\n"}) == (
        '{"a":"é\\n","b":[1,2.5,null,true]}'
    )
    assert (
        digest_text("abc") == digest_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223"
    )
    assert digest({"b": 1, "a": "é"}) == "aa58fba8483623bed37c1b02edfccbdd"
    assert digest_text("\ud800") == "91a681b998555fb475479817b126c94e"
    assert generation_key("f" * 32, "m" * 32, 3) == "44bd1a9dadcd79310fe6619fa8772384"
    assert seed_of("ba7816bf8f01cfea414140de5dae2223") == 0x5D3C0B5F
