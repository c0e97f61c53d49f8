"""`hcache bench`: all routers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from hcache.commands.console import notes, progress, say
from hcache.commands.options import (
    Database,
    ExperimentFile,
    Format,
    OutputFormat,
    Overrides,
    Plugins,
    TrackerName,
    Wide,
    With,
)
from hcache.commands.routers import EvaluationProgress, print_report
from hcache.commands.targets import load_experiment
from hcache.data.visible import one_line
from hcache.errors import RunError
from hcache.runs.tracking import DEFAULT

if TYPE_CHECKING:
    from hcache.runs.benching import Job
    from hcache.runs.folder import Run


def bench(
    experiment: ExperimentFile,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each router.")] = 1,
    algos: Annotated[
        str | None, typer.Option(help="Algorithms, with commas; otherwise all that fit.")
    ] = None,
    with_: With = None,
    split: Annotated[str, typer.Option(help="Where they are evaluated.")] = "test",
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    tracker: TrackerName = DEFAULT,
    wide: Wide = False,
    format: OutputFormat = Format.table,
) -> None:
    """Train every router in several seeds, a process per core, and evaluate them all.

    Of an experiment given by --with, the algorithm that its file names is trained. What is trained
    already is not trained again. A run that is damaged or diverges is left out of the table, and
    makes the exit code 1.

    Example: `hcache bench data/demo/experiment.yaml --seeds 5`
    """
    from hcache.runs.benching import algorithms, jobs
    from hcache.runs.evaluating import evaluate_runs

    loaded = load_experiment(experiment, set_, db, plugin)
    others = [load_experiment(file, set_, db, plugin) for file in with_ or ()]
    chosen = algos.split(",") if algos else _all_that_fit(algorithms(loaded))
    own = jobs(loaded, chosen, seeds, tracker)
    theirs = [jobs(other, [other.config.train.algo], seeds, tracker) for other in others]
    wanted = [*own, *(job for group in theirs for job in group)]
    runs = _train_all(wanted)
    trained = [[runs[job.key] for job in group if job.key in runs] for group in (own, *theirs)]
    with EvaluationProgress() as on_router:
        report = evaluate_runs(
            loaded,
            trained[0],
            split,
            list(zip(others, trained[1:], strict=True)),
            on_router,
        )
    print_report(report, format, wide)
    if missing := len(wanted) - len(runs):
        raise RunError(
            f"{missing} of {len(wanted)} runs are left out.",
            "Do what is said of each above, and run the same command again.",
        )


def _all_that_fit(known: dict[str, str]) -> list[str]:
    for name, reason in known.items():
        if reason:
            say(f"left out: {name}: {reason}", to=notes)
    return [name for name, reason in known.items() if not reason]


def _train_all(wanted: list[Job]) -> dict[str, Run]:
    """Train with a bar over the runs; runs by the key of their job, but those that are damaged."""
    from hcache.runs.benching import run_all

    done: dict[str, Run] = {}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress(*columns) as bars:
        task = bars.add_task("training", total=len(wanted))

        def finished(job: Job, run: Run) -> None:
            done[job.key] = run
            reward = run.manifest["outcome"]["best_valid_reward"]
            bars.update(task, advance=1, description=f"{job.name}: valid R {reward:.4f}")

        def failed(job: Job, error: RunError) -> None:
            bars.update(task, advance=1)
            say(one_line(f"left out: {job.key}: {error}"), to=notes)

        run_all(wanted, finished, failed)
    return done
