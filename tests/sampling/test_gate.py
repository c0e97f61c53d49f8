"""A cap on what a run may cost: never exceeded, said when it is reached, and lifted by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import facts, load, per_1000, plain_arm, settings, table
from helpers.servers import fake_server, remote
from hypothesis import given
from hypothesis import strategies as st

from hcache.commands.sampling import summary
from hcache.engines import Generation, Request
from hcache.errors import ConfigError
from hcache.sampling import Sampler, Tally
from hcache.sampling.gate import Gate, most
from hcache.workflows import Message


def request(key: str, text: str = "a", **arm: Any) -> Request:
    return Request(key, plain_arm("a", price=per_1000(1), **arm), (Message("user", text),), "", 0)


def run(folder: Path, raw: dict[str, Any], max_cost: float | None) -> Tally:
    return Sampler(load(folder, raw | {"sampling": {"max_cost": max_cost}})).run()


@pytest.mark.parametrize("cap", [0.0, 1.0, 2.5, 4.0])
def test_a_cap_is_kept_to_and_another_goes_on(folder: Path, cap: float) -> None:
    raw = settings("ab")
    whole = load(folder, raw | {"db": "whole.duckdb"})
    Sampler(whole).run()
    done, spent = [], 0.0
    for _ in range(50):
        tally = run(folder, raw, cap)
        assert tally.spent <= cap and not tally.missing
        done.append(sum(tally.generated.values()))
        spent += tally.spent
        if tally.complete == 5:
            break
        assert tally.unpaid and "they could pass sampling.max_cost" in summary(tally, "db")
        if not done[-1]:
            break
    if cap >= 1.0:
        assert tally.complete == 5 and facts(folder / "small.duckdb") == facts(whole.db)
    else:
        assert done == [0]
    prices = {"a": 1, "b": 2}
    rows = table(folder / "small.duckdb", "generations join arms using (fingerprint)")
    cost = sum(
        prices[row["name"]] * (row["prompt_tokens"] + row["output_tokens"]) / 1000
        for row in rows.iter_rows(named=True)
    )
    assert spent == pytest.approx(cost)


def test_a_cap_holds_while_many_are_asked_at_once(folder: Path) -> None:
    """One that looked at finished replies alone would send all of them first."""
    models = remote("ab", "")
    with fake_server() as fake:
        fake.delay = 0.05
        for model in models.values():
            model["server"]["endpoints"] = [fake.url]
        tally = run(folder, settings("ab", models=models), 0.7)  # two may cost 0.66
        assert fake.most <= 2 and 0 < len(fake.bodies) < 30
    assert tally.unpaid and tally.spent <= 0.7 and sum(tally.generated.values()) == len(fake.bodies)


def test_a_cap_at_prices_that_nobody_gave_is_refused(folder: Path) -> None:
    raw = settings("a", models=remote("a", "http://127.0.0.1:1/v1"), sampling={"max_cost": 3})
    raw["arms"] = {"a": {"model": "a"}}
    with pytest.raises(ConfigError, match=r"arms.a.price: missing, which sampling.max_cost needs"):
        load(folder, raw)
    raw["arms"] = {"a": {"model": "a", "price": per_1000(1)}}
    load(folder, raw)
    raw["arms"], raw["models"] = {"a": {"model": "a"}}, settings("a")["models"]
    load(folder, raw)


@given(
    cap=st.floats(0, 5),
    texts=st.lists(st.text(max_size=400), max_size=30),
    share=st.floats(0, 1),
)
def test_whatever_is_asked_the_cap_holds(cap: float, texts: list[str], share: float) -> None:
    tally = Tally()
    gate = Gate(cap, tally)
    running: list[Request] = []
    for number, text in enumerate(texts):
        gate.reckon(running)
        each = request(str(number), text, max_tokens=64)
        if gate.passes(each):
            running.append(each)
        if number % 3 == 2 and running:
            first = running.pop(0)
            read, written = len(first.messages[0].content.encode()) + 256, round(64 * share)
            tally.count(first.arm, Generation(first.key, "", (), read, "stop", counted=written))
    assert tally.spent + sum(map(most, running)) <= cap + 1e-9


def test_without_a_cap_everything_passes() -> None:
    gate = Gate(None, Tally())
    gate.reckon([])
    assert gate.passes(request("1", "a" * 10**6)) and not gate.shut
