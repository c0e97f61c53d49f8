"""Reports: evaluated runs as a folder that anybody can read, without this program.

index.html      everything on one page: no script, no network
report.md       the same in Markdown
report.json     the figures behind it, as `hcache eval --format json` prints them
recipe.json     what it was made from, for `verify_report`
figures/        each figure as SVG and PNG
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hcache.evaluation.report import Report
from hcache.experiment import Experiment
from hcache.files import replace_file
from hcache.reporting.examples import Examples, leaves_of_sequence, tell
from hcache.reporting.figures import pictures
from hcache.reporting.page import Content, html, markdown
from hcache.reporting.recipe import Recipe, read_recipe
from hcache.reporting.verifying import Verified, compared, read_figures, sources_of
from hcache.runs.evaluating import Evaluation, OnRouter, Others, evaluation_of
from hcache.runs.folder import Run, now
from hcache.runs.methods import best_method
from hcache.store import Store

__all__ = ["verify_report", "write_report"]


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
    made_from = [(experiment, tuple(runs)), *((other, tuple(own)) for other, own in others)]
    recipe = Recipe(split, tuple(command), now(), str(experiment.db), tuple(made_from))
    evaluation = _evaluated(recipe, on_router)
    evaluation.keep(split)
    files = _files_of(recipe, evaluation)
    for name, content in files.items():
        replace_file(out / name, content)
    recipe.write(out, files)
    return evaluation.report


def verify_report(
    folder: Path,
    db: Path | None = None,
    on_router: OnRouter = lambda name, done, total: None,
) -> Verified:
    """Make a report again from what it was made from, and compare every figure and every file.

    `db` is in place of its database. Runs keep nothing of it.

    Raises:
        RunError: the folder has no recipe, or that is damaged, or a run is gone.
        StoreError: a database is gone or damaged.
    """
    kept, then = read_recipe(folder, db), read_figures(folder)
    evaluation = _evaluated(kept.recipe, on_router)
    as_then = replace(evaluation.report, made_from=sources_of(then))
    files = _files_of(kept.recipe, replace(evaluation, report=as_then))
    return compared(folder, kept, then, evaluation.report, files)


def _evaluated(recipe: Recipe, on_router: OnRouter) -> Evaluation:
    """The evaluation that a recipe asks for; its report names the databases too."""
    (experiment, runs), *others = recipe.made_from
    evaluation = evaluation_of(experiment, runs, recipe.split, others, on_router)
    made_from = (*recipe.databases(), *evaluation.report.made_from)
    return replace(evaluation, report=replace(evaluation.report, made_from=made_from))


def _files_of(recipe: Recipe, evaluation: Evaluation) -> dict[str, bytes]:
    """The files of a report by name."""
    experiment, _ = recipe.made_from[0]
    drawn = pictures(evaluation.report, evaluation.methods)
    content = Content(
        experiment=experiment,
        split=recipe.split,
        command=recipe.command,
        created=recipe.created,
        database=recipe.database,
        report=evaluation.report,
        pictures=tuple(drawn),
        examples=_examples(experiment, recipe.split, evaluation),
    )
    files = {
        "index.html": html(content).encode(),
        "report.md": markdown(content).encode(),
        "report.json": content.report.to_json().encode(),
    }
    for picture in drawn:
        files[f"figures/{picture.name}.svg"] = picture.svg
        files[f"figures/{picture.name}.png"] = picture.png
    return files


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
