"""Prices of an experiment as people see them, and figures of runs that were stored before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers.experiments import Raw, load, per_1000, sample, settings, write_scripts
from typer.testing import CliRunner

from hcache.checking import check_database
from hcache.commands.app import app
from hcache.experiment import Experiment
from hcache.recorded.importing import import_files
from hcache.replay.loading import load_replay
from hcache.runs.evaluating import evaluate_runs
from hcache.runs.folder import Run
from hcache.runs.prices import price_remarks, prices_of, unit_changed
from hcache.runs.training import repeat, train
from hcache.store import Store

QUICK = {"algo": "sft", "iterations": 2, "evaluate_every": 1}
LIST = {"mini": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
                 "cache_read_input_token_cost": 7.5e-08}}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scripts(tmp_path, "ab")
    (tmp_path / "prices.json").write_text(json.dumps(LIST))
    return tmp_path


def raw_of(folder: Path, **prices: Any) -> Raw:
    raw = settings("ab", runs=str(folder / "runs"), train=QUICK, evaluate={"resamples": 100})
    for arm, price in prices.items():
        raw["arms"][arm] = {"model": arm} if price is None else {"model": arm, "price": price}
    return raw


def run_on(experiment: Experiment, *arguments: str) -> str:
    command = [arguments[0], str(experiment.source), "--db", str(experiment.db), *arguments[1:]]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_prices_are_shown_with_where_they_are_from(folder: Path) -> None:
    raw = raw_of(folder, a="mini", b=None) | {"prices": "prices.json"}
    experiment = load(folder, raw)
    found = json.loads(run_on(experiment, "prices", "--format", "json"))
    a, b = found["arms"]
    assert (a["input"], a["output"], a["cached"], a["call"]) == (0.15, 0.6, 0.075, None)
    assert (b["input"], b["output"], b["cached"], b["source"]) == (1000, 1000, None, "default")
    assert a["source"].startswith("mini, prices.json (")
    assert found["cost"] == "tokens at these prices" and found["remarks"] == []
    shown = run_on(experiment, "prices")
    assert "for 1,000,000 tokens" in shown and "0.075" in shown and "mini, prices.json" in shown


def test_calls_of_the_database_are_shown_at_these_prices(folder: Path) -> None:
    sample(folder, raw_of(folder))
    experiment = load(folder, raw_of(folder, a={"input": 1, "output": 3, "per": 1}))
    a, b = prices_of(experiment).arms
    with Store(experiment.db) as store:
        sql = """select avg(prompt_tokens), avg(output_tokens) from generations
                 join arms using (fingerprint) where name = $1"""
        (read, written), (read_b, written_b) = (store.sql(sql, [n]).row(0) for n in "ab")
    assert a.call == pytest.approx(read + 3 * written)
    assert b.call == pytest.approx(2 * (read_b + written_b) / 1000)


def test_without_any_price_costs_are_tokens_in_thousands(folder: Path) -> None:
    assert prices_of(load(folder, raw_of(folder, a=None, b=None))).cost == "tokens, in thousands"


def test_numbers_that_lost_their_unit_are_a_warning_wherever_it_matters(folder: Path) -> None:
    sample(folder, raw_of(folder, a=per_1000(1), b={"input": 2, "output": 3, "per": 1000}))
    same = load(folder, raw_of(folder, a=1000, b={"input": 2000, "output": 3000}))
    assert price_remarks(same) == []
    lost = load(folder, raw_of(folder, a=1000, b={"input": 2, "output": 3}))
    assert unit_changed(lost).startswith("the prices of b are a thousandth of those that ")
    train(lost)
    for command in ("prices", "plan", "train", "eval", "sample"):
        shown = " ".join(run_on(lost, command).split())
        assert "WARNING: the prices of b are a thousandth" in shown, command
    assert unit_changed(lost) == ""  # it was sampled like that


def test_recorded_tokens_at_no_price_are_a_warning(tmp_path: Path) -> None:
    rows = [f"q{n},{arm},{n % 2},{cost},10" for n in range(9) for arm, cost in (("x", 1), ("y", 2))]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["query,arm,score,cost,output_tokens", *rows]))
    import_files("long", [table], tmp_path / "m.duckdb", name="m", options={"unit": "EUR"})
    file = tmp_path / "m.yaml"
    assert "# Costs are as recorded, in EUR, and so is the C of R = Q - alpha * C." in (
        file.read_text().splitlines()
    )
    stated = prices_of(Experiment.load(file))
    assert (stated.cost, stated.remarks) == ("as recorded, in EUR", ())
    counted = Experiment.load(file, ["cost=tokens"])
    (said,) = prices_of(counted).remarks
    assert said.startswith("cost is made of tokens, and no arm has a price: a token costs 1/1,000")
    shown = " ".join(run_on(counted, "eval", "--set", "cost=tokens").split())
    assert "WARNING: cost is made of tokens, and no arm has a price" in shown
    half = Experiment.load(file, ["cost=tokens", "arms.x.price=3"])
    assert price_remarks(half)[0].startswith("cost is made of tokens, and y have no price")
    assert not price_remarks(Experiment.load(file, ["cost=tokens", "arms.x.price=3",
                                                    "arms.y.price=0"]))  # fmt: skip


def test_an_import_without_costs_says_what_its_costs_are(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("query,arm,score\n" + "".join(f"q{n},x,{n % 2}\n" for n in range(9)))
    import_files("long", [table], tmp_path / "m.duckdb", name="m")
    head = (tmp_path / "m.yaml").read_text().split("\nname:")[0]
    assert "C of R = Q - alpha * C is made of tokens, at 1 for 1,000 of them" in head
    assert all(line.startswith("# ") for line in head.splitlines())
    assert Experiment.load(tmp_path / "m.yaml").config.cost == "tokens"


# What an older version has stored


def strip(config: Raw) -> Raw:
    """Settings as they were stored when every price was for 1,000 tokens."""
    config.pop("prices")
    for arm in config["arms"].values():
        arm["price"] = {name: arm["price"][name] for name in ("input", "output")}
    return config


def make_old(db: Path, run: Run) -> Run:
    """Turn a database and a run into what they were before prices had a unit."""
    with duckdb.connect(str(db)) as connection:
        for table, key, column in (
            ("experiments", "experiment", "config"),
            ("arms", "arm_id", "settings"),
        ):
            for name, text in connection.execute(f"select {key}, {column} from {table}").fetchall():
                stored = json.loads(text)
                if table == "experiments":
                    stored = strip(stored)
                else:
                    stored["price"] = {k: stored["price"][k] for k in ("input", "output")}
                new = json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                update = f"update {table} set {column} = $1 where {key} = $2"
                connection.execute(update, [new, name])
    manifest = run.manifest
    strip(manifest["config"])
    run.write_manifest(manifest)
    return Run(run.folder)


def test_runs_and_databases_of_before_have_the_figures_that_they_had(folder: Path) -> None:
    raw = raw_of(folder, a=per_1000(1), b={"input": 2, "output": 300, "per": 1000})
    sample(folder, raw)
    experiment = load(folder, raw)
    run = train(experiment)
    before = evaluate_runs(experiment, [run])
    with Store(experiment.db) as store:
        tree = load_replay(store, experiment.config, "test").fingerprint
        leaderboard = store.sql("select * from leaderboard order by all").rows()
    old = make_old(experiment.db, run)
    assert '"per"' not in json.dumps(old.manifest["config"]["arms"])
    assert old.config.arms == experiment.config.arms
    after = evaluate_runs(load(folder, raw), [old])
    assert (after.rows, after.notes, after.warnings) == (before.rows, before.notes, ())
    assert len(evaluate_runs(old.experiment(), [old]).rows) == len(before.rows)
    assert evaluate_runs(old.experiment(), [old]).rows == before.rows
    with Store(experiment.db) as store:
        assert load_replay(store, old.config, "test").fingerprint == tree
        assert store.sql("select * from leaderboard order by all").rows() == leaderboard
    assert repeat(old) is None
    found = check_database(experiment.db, load(folder, raw))
    assert [str(fault) for fault in found.faults] == []
    assert train(load(folder, raw)).name == run.name  # it is found again
