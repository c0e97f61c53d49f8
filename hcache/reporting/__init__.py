"""Reports: evaluated runs as a folder that anybody can read, without this program.

index.html      everything on one page: no script, no network
report.md       the same in Markdown
report.json     the figures behind it, as `hcache eval --json` prints them
figures/        each figure as SVG and PNG
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hcache.config.schema import ExperimentConfig
from hcache.evaluation.report import Report
from hcache.files import replace_file
from hcache.replay.loading import load_replay
from hcache.replay.tree import Tree
from hcache.reporting.examples import Examples, leaves_of_sequence, tell
from hcache.reporting.figures import Picture, pictures
from hcache.reporting.methods import best_method, methods
from hcache.reporting.page import Content, html, markdown
from hcache.runs.evaluating import Beside, comparable_runs, evaluate_runs
from hcache.runs.folder import Run, now
from hcache.store import Store

__all__ = ["write_report"]


def write_report(
    config: ExperimentConfig,
    db: Path,
    runs: Sequence[Run],
    out: Path,
    split: str = "test",
    command: Sequence[str] = (),
    beside: Sequence[Beside] = (),
) -> Report:
    """Evaluate runs on a split and write what was found into the folder `out`.

    Experiments `beside` are evaluated as `evaluate_runs` does; what is told of training and of
    single queries is of `runs` alone.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
    """
    report = evaluate_runs(config, db, runs, split, beside)
    evaluated = comparable_runs(runs, config)
    drawn = pictures(report, methods(evaluated))
    content = Content(
        config=config,
        db=db,
        split=split,
        command=tuple(command),
        created=now(),
        report=report,
        pictures=tuple(drawn),
        examples=_examples(config, db, split, report, evaluated),
    )
    _write(out, content, drawn)
    return report


def _write(out: Path, content: Content, drawn: Sequence[Picture]) -> None:
    for picture in drawn:
        replace_file(out / "figures" / f"{picture.name}.svg", picture.svg)
        replace_file(out / "figures" / f"{picture.name}.png", picture.png)
    found = json.dumps(content.report.to_dict(), indent=2) + "\n"
    for name, text in (
        ("report.json", found),
        ("report.md", markdown(content)),
        ("index.html", html(content)),
    ):
        replace_file(out / name, text.encode())


def _examples(
    config: ExperimentConfig, db: Path, split: str, report: Report, runs: Sequence[Run]
) -> Examples | None:
    """Of the router that is best on validation, in its first seed; None without a router."""
    if not runs:
        return None
    alpha = config.train.alpha
    with Store(db) as store:
        valid, tree = (_tree(store, config, name) for name in ("valid", split))
        best = best_method(methods(runs), valid, alpha)
        if best is None:
            return None
        router = (best.name, best.leaves(tree, alpha))
        static = (report.best_static, leaves_of_sequence(tree, report.best_static))
        return tell(store, config, tree, router, static)


def _tree(store: Store, config: ExperimentConfig, split: str) -> Tree:
    tree = load_replay(store, config, split).tree
    return tree if config.train.stop else tree.without_stop()
