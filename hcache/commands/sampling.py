"""`hcache plan`, `hcache sample` and `hcache rescore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TaskID, TimeRemainingColumn

from hcache.commands.console import console, field, notes, print_rows, progress, say
from hcache.commands.options import (
    AllowCode,
    Database,
    ExperimentFile,
    Format,
    OutputFormat,
    Overrides,
    Plugins,
    Workers,
    permit_code,
)
from hcache.commands.targets import load_experiment
from hcache.config.schema import Server
from hcache.data.queries import SPLITS, dropped_in_words
from hcache.engines import engine_of
from hcache.engines.fleet import Fleet
from hcache.engines.placement import Placement
from hcache.engines.recorded import NAME as RECORDED
from hcache.errors import ConfigError, StoreError, together
from hcache.experiment import Experiment
from hcache.models.replies import in_words
from hcache.sampling import Plan, Sampler, Tally, make_plan
from hcache.sampling.batches import Written, read_results, write_batch
from hcache.sampling.placing import planned_placement, serving
from hcache.sampling.sampler import PATIENCE_SECONDS
from hcache.sampling.scoring import rescore as score_again
from hcache.store import Store


def plan(
    experiment: ExperimentFile,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    show: Annotated[int, typer.Option(help="Print this many real prompts.")] = 0,
    workers: Workers = None,
    batch: Annotated[
        Path | None,
        typer.Option(help="Write what servers' models can be asked now as a batch file instead."),
    ] = None,
    format: OutputFormat = Format.table,
) -> None:
    """Say what sampling would do: generations, what is cached, tokens, time. Runs no model.

    Example: `hcache plan data/demo/experiment.yaml --show 3`
    """
    loaded = load_experiment(experiment, _with(set_, workers), db, plugin)
    if batch is not None:
        if show or format is not Format.table:
            raise typer.BadParameter("--batch writes a file: it goes without --show and --format.")
        _say_written(write_batch(loaded, batch))
        return
    _warn_of_unit(loaded)
    made = make_plan(loaded, show)
    if format is not Format.table:
        print_rows([asdict(line) for line in made.lines], format, whole=_plan_in_full(loaded, made))
        return
    print_rows(_plan_rows(made), title=f"plan of {loaded.name}")
    say(f"database: {loaded.db.resolve()}")
    say(
        f"{len(loaded.queries())} queries, at most {made.missing} generations to make, "
        f"{_duration(made.seconds)}."
    )
    _print_dropped(loaded)
    for number, request in enumerate(made.prompts, 1):
        console.rule(f"prompt {number}: {request.arm.name}")
        for message in request.messages:
            field(f"{message.role}:", message.content, "dim")
    placement, why_not = planned_placement(loaded)
    if placement is not None:
        print_rows(_placement_rows(placement), title=_title(placement))
    if why_not:
        say(why_not)
    if made.errors:
        raise together(made.errors)


def sample(
    experiment: ExperimentFile,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    budget: Annotated[
        int | None, typer.Option(min=0, help="Make at most this many generations; whole queries.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no query after this many minutes.")
    ] = None,
    split: Annotated[str, typer.Option(help="Splits to sample, parted by commas.")] = ",".join(
        SPLITS
    ),
    policy: Annotated[
        str | None,
        typer.Option(help="A joint run: sample with its ΔW, into a database of its own."),
    ] = None,
    engine: Annotated[
        Server | None,
        typer.Option(help="With --policy: what runs the models, transformers if not said."),
    ] = None,
    workers: Workers = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Results of a batch, in place of servers. Repeatable."),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Run every model sequence of every query, and keep all of it. Made once, never again.

    Ctrl-C keeps what is finished; the same command goes on where it stopped.

    Example: `hcache sample data/demo/experiment.yaml`
    """
    permit_code(allow_code)
    loaded = load_experiment(experiment, _with(set_, workers), db, plugin)
    _refuse_recorded(loaded)
    if policy is not None:
        from hcache.runs.folder import find_run
        from hcache.runs.routing import with_changes

        run = find_run(policy, Path(loaded.config.runs))
        loaded = with_changes(loaded, run, db, engine or "transformers")
    elif engine is not None:
        raise ConfigError("--engine is for models with a ΔW.", "Name its run: --policy RUN.")
    _warn_of_unit(loaded)
    served = serving(loaded)
    came = read_results(loaded, results) if results else None
    with SamplingProgress() as bars:
        tally = Sampler(
            loaded,
            served.factory if came is None else came.before(served.factory),
            splits=split.split(","),
            budget=budget,
            minutes=minutes,
            workers=served.workers,
            answered=served.answered,
            swap=served.swap,
            only=None if came is None else came.generations,
            on_progress=bars.update,
        ).run()
    say(summary(tally, str(loaded.db.resolve())))
    if served.fleet is not None:
        say(_said_of(served.fleet))
    if came is not None and came.failed:
        say(f"{len(came.failed)} lines of results hold no reply; the first is {came.failed[0]}.")
    for sentence in in_words(tally.replies):
        say(sentence)
    _print_dropped(loaded)


