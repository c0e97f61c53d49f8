"""`hcache train`, `eval` and `route`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from hcache.commands.console import field, notes, print_rows, progress, say
from hcache.commands.options import (
    Database,
    ExperimentFile,
    Format,
    OutputFormat,
    Overrides,
    Plugins,
    Seed,
    TrackerName,
    Wide,
    With,
)
from hcache.commands.targets import RunName, load_experiment, target_of
from hcache.config.file import parse_settings
from hcache.config.schema import ExperimentConfig, TrainConfig
from hcache.errors import DataError
from hcache.models.replies import in_words
from hcache.runs.tracking import DEFAULT

if TYPE_CHECKING:
    from hcache.evaluation.report import Report
    from hcache.runs.folder import Run


def train(
    experiment: ExperimentFile,
    algo: Annotated[str | None, typer.Option(help="Algorithm, in place of train.algo.")] = None,
    seed: Seed = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    init: Annotated[str | None, typer.Option(help="Run to start from: SFT, then PPO.")] = None,
    plugin: Plugins = None,
    live: Annotated[
        bool, typer.Option("--live", help="Joint training on-policy: runs the models.")
    ] = False,
    tracker: TrackerName = DEFAULT,
    db: Database = None,
    set_: Overrides = None,
) -> None:
    """Train a router on the sampled trajectories.

    No model is run, but by joint training with --live. Stopped, the same command goes on;
    finished, it says where the run is.

    Example: `hcache train data/demo/experiment.yaml --algo ppo --seed 1`
    """
    from hcache.evaluation.partial import in_words as partial_in_words
    from hcache.runs.comparability import changes_since, outdated_by
    from hcache.runs.training import train as train_router

    if live and algo not in (None, "joint", "joint-live"):
        raise typer.BadParameter(f"--live is joint training: leave out --live, or --algo {algo}.")
    overrides = list(set_ or ())
    overrides += [f"train.seed={seed}"] if seed is not None else []
    overrides += [f"train.settings.device={device}"] if device is not None else []
    loaded = load_experiment(experiment, overrides, db, plugin, "joint-live" if live else algo)
    with TrainingProgress(loaded.config) as on_metrics:
        run = train_router(loaded, init=init, on_metrics=on_metrics, tracker=tracker)
    for warning in changes_since(loaded):
        say(f"WARNING: {warning}", "bold red", notes)
    if older := outdated_by(run):
        say(
            f"The data have changed since {', '.join(older)}: {run.name} is a run of its own.",
            to=notes,
        )
    if partial := run.manifest.get("partial"):
        say(f"WARNING: {partial_in_words(partial)}", "bold red", notes)
    for line in _outcome(run, str(experiment)):
        say(line)


def _outcome(run: Run, experiment: str) -> Iterator[str]:
    """End of a training, and what may follow."""
    outcome = run.manifest["outcome"]
    yield (
        f"{run.folder}: best validation reward {outcome['best_valid_reward']:.4f} "
        f"after {outcome['best_iteration']} of {outcome['iterations']} iterations, "
        f"{outcome['seconds']:.1f} s"
    )
    if outcome.get("halted"):
        yield "It ended by itself: its replies are used up, or the policy is too far from them."
    if outcome.get("changes_replies"):
        yield f"What it makes of the models: hcache sample {experiment} --policy {run.name}"
    kept = [line for line in run.metrics() if line["iteration"] == outcome["best_iteration"]]
    if kept and kept[0].get("valid_beats_static") == 0:
        yield (
            "It does not beat the best static sequence on the half of validation that it was not "
            "chosen on."
        )


class TrainingProgress:
    """A bar over iterations with the validation reward; gives the callback that moves it."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.bars = progress(
            "{task.description}",
            BarColumn(),
            "{task.completed:.0f}/{task.total:.0f} valid R {task.fields[reward]}",
            TimeRemainingColumn(),
        )
        name = f"{config.train.algo} seed {config.train.seed}"
        self.task = self.bars.add_task(name, total=config.train.iterations, reward="")

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        return self._update

    def __exit__(self, *error: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def _update(self, metrics: dict[str, float]) -> None:
        self.bars.start()  # at the first figure, so that errors before it stand alone
        self.bars.update(self.task, completed=metrics["iteration"])
        if (reward := metrics.get("valid_reward")) is not None:
            self.bars.update(self.task, reward=f"{reward:.4f}")


class EvaluationProgress:
    """A bar over the routers that are evaluated; gives the callback that moves it."""

    def __init__(self) -> None:
        self.bars = progress("{task.description}", BarColumn(), MofNCompleteColumn())
        self.task = self.bars.add_task("evaluating", total=None)

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._update

    def __exit__(self, *error: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def _update(self, name: str, done: int, total: int) -> None:
        self.bars.start()  # at the first router, so that errors before it stand alone
        self.bars.update(self.task, completed=done, total=total, description=f"evaluating: {name}")


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT.yaml|RUN",
            help="An experiment (all its finished runs) or one run.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    alpha: Annotated[
        float | None, typer.Option(help="α of the reward, in place of its own.")
    ] = None,
    with_: With = None,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    wide: Wide = False,
    format: OutputFormat = Format.table,
) -> None:
    """Evaluate routers against every single model, the best static sequence, random and the oracle.

    Intervals are over seeds and queries; runs of one algorithm with several seeds are averaged.
    With --alpha, routers that serve any α are evaluated at that one; others that were trained for
    another are left out.

    Example: `hcache eval data/demo/experiment.yaml --split test`
    """
    from hcache.runs.evaluating import evaluate_runs
    from hcache.runs.training import with_train

    experiment, runs = target_of(target, set_, db, plugin)
    if alpha is not None:
        values = experiment.config.train.model_dump() | {"alpha": alpha}
        experiment = with_train(experiment, parse_settings(TrainConfig, values, "--alpha"))
    others = [target_of(str(file), set_, db, plugin) for file in with_ or ()]
    with EvaluationProgress() as on_router:
        report = evaluate_runs(experiment, runs, split, others, on_router)
    print_report(report, format, wide)


