"""Reports: evaluated runs as a folder that anybody can read, without this program.

index.html      everything on one page: no script, no network
report.md       the same in Markdown
report.json     the figures behind it, as `hcache eval --json` prints them
figures/        each figure as SVG and PNG
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcache.evaluation.report import Report
from hcache.experiment import Experiment
from hcache.files import replace_file
from hcache.reporting.examples import Examples, leaves_of_sequence, tell
from hcache.reporting.figures import Picture, pictures
from hcache.reporting.page import Content, html, markdown
from hcache.runs.evaluating import Evaluation, OnRouter, Others, evaluation_of
from hcache.runs.folder import Run, now
from hcache.runs.methods import best_method
from hcache.store import Store

__all__ = ["write_report"]


def write_report(
    experiment: Experiment,
    runs: Sequence[Run],
    out: Path,
    split: str = "test",
    command: Sequence[str] = (),
    others: Others = (),
    on_router: OnRouter = lambda name, done, total: None,
) -> Report:
    """Evaluate runs on a split and write what was found into the folder `out`.

    The `others` are evaluated as `evaluate_runs` does; what is told of training and of single
    queries is of `runs` alone.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
    """
    evaluation = evaluation_of(experiment, runs, split, others, on_router)
    drawn = pictures(evaluation.report, evaluation.methods)
    content = Content(
        experiment=experiment,
        split=split,
        command=tuple(command),
        created=now(),
        report=evaluation.report,
        pictures=tuple(drawn),
        examples=_examples(experiment, split, evaluation),
    )
    _write(out, content, drawn)
    return evaluation.report


def _write(out: Path, content: Content, drawn: Sequence[Picture]) -> None:
    for picture in drawn:
        replace_file(out / "figures" / f"{picture.name}.svg", picture.svg)
        replace_file(out / "figures" / f"{picture.name}.png", picture.png)
    for name, text in (
        ("report.json", content.report.to_json()),
        ("report.md", markdown(content)),
        ("index.html", html(content)),
    ):
        replace_file(out / name, text.encode())


def _examples(experiment: Experiment, split: str, evaluation: Evaluation) -> Examples | None:
    """Of the router that is best on validation, in its first seed; None without a router."""
    config, tree = experiment.config, evaluation.trees[split]
    best = best_method(evaluation.methods, evaluation.trees["valid"], config.train.alpha)
    if best is None:
        return None
    sequence = evaluation.report.best_static
    router = (best.name, evaluation.leaves[best.name][0])
    static = (sequence, leaves_of_sequence(tree, sequence))
    with Store(experiment.db) as store:
        return tell(store, config, tree, router, static)
