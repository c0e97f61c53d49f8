"""`hcache merge`: what it says, in words and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pytest
from helpers.experiments import load, settings
from helpers.shell import Shell

from hcache.files import features_folder
from hcache.sampling import Sampler


@pytest.fixture
def shell(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    experiment = load(folder, settings("ab", db="one.duckdb"))
    Sampler(experiment, splits=["test"]).run()
    Path(shutil.copy(folder / "one.duckdb", folder / "two.duckdb"))
    return Shell(folder, capsys, monkeypatch)


def test_it_says_what_is_new_and_what_differs(shell: Shell) -> None:
    features_folder(shell.folder / "two.duckdb").mkdir()
    with duckdb.connect(str(shell.folder / "two.duckdb")) as connection:
        connection.execute(
            "update generations set text = 'other' where generation_id = "
            "(select asks[1].generation from trajectories order by trajectory_id limit 1)"
        )
    said = shell("merge", "all.duckdb", "one.duckdb", "two.duckdb")
    assert "one.duckdb: 5 queries, 6 generations, 6 trajectories are new in all.duckdb\n" in said
    assert "two.duckdb: 0 queries, 0 generations, 0 trajectories are new in all.duckdb\n" in said
    assert "that of all.duckdb stays" in said and "generations of " in said
    assert "3 trajectories of two.duckdb were made with another reply and stay out; 0 of" in said
    assert "features are not merged, they are encoded again when needed: two.duckdb" in said
    [found] = json.loads(shell("merge", "all.duckdb", "two.duckdb", "--format", "json"))
    assert found["new"]["conflicts"] == 0 and found["conflicts"][0]["count"] == 1
    assert found["left_out"] == 3 and found["missing"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["all.duckdb", "none.duckdb"], "there is no database none.duckdb"),
        (["all.duckdb", "experiment.yaml"], "experiment.yaml is not a DuckDB database"),
        (["experiment.yaml", "one.duckdb"], "experiment.yaml is not a DuckDB database"),
        (["one.duckdb", "./one.duckdb"], "stands there twice"),
        (["all.duckdb", "one.duckdb", "one.duckdb"], "stands there twice"),
        (["all.duckdb", "."], "is not a DuckDB database"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_nothing_is_made(
    shell: Shell, arguments: list[str], words: str
) -> None:
    error = shell("merge", *arguments, code=1)
    assert words in " ".join(error.split()) and "Traceback" not in error
    assert not (shell.folder / "all.duckdb").exists()