def _refuse_recorded(experiment: Experiment) -> None:
    """Refuse an experiment of whose arms none can be asked, before anything of it is stored.

    Raises:
        ConfigError: all outcomes were recorded by others.
    """
    if all(engine_of(arm.model_config) == RECORDED for arm in experiment.pool):
        raise ConfigError(
            f"{experiment.source}: no arm can be asked, all outcomes were recorded by others.",
            "Import what is missing with `hcache import`; `hcache bench` takes what is there, "
            "`hcache rescore` scores it again.",
        )


def _with(overrides: list[str] | None, workers: str | None) -> list[str]:
    """Overrides with the workers, where they are given."""
    return [*(overrides or ()), *([] if workers is None else [f"sampling.workers={workers}"])]


def _warn_of_unit(experiment: Experiment) -> None:
    """Say in time that prices have lost their unit: a cap on cost would not hold."""
    from hcache.runs.prices import unit_changed

    if said := unit_changed(experiment):
        say(f"WARNING: {said}", "bold red", notes)


def _say_written(written: Written) -> None:
    """Say where batch files are, and how to go on."""
    for file, count in written.requests.items():
        say(f"{count} requests in {file}; take their results with: hcache sample … --from RESULTS")
    if not written.requests:
        say("nothing that can be asked of a server's model is missing")
    if written.others:
        say(f"{written.others} requests of other models are missing too: hcache sample makes them")


def _print_dropped(experiment: Experiment) -> None:
    if said := dropped_in_words(experiment.dropped):
        say(said)


def rescore(
    experiment: ExperimentFile,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    allow_code: AllowCode = False,
    format: OutputFormat = Format.table,
) -> None:
    """Score stored replies anew where a metric or an extractor has changed. Runs no model.

    Needs no files of models either; `hcache sample` does the same at its end.

    Example: `hcache rescore data/demo/experiment.yaml`
    """
    permit_code(allow_code)
    loaded = load_experiment(experiment, set_, db, plugin)
    with Store(loaded.db) as store:
        if loaded.name not in store.experiments():
            raise StoreError(
                f"{loaded.db} holds no experiment {loaded.name!r}.",
                "Sample it first: hcache sample EXPERIMENT.yaml",
            )
    with progress("scoring: {task.completed:,.0f}") as bar:
        task = bar.add_task("", total=None)
        scored = score_again(
            loaded, PATIENCE_SECONDS, lambda scores: bar.update(task, completed=scores)
        )
    if format is not Format.table:
        print_rows([asdict(scored)], format, whole=asdict(scored))
        return
    say(f"{scored} in {loaded.db}")


