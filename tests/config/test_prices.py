"""Prices in any unit and from litellm's list; settings of before keep theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import Raw, load, settings
from helpers.paths import ROOT
from hypothesis import given
from hypothesis import strategies as st

from hcache.config.file import read_config
from hcache.config.prices import DEFAULT, MILLION, Price
from hcache.config.schema import ExperimentConfig
from hcache.config.stored import stored_arm, stored_config
from hcache.errors import ConfigError
from hcache.experiment import Experiment

LIST = {
    "sample_spec": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "gpt-4o-mini": {
        "input_cost_per_token": 1.5e-07,
        "input_cost_per_token_batches": 7.5e-08,
        "output_cost_per_token": 6e-07,
        "output_cost_per_token_batches": 3e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "litellm_provider": "openai",
        "mode": "chat",
    },
    "gpt-4o": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05},
    "long": {
        "input_cost_per_token": 2e-06,
        "input_cost_per_token_above_272k_tokens": 4e-06,
        "output_cost_per_token": 1e-05,
    },
    "an-image-model": {"output_cost_per_image": 0.04},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prices.json").write_text(json.dumps(LIST, indent=4), encoding="utf-8")
    return tmp_path


def raw_with(**prices: Any) -> Raw:
    """An experiment of the arms a and b at these prices; none where it is None."""
    raw = settings("ab", prices="prices.json")
    for arm, price in prices.items():
        raw["arms"][arm].pop("price")
        raw["arms"][arm] |= {} if price is None else {"price": price}
    return raw


def price_in(folder: Path, price: Any) -> Price:
    found: Price = load(folder, raw_with(a=price)).config.arms["a"].price
    return found


@pytest.mark.parametrize(
    "price",
    [
        {"input": 0.15, "output": 0.60},
        {"input": 0.15, "output": 0.60, "per": 1_000_000},
        {"input": 0.00015, "output": 0.0006, "per": 1000},
        {"input": 1.5e-07, "output": 6e-07, "per": 1},
        {"model": "gpt-4o-mini"},
        {"model": "gpt-4o-mini", "batch": False},
        "gpt-4o-mini",
    ],
)
def test_one_price_in_any_unit_is_the_same(folder: Path, price: Any) -> None:
    found = price_in(folder, price)
    assert found.per_1000 == (0.00015, 0.0006)
    assert found.rates(MILLION)[:2] == (0.15, 0.6)
    assert found == Price(input=0.15, output=0.6) and hash(found) == hash(
        Price(input=0.15, output=0.6)
    )
    assert found != Price(input=0.15, output=0.6, per=1000)
    assert found.of(2_000, 1_000) == pytest.approx(0.0009)


def test_one_number_is_both_and_none_counts_tokens_in_thousands(folder: Path) -> None:
    assert price_in(folder, 3).per_1000 == (0.003, 0.003)
    found = price_in(folder, None)
    assert (found.per_1000, found.source) == ((1, 1), DEFAULT)
    assert found.of(600, 400) == 1


@given(st.floats(0, 1e9), st.sampled_from([1, 1000, MILLION]))
def test_a_price_for_1000_tokens_is_what_was_written(price: float, per: Any) -> None:
    assert Price(input=price, output=0, per=1000).per_1000 == (price, 0)
    assert Price(input=price, output=0, per=per).rates(per)[:2] == (price, 0)


def test_an_entry_becomes_numbers_that_need_no_list(folder: Path) -> None:
    raw = raw_with(a="gpt-4o-mini", b={"model": "gpt-4o-mini", "batch": True})
    config = load(folder, raw).config
    plain, batch = (config.arms[name].price for name in "ab")
    assert (plain.input, plain.output, plain.cached, plain.per) == (1.5e-07, 6e-07, 7.5e-08, 1)
    assert (batch.input, batch.output, batch.cached) == (7.5e-08, 3e-07, None)
    assert re.fullmatch(r"gpt-4o-mini, prices\.json \([0-9a-f]+\)", plain.source)
    assert batch.source.startswith("gpt-4o-mini in batches, prices.json")
    (folder / "prices.json").unlink()
    again = stored_config(json.loads(config.model_dump_json()))
    assert again == config
    assert again.arms["a"].price.model_dump() == plain.model_dump()
    assert Experiment(again).config.arms == config.arms


def test_a_list_lies_beside_the_file_whatever_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert price_in(folder, "gpt-4o").per_1000 == (0.0025, 0.01)


def test_a_price_takes_the_place_of_that_of_the_base_whole(folder: Path) -> None:
    """With the unit of the base it would be another price than its file says."""
    load(folder, raw_with(a={"input": 1, "output": 2, "per": 1000}))
    file = folder / "second.yaml"
    for price in ({"input": 0.15, "output": 0.6}, {"model": "gpt-4o-mini"}):
        file.write_text(json.dumps({"base": "experiment.yaml", "arms": {"a": {"price": price}}}))
        assert read_config(file).arms["a"].price.per_1000 == (0.00015, 0.0006)
        assert read_config(file).arms["b"].price.per_1000 == (2, 2)


def test_prices_of_longer_prompts_are_not_used_and_that_is_said(folder: Path) -> None:
    found = price_in(folder, "long")
    assert found.per_1000 == (0.002, 0.01)
    assert found.source.endswith("; above 272k_tokens it has other prices, not used")


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("gpt-4o-mimi", r"prices\.json has no model 'gpt-4o-mimi'; did you mean 'gpt-4o-mini' or"),
        ("sample_spec", r"has no model 'sample_spec'"),
        ("zzzzz", r"has no model 'zzzzz'\. Give litellm's"),
        ("an-image-model", r"prices\.json: an-image-model: input_cost_per_token is missing"),
        ({"model": "gpt-4o", "batch": True}, r"gpt-4o: input_cost_per_token_batches is missing"),
        ({"model": "gpt-4o", "input": 1}, r"neither numbers nor the name of an entry"),
        ({"model": "gpt-4o", "batch": "yes"}, r"neither numbers nor the name of an entry"),
        ({"model": 3}, r"neither numbers nor the name of an entry"),
        ({"batch": True}, r"neither numbers nor the name of an entry"),
        ({"input": 1, "output": 1, "per": 100}, r"price\.per: .*1, 1000 or 1000000"),
        ({"input": 1}, r"price\.output: missing"),
        ({"input": 1, "output": -1}, r"price\.output: .*greater than or equal to 0"),
        ({"input": 1, "output": "2x"}, r"price\.output: .*number"),
        ({"input": 1, "output": 1e300, "per": 1}, r"price\.output: .*less than or equal to"),
        ([1, 2], r"arms\.a\.price: .*dictionary"),
    ],
)
def test_a_price_that_is_none_is_named(folder: Path, price: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        price_in(folder, price)
    said = str(caught.value)
    assert f"{folder / 'experiment.yaml'}: arms.a.price" in said and "\n" not in said


def test_a_name_without_a_list_is_refused(folder: Path) -> None:
    raw = raw_with(a="gpt-4o")
    del raw["prices"]
    with pytest.raises(ConfigError, match=r"'gpt-4o' names a model, but .* Add `prices: FILE`"):
        load(folder, raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "Expecting value"),
        ("[1, 2]", "it is a list, and no map of models to prices"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": {"input_cost_per_token": Infinity}}', "Infinity is not JSON"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        ("[" * 100_000, "malformed JSON"),
        ('{"a": 1e999999999999999999999}', "malformed JSON"),
        (b"{\xff}", "utf-8"),
    ],
)
def test_a_file_that_is_no_list_is_named(
    folder: Path, content: str | bytes | None, message: str
) -> None:
    file = folder / "prices.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=message) as caught:
        price_in(folder, "gpt-4o")
    said = str(caught.value)
    assert f"{folder / 'experiment.yaml'}: prices: prices.json" in said and "\n" not in said


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "a number where an object is needed"),
        ({"input_cost_per_token": "1e-6"}, "input_cost_per_token is a string"),
        ({"input_cost_per_token": True}, "input_cost_per_token is a boolean"),
        ({"input_cost_per_token": None}, "input_cost_per_token is null"),
        ({"input_cost_per_token": -1e-6}, "input_cost_per_token is -0.000001"),
        ({"input_cost_per_token": 10**400}, "input_cost_per_token is 1000"),
        ({"input_cost_per_token": 1e-6}, "output_cost_per_token is missing"),
        (
            {
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 1e-6,
                "cache_read_input_token_cost": [],
            },
            "cache_read_input_token_cost is a list",
        ),
    ],
)
def test_an_entry_that_is_no_price_is_named(folder: Path, entry: Any, message: str) -> None:
    (folder / "prices.json").write_text(json.dumps({"m": entry}))
    with pytest.raises(ConfigError, match=rf"arms\.a\.price: prices\.json: m.*{message}"):
        price_in(folder, "m")


# Settings that were stored


def of_before(config: ExperimentConfig) -> Raw:
    """Settings as they were stored when every price was for 1,000 tokens."""
    stored = config.model_dump(mode="json", exclude={"prices"})
    for arm in stored["arms"].values():
        arm["price"] = {name: arm["price"][name] for name in ("input", "output")}
    return stored


def test_stored_settings_without_a_unit_mean_1000_tokens(folder: Path) -> None:
    config = load(folder, raw_with(b={"input": 0.25, "output": 4, "per": 1000})).config
    old = of_before(config)
    assert old["arms"]["b"]["price"] == {"input": 0.25, "output": 4}
    assert stored_config(old).arms == config.arms
    assert stored_config(old).arms["b"].price.per_1000 == (0.25, 4)
    assert stored_arm(old["arms"]["b"]) == config.arms["b"]
    assert stored_config(stored_config(old).model_dump(mode="json")).arms == config.arms


def test_stored_settings_are_read_in_one_place_alone() -> None:
    """Elsewhere a price without its unit would be taken for one of 1,000,000 tokens."""
    reading = re.compile(r"(ExperimentConfig|ArmConfig|Price)\.model_validate")
    found = {
        file.relative_to(ROOT / "hcache").as_posix()
        for file in (ROOT / "hcache").rglob("*.py")
        if reading.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"config/file.py", "config/stored.py"}
