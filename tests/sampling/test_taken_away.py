"""Files of sampling that are taken away meanwhile: it says so, and goes on when it is run again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.experiments import FaultyEngine, facts, load, settings

from hcache.engines import ScriptedEngine
from hcache.errors import StoreError
from hcache.models.arms import Arm
from hcache.sampling import Sampler, sampler
from hcache.store import Spool, spool_path

RAW = settings("ab")
RECORD = {"text": "one"}


def remove(db: Path) -> None:
    db.unlink()


def replace_by_an_older_copy(db: Path) -> None:
    Path(shutil.copy(db, db.with_name("copy"))).replace(db)


def without_spool(db: Path) -> None:
    spool_path(db).unlink()


@pytest.mark.parametrize("change", [remove, replace_by_an_older_copy, without_spool])
def test_file_taken_away_is_said_and_nothing_is_lost(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> None:  # fmt: skip
    monkeypatch.setattr(sampler, "COMMIT_SECONDS", 0.0)
    experiment = load(folder, RAW)

    def fault(answered: int) -> None:
        if answered == 6:
            change(experiment.db)

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return FaultyEngine(arm, fault if arm.model == "a" else lambda answered: None)

    with pytest.raises(StoreError, match=r"removed or replaced while sampling.*same command again"):
        Sampler(experiment, factory).run()
    Sampler(experiment).run()

    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(folder, undisturbed, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*db*"))
    again = load(undisturbed, RAW)
    Sampler(again).run()
    assert facts(experiment.db) == facts(again.db)


def test_spool_of_another_sampler_is_left_alone(tmp_path: Path) -> None:
    first = Spool(tmp_path / "db")
    first.path.unlink()
    second = Spool(tmp_path / "db")
    second.append([RECORD])
    first.close()
    assert second.path.exists()
    second.close()
    third = Spool(tmp_path / "db")
    assert third.recover() == [RECORD]
    third.close()