class SamplingProgress:
    """A bar for each arm, with rate and time left."""

    def __init__(self) -> None:
        self.bars = progress(
            "{task.description}",
            BarColumn(),
            "{task.completed:.0f}/{task.total:.0f}",
            "{task.fields[rate]}",
            TimeRemainingColumn(),
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> SamplingProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def update(self, tally: Tally) -> None:
        """Show a tally."""
        if not tally.expected:
            return  # nothing has begun
        self.bars.start()
        for arm in tally.expected:
            done, total = tally.done(arm), tally.total(arm)
            if arm not in self.tasks:
                self.tasks[arm] = self.bars.add_task(arm, total=total, rate="")
            rate = tally.generated[arm] / max(tally.seconds, 1e-9)
            self.bars.update(self.tasks[arm], completed=done, total=total, rate=f"{rate:.1f}/s")
        if "queries" not in self.tasks:
            self.tasks["queries"] = self.bars.add_task("queries", total=tally.queries, rate="")
        self.bars.update(self.tasks["queries"], completed=tally.complete)


def summary(tally: Tally, db: str) -> str:
    """Summary of a run, in words."""
    generated, cached = sum(tally.generated.values()), sum(tally.cached.values())
    text = (
        f"{generated} generations made ({cached} were there) in {tally.seconds:.1f} s; "
        f"{tally.complete} of {tally.queries} queries complete in {db}"
    )
    if tally.scored.new or tally.scored.anew or tally.scored.left:
        text += f"; {tally.scored}"
    if tally.spent:
        text += f"; cost {tally.spent:.4g}"
    if tally.unpaid:
        text += (
            f"; {tally.unpaid} requests not sent: they could pass sampling.max_cost, a run with "
            "another goes on"
        )
    if tally.absent:
        text += (
            f"; {tally.absent} requests are not in the results: `hcache plan … --batch` writes them"
        )
    if tally.left and tally.least > 0:
        text += (
            f"; nothing was made, since whole queries alone are: one takes {tally.least} "
            f"generations, so give --budget {tally.least} or more"
        )
    elif tally.left:
        text += f"; {tally.left} queries left for want of budget: run the same command again"
    if tally.moved:
        text += (
            f"; {tally.moved} queries are in another split than before: routers trained before "
            "are not evaluated on what they learned from, train them again"
        )
    if tally.waiting:
        text += "; the database is in use, finished generations wait beside it for the next run"
    return text


def _plan_in_full(experiment: Experiment, made: Plan) -> dict[str, object]:
    return {
        "experiment": experiment.name,
        "queries": len(experiment.queries()),
        "missing": made.missing,
        "seconds": made.seconds,
        "lines": [asdict(line) for line in made.lines],
    }


def _plan_rows(made: Plan) -> list[dict[str, object]]:
    return [
        {
            "hop": line.hop,
            "arm": line.arm,
            "generations": line.generations,
            "cached": line.cached,
            "prompt tokens": line.prompt_tokens,
            "output tokens at most": line.output_tokens,
            "minutes": None if line.seconds is None else line.seconds / 60,
        }
        for line in made.lines
    ]


def _title(placement: Placement) -> str:
    return "workers, one model at a time" if placement.swap else "workers"


def _said_of(fleet: Fleet) -> str:
    """Generations and ends of each worker, in words."""
    made = ", ".join(f"{name}: {count}" for name, count in fleet.answered.items())
    lost = f"; ended by themselves: {fleet.deaths}, what they owed was asked again"
    return f"generations by worker: {made}" + (lost if fleet.deaths else "")


def _placement_rows(placement: Placement) -> list[dict[str, object]]:
    return [
        {
            "worker": number,
            "on": post.name,
            "model": seat.model,
            "share of memory": seat.share,
        }
        for number, post in enumerate(placement.posts, 1)
        for seat in post.seats
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown until each arm has run once (`hcache sample … --budget 50` measures)"
    return f"about {seconds / 60:.1f} minutes at the rate measured before"
