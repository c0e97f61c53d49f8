"""The prices that an experiment's costs are made of: what they are, and what is odd about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hcache.config.prices import DEFAULT, MILLION, Price
from hcache.engines.recorded import NAME as RECORDED
from hcache.experiment import Experiment
from hcache.store import Store, exists
from hcache.store.queries import STORED, UNITS

Pair = tuple[float, float]


@dataclass(frozen=True)
class Priced:
    """The price of an arm, for 1,000,000 tokens."""

    arm: str
    model: str
    input: float
    output: float
    cached: float | None  # known, but in no cost
    source: str
    call: float | None  # mean cost of the calls that the database holds, at these prices


@dataclass(frozen=True)
class Prices:
    """The prices of an experiment, and what its costs are counted in."""

    cost: str  # in words
    arms: tuple[Priced, ...]
    remarks: tuple[str, ...]


def prices_of(experiment: Experiment) -> Prices:
    """The prices that an experiment's file comes to; its database need not be there.

    Raises:
        StoreError: the database cannot be read.
    """
    config = experiment.config
    calls, units = _stored(experiment)
    arms = tuple(
        Priced(
            name,
            config.models[arm.model].path,
            *arm.price.rates(MILLION),
            source=arm.price.source or str(experiment.source),
            call=calls.get(name),
        )
        for name, arm in config.arms.items()
    )
    return Prices(_counted_in(experiment, units), arms, tuple(price_remarks(experiment)))


def price_remarks(experiment: Experiment) -> list[str]:
    """Warnings of prices that are missing where costs are made of them, or in another unit."""
    return [said for said in (unpriced(experiment), unit_changed(experiment)) if said]


def unpriced(experiment: Experiment) -> str:
    """Warning where tokens that others have recorded are counted at no price of theirs, or ""."""
    config = experiment.config
    odd = [
        name
        for name, arm in config.arms.items()
        if config.models[arm.model].engine == RECORDED and arm.price.source == DEFAULT
    ]
    if config.cost == "recorded" or not odd:
        return ""
    who = "no arm has a" if len(odd) == len(config.arms) else f"{', '.join(odd)} have no"
    return (
        f"cost is made of tokens, and {who} price: a token costs 1/1,000, whichever the model. "
        "Give prices: docs/recorded.md."
    )


def unit_changed(experiment: Experiment) -> str:
    """Warning where the numbers of a file are those of its database in another unit, or ""."""
    if not exists(experiment.db):
        return ""
    name = experiment.name
    with Store(experiment.db) as store:
        rows = store.pool(name).join(store.rows_of("pools", name), "arm_id")
    columns = rows.select("name", "input_price", "output_price")
    stored: dict[str, Pair] = {name: (read, written) for name, read, written in columns.rows()}
    arms = experiment.config.arms.items()
    odd = [name for name, arm in arms if _lost_its_unit(stored.get(name), arm.price)]
    if not odd:
        return ""
    return (
        f"the prices of {', '.join(odd)} are a thousandth of those that {experiment.db} has: they "
        "are for 1,000,000 tokens. If they are meant for 1,000, say so, as in "
        "price: {input: 1, output: 2, per: 1000}."
    )


def _lost_its_unit(stored: Pair | None, price: Price) -> bool:
    """True if a price for a million tokens has the numbers that are stored for 1,000."""
    if stored is None or not any(stored) or price.per != MILLION:
        return False
    return all(map(math.isclose, stored, (price.input, price.output)))


def _counted_in(experiment: Experiment, units: list[str]) -> str:
    """The unit of an experiment's costs, in words."""
    if experiment.config.cost == "recorded":
        return f"as recorded, in {' and '.join(units) or 'a unit that nothing says'}"
    sources = {arm.price.source for arm in experiment.config.arms.values()}
    return "tokens, in thousands" if sources == {DEFAULT} else "tokens at these prices"


def _stored(experiment: Experiment) -> tuple[dict[str, float], list[str]]:
    """Mean cost of the calls of each arm, where it is made of tokens; units of recorded costs."""
    if not exists(experiment.db):
        return {}, []
    with Store(experiment.db) as store:
        rows = store.sql(STORED).filter(experiment=experiment.name)
        units = store.sql(UNITS, [experiment.name])["unit"].to_list()
    arms = experiment.config.arms
    if experiment.config.cost == "recorded":
        return {}, units
    calls = {
        row["arm"]: arms[row["arm"]].price.of(row["prompt_tokens"], row["output_tokens"])
        / row["generations"]
        for row in rows.iter_rows(named=True)
        if row["arm"] in arms and row["generations"]
    }
    return calls, units
