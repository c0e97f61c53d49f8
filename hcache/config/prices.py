"""Prices: what the tokens of an arm cost, in an experiment file or in a list of litellm's.

litellm keeps prices of hosted models as one JSON file, `model_prices_and_context_window.json`
(https://github.com/BerriAI/litellm): by the name of a model, USD for one token. Here an arm may
name such an entry. Its numbers are put in its place when the experiment file is read, so that
databases and manifests hold numbers, and no later change of the list reaches them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from hcache.config.section import Section
from hcache.data.source import json_value, type_name
from hcache.errors import ConfigError
from hcache.files import find
from hcache.keys import digest_file

MILLION: Final = 1_000_000
ENTRY = frozenset({"model", "batch"})  # of a price that names an entry of a list
DEFAULT = "default"  # the source of the price of an arm that has none
MOST = 1e12  # of a price; no sum of costs overflows

FIELDS = {"input": "input_cost_per_token", "output": "output_cost_per_token"}
CACHED = "cache_read_input_token_cost"
TIERS = tuple(f"{name}_above_" for name in FIELDS.values())  # for prompts that are longer
NEAR = 4  # names that an error proposes
LITELLM = "Give litellm's model_prices_and_context_window.json, or numbers as `price`."


class Rates(NamedTuple):
    """Prices of some number of tokens."""

    input: float
    output: float
    cached: float | None


class Price(Section):
    """USD, or any other currency, for the tokens of an arm; equal if it comes to the same."""

    input: float = Field(ge=0, le=MOST, description="of tokens that are read")
    output: float = Field(ge=0, le=MOST, description="of tokens that are written")
    per: Literal[1, 1_000, 1_000_000] = Field(
        MILLION, description="tokens that these prices are for"
    )
    cached: float | None = Field(
        None,
        ge=0,
        le=MOST,
        description="of tokens that a server has read before; shown by `hcache prices`, in no cost",
    )
    source: str = Field("", description="where these numbers are from, in words")

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, value: object) -> object:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"input": value, "output": value}
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Price) and self.per_1000 == other.per_1000

    def __hash__(self) -> int:
        return hash(self.per_1000)

    @cached_property
    def per_1000(self) -> tuple[float, float]:
        """Prices of 1,000 tokens read and written, the unit of the database."""
        return self.rates(1_000)[:2]

    def rates(self, tokens: int) -> Rates:
        """Prices of so many tokens: the decimal numbers that are given, scaled and rounded once."""

        def scaled(value: float) -> float:
            return float(Fraction(repr(value)) * tokens / self.per)

        cached = None if self.cached is None else scaled(self.cached)
        return Rates(scaled(self.input), scaled(self.output), cached)

    def of(self, read: int, written: int) -> float:
        """Cost of so many tokens."""
        input_price, output_price = self.per_1000
        return (input_price * read + output_price * written) / 1000


UNPRICED = Price(input=1, output=1, per=1_000, source=DEFAULT)
"""The price of an arm that has none: its cost counts tokens, in thousands."""


def with_prices(raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Settings of a file in which prices that name an entry of its list are numbers.

    Raises:
        ConfigError: there is no list, it is none, or its entry has no such price; naming the place.
    """
    listed = raw.get("prices")
    prices = _List(listed, file) if isinstance(listed, str) else None
    arms = raw.get("arms")
    if not isinstance(arms, dict):
        return {**raw}
    return {**raw, "arms": {name: _priced(arm, name, prices, file) for name, arm in arms.items()}}


def _priced(arm: Any, name: str, prices: _List | None, file: Path) -> Any:
    """An arm with numbers as its price; what else is wrong with it is told by its validation."""
    price = arm.get("price") if isinstance(arm, dict) else None
    asked = {"model": price} if isinstance(price, str) else price
    if not isinstance(asked, dict) or not asked.keys() & ENTRY:
        return arm
    place = f"{file}: arms.{name}.price"
    model, batch = asked.get("model"), asked.get("batch", False)
    if not isinstance(model, str) or not isinstance(batch, bool) or asked.keys() - ENTRY:
        raise ConfigError(
            f"{place}: neither numbers nor the name of an entry, with `batch` true or false.",
            "Like {input: 0.15, output: 0.60}, gpt-4o-mini, or {model: gpt-4o-mini, batch: true}",
        )
    if prices is None:
        raise ConfigError(
            f"{place}: {model!r} names a model, but the experiment names no list of prices.",
            "Add `prices: FILE`, a JSON file as litellm has it, or give numbers.",
        )
    return arm | {"price": prices.price(model, batch, place)}


class _List:
    """A file of prices as litellm has it: a map of names to prices of one token."""

    def __init__(self, path: str, file: Path) -> None:
        """`path` as the experiment `file` has it.

        Raises:
            ConfigError: it is no such file.
        """
        found = find(path, file.resolve().parent, Path())
        self.path = path
        try:
            if found is None or not found.is_file():
                raise FileNotFoundError("no such file")
            entries = json_value(found.read_text(encoding="utf-8-sig"))
            if not isinstance(entries, dict):
                raise TypeError(f"it is {type_name(entries)}, and no map of models to prices")
            self.digest = digest_file(found)
        except (OSError, ValueError, TypeError) as error:
            said = f"{file}: prices: {path}: cannot be read ({error})."
            raise ConfigError(said, LITELLM) from error
        self.entries = {name: entry for name, entry in entries.items() if name != "sample_spec"}

    def price(self, model: str, batch: bool, place: str) -> dict[str, Any]:
        """The price of a model as settings.

        Raises:
            ConfigError: it has none of these.
        """
        if model not in self.entries:
            near = difflib.get_close_matches(model, self.entries, NEAR, cutoff=0.5)
            guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise ConfigError(f"{place}: {self.path} has no model {model!r}{guess}", LITELLM)
        entry, end = self.entries[model], "_batches" if batch else ""
        where = f"{place}: {self.path}: {model}"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: {type_name(entry)} where an object is needed.", LITELLM)
        numbers = {name: _number(entry, field + end, where) for name, field in FIELDS.items()}
        known = CACHED + end in entry
        cached = {"cached": _number(entry, CACHED + end, where)} if known else {}
        return {**numbers, "per": 1, **cached, "source": self._source(model, entry, batch)}

    def _source(self, model: str, entry: Mapping[str, Any], batch: bool) -> str:
        tiers = sorted({key.split("_above_")[1] for key in entry if key.startswith(TIERS)})
        beyond = f"; above {', '.join(tiers)} it has other prices, not used" if tiers else ""
        kind = " in batches" if batch else ""
        return f"{model}{kind}, {self.path} ({self.digest}){beyond}"


def _number(entry: Mapping[str, Any], field: str, where: str) -> float:
    """A price of an entry."""
    value = entry.get(field)
    if isinstance(value, str | bool | list | dict) or value is None:
        said = type_name(value) if field in entry else "missing"
        raise ConfigError(f"{where}: {field} is {said}; need USD for one token.", LITELLM)
    if not 0 <= value <= MOST:
        raise ConfigError(
            f"{where}: {field} is {str(value)[:40]}; need USD for one token.", LITELLM
        )
    return float(value)
