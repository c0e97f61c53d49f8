"""`hcache logged`: what a router would have got, from the log of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hcache.commands.console import console, print_rows, say
from hcache.commands.options import Database, Format, OutputFormat
from hcache.commands.targets import RunName, target_of
from hcache.data.queries import known_split
from hcache.store import Store
from hcache.store.queries import QUESTIONS

if TYPE_CHECKING:
    from hcache.logged.estimate import Estimates
    from hcache.runs.folder import Run


def logged(
    log: Annotated[
        Path,
        typer.Argument(
            help="A CSV, TSV, JSON-lines or parquet file, one row for each step.",
            show_default=False,
        ),
    ],
    run: RunName,
    split: Annotated[str, typer.Option(help="Split that the log's questions are of.")] = "test",
    db: Database = None,
    format: OutputFormat = Format.table,
) -> None:
    """Estimate what a router would have got from a log in which another one chose.

    Columns: query or question, episode, hop, action (an arm or STOP), propensity, cost, score.
    Questions and replies have to be in the database. Where the log cannot answer, it is said why,
    and there are no figures.

    Example: `hcache logged LOG.csv RUN`
    """
    known_split(split)
    _, (found,) = target_of(run, (), db, ())
    estimates, notes = _estimates(log, found, split, db)
    found.record_look(split)
    if format is not Format.table:
        whole = estimates.to_dict() | {"notes": notes}
        print_rows(_rows(whole["rows"]), format, whole=whole)
        return
    _show(estimates, found)
    for note in notes:
        say(note)


def _estimates(file: Path, run: Run, split: str, db: Path | None) -> tuple[Estimates, list[str]]:
    """The estimates for a run, and what is to be said of what it has learnt from."""
    from hcache.logged.estimate import estimate
    from hcache.logged.files import read_log
    from hcache.policies import at_alpha
    from hcache.policies.rollout import greedy_probs
    from hcache.replay.loading import load_replay
    from hcache.runs.leakage import without_leakage

    experiment, train = run.experiment(db), run.config.train
    with Store(experiment.db) as store:
        tree = load_replay(store, experiment.config, split).tree
        questions = {text: query for query, text in store.sql(QUESTIONS).iter_rows()}
    tree = tree if train.stop else tree.without_stop()
    log = read_log(file, tree, questions)
    asked = {tree.queries[query] for query in log.query_E.tolist()}
    _, notes = without_leakage([run], experiment.db, asked, split)
    probs_NA = greedy_probs(at_alpha(run.policy, train.alpha), tree)
    return estimate(tree, log, probs_NA, train.alpha), notes


def _rows(estimates: dict[str, Any]) -> list[dict[str, Any]]:
    """Flat rows of nested estimates, for tables."""
    return [
        {"estimator": name}
        | {f"{what}_{part}": value for what, row in rows.items() for part, value in row.items()}
        for name, rows in estimates.items()
    ]


def _show(estimates: Estimates, run: Run) -> None:
    from hcache.evaluation.leaderboard import cell

    support, alpha = estimates.support, run.config.train.alpha
    table = Table(title=f"{run.name} on this log", title_justify="left")
    for name in ("estimator", "quality", "cost", f"R = Q - {alpha:g} C"):
        table.add_column(name, justify="left" if name == "estimator" else "right")
    for name, row in estimates.rows.items():
        table.add_row(name, *map(cell, row.values()))
    console.print(table)
    mean = support.mean_weight
    say(
        f"{support.episodes:,} episodes of {support.queries:,} queries, worth "
        f"{support.effective:.1f} queries by their weights; the largest weight has "
        f"{support.largest:.1%} of all; mean weight {mean.estimate:.3f} "
        f"[{mean.low:.3f}, {mean.high:.3f}]; never tried: {support.untried:.1%}."
    )
    for reason in support.reasons:
        say(f"The log cannot answer: {reason}.", "bold red")
