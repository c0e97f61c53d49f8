"""The recipe of a report: all that it was made from and how, kept beside it to make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcache.artefacts import damaged, read_object, write_object
from hcache.config.stored import stored_config
from hcache.evaluation.report import Source
from hcache.experiment import Experiment
from hcache.keys import digest_bytes
from hcache.runs.folder import Run, find_run, provenance
from hcache.store import Store
from hcache.store.digest import content_digest

FILE = "recipe.json"
AGAIN = "Write the report again: hcache report EXPERIMENT.yaml"


@dataclass(frozen=True)
class Recipe:
    """The parts of a report; the first experiment is its own."""

    split: str
    command: tuple[str, ...]
    created: str
    database: str  # path of the first one's, as it is shown
    made_from: tuple[tuple[Experiment, tuple[Run, ...]], ...]

    def databases(self) -> Iterator[Source]:
        """The databases, with the digests of what they hold."""
        names: dict[Path, list[str]] = {}
        for experiment, _ in self.made_from:
            names.setdefault(experiment.db, []).append(experiment.name)
        for path, own in names.items():
            with Store(path) as store:
                yield Source("database", f"of {', '.join(own)}", content_digest(store).digest)

    def write(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Keep the recipe in the folder of a report, with digests of the report's files."""
        recipe = {
            "split": self.split,
            "command": self.command,
            "created": self.created,
            "database": self.database,
            "made_from": [_noted(experiment, runs) for experiment, runs in self.made_from],
            "made_by": provenance()["packages"],
            "files": {name: digest_bytes(content) for name, content in files.items()},
        }
        write_object(folder / FILE, recipe)


@dataclass(frozen=True)
class Kept:
    """A recipe that was kept, and what came of it."""

    recipe: Recipe
    made_by: dict[str, str]  # versions of packages
    files: dict[str, str]  # digests by name


def read_recipe(folder: Path, db: Path | None = None) -> Kept:
    """The recipe of a report; `db` is in place of the database of its own experiment.

    A run that is no longer where it was is looked for beside the report.

    Raises:
        RunError: there is none, it is damaged, or a run is gone.
    """
    kept = read_object(folder / FILE, AGAIN)
    try:
        own, *others = kept["made_from"]
        made_from = [_made(own | {"db": db or own["db"]}, folder)]
        made_from += [_made(noted, folder) for noted in others]
        recipe = Recipe(
            kept["split"], tuple(kept["command"]), kept["created"], kept["database"],
            tuple(made_from),
        )  # fmt: skip
        return Kept(recipe, kept["made_by"], kept["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / FILE, "it is of another version", AGAIN) from error


def _noted(experiment: Experiment, runs: tuple[Run, ...]) -> dict[str, Any]:
    return {
        "config": experiment.config.model_dump(mode="json"),
        "source": str(experiment.source.resolve()),
        "db": str(experiment.db.resolve()),
        "runs": [str(run.folder.resolve()) for run in runs],
    }


def _made(noted: Mapping[str, Any], report: Path) -> tuple[Experiment, tuple[Run, ...]]:
    """The experiment and runs that `_noted` wrote down."""
    config = stored_config(noted["config"])
    experiment = Experiment(config, Path(noted["source"]), Path(noted["db"]))
    folders = [Path(run) for run in noted["runs"]]
    runs = [Run(f) if f.is_dir() else find_run(f.name, report.parent) for f in folders]
    return experiment, tuple(runs)