def print_report(report: Report, format: Format, wide: bool = False) -> None:
    """Print a report; as a table with the verdicts and what must be known below."""
    from hcache.evaluation.leaderboard import footnotes, lines, title

    if format is not Format.table:
        print_rows(report.rows, format, whole=report.to_dict())
        return
    group = report.groups[0]
    print_rows(lines(group, wide), title=title(report, group))
    for sentence in (*footnotes(group), *report.verdicts.values()):
        say(sentence)
    print_remarks(report)


def print_remarks(report: Report) -> None:
    """Print what must be known before the figures are believed, then the rest."""
    for warning in report.warnings:
        say(f"WARNING: {warning}", "bold red")
    for note in (*report.notes, *in_words(report.replies)):
        say(note)


def route(
    run: RunName,
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    experiment: Annotated[
        Path | None, typer.Option(help="Experiment file, where the run's own has moved.")
    ] = None,
    passages: Annotated[
        Path | None, typer.Option(help="File of texts that a tool may search, one a line.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data set whose instruction it is asked with, where they differ."),
    ] = None,
    format: OutputFormat = Format.table,
) -> None:
    """Route one question live: the trained router decides, real models answer.

    Example: `hcache route RUN "What is: 12 + 30"`
    """
    from hcache.runs.routing import live_router

    with live_router(run, experiment) as router:
        routed = router.route(question, _lines(passages), data)
    if format is not Format.table:
        print_rows([asdict(step) for step in routed.steps], format, whole=asdict(routed))
        return
    for step in routed.steps:
        role = f", {step.role}" if step.role else ""
        field(f"{step.arm}{role} ({step.cost:.4g}):", step.reply)
    field(f"answer ({routed.sequence}, cost {routed.cost:.4g}):", routed.answer)
    for note in routed.notes:
        say(note, "dim")


def _lines(file: Path | None) -> list[str]:
    """The lines of a file that are not empty."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--passages {file}: cannot be read as UTF-8 text ({error}).",
            "Give a text file with one passage a line.",
        ) from error
    return [line for line in lines if line.strip()]
