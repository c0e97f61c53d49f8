"""A report made again: every figure and file is compared, and what it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from helpers.reports import Written, hostile_report
from typer.testing import CliRunner, Result

from hcache.commands.app import app
from hcache.errors import RunError
from hcache.reporting import verify_report
from hcache.reporting.verifying import SHOWN


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return hostile_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copy(written: Written, tmp_path: Path) -> Path:
    """The folder of the report, to be edited."""
    return Path(shutil.copytree(written.folder, tmp_path / "report"))


def verified(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["report", "--verify", str(folder), *more])


def test_a_report_comes_out_the_same(written: Written) -> None:
    looks = [(run.folder / "looks.jsonl").read_bytes() for run in written.runs]
    done = verified(written.folder)
    assert done.exit_code == 0, done.output
    found = verify_report(written.folder)
    assert found.holds and found.figures > 1000 and found.files == 11
    assert f"{found.figures:,} of {found.figures:,} figures are equal, in 11 files" in done.output
    assert "not what it was" not in done.output
    assert looks == [(run.folder / "looks.jsonl").read_bytes() for run in written.runs]


@pytest.mark.parametrize(
    "name", ["index.html", "report.md", "figures/plane.svg", "figures/rewards.png"]
)
def test_a_file_that_was_edited_is_named(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    found = verify_report(copy)
    assert found.edited == (name,) and not found.holds and not found.different


def test_a_file_that_is_gone_is_named(copy: Path) -> None:
    (copy / "report.md").unlink()
    assert verify_report(copy).edited == ("report.md",)


def test_a_figure_that_was_edited_is_named_with_what_it_should_be(copy: Path) -> None:
    figures = json.loads((copy / "report.json").read_text())
    was = figures["groups"][0]["rows"][0]["reward"]["estimate"]
    figures["groups"][0]["rows"][0]["reward"]["estimate"] = 0.99
    (copy / "report.json").write_text(json.dumps(figures))
    found = verify_report(copy)
    assert found.edited == ("report.json",)
    assert found.different == (f"groups[0].rows[0].reward.estimate: 0.99, now {was}",)
    done = verified(copy)
    assert done.exit_code == 1 and isinstance(done.exception, RunError)


def test_a_forged_report_with_digests_to_match_does_not_come_out_again(copy: Path) -> None:
    from hcache.artefacts import read_object, write_object
    from hcache.keys import digest_file

    page = (copy / "index.html").read_text().replace("best static sequence", "worst sequence", 1)
    (copy / "index.html").write_text(page)
    recipe = read_object(copy / "recipe.json", "")
    recipe["files"]["index.html"] = digest_file(copy / "index.html")
    write_object(copy / "recipe.json", recipe)
    found = verify_report(copy)
    assert (found.edited, found.different, found.otherwise) == ((), (), ("index.html",))


def test_scores_that_were_changed_change_figures(written: Written, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    shutil.copy(written.experiment.db, other)
    with duckdb.connect(str(other)) as connection:
        connection.execute("update scores set value = 1 - value")
    found = verify_report(written.folder, other)
    assert found.changed[0] == "database of small" and "outcomes test" in found.changed
    assert len(found.different) > SHOWN and not found.edited
    lines = list(found.lines())
    assert any(line.endswith("more: the figure comes out otherwise") for line in lines)


def test_what_was_added_to_the_database_is_told_and_harms_nothing(
    written: Written, tmp_path: Path
) -> None:
    other = tmp_path / "other.duckdb"
    shutil.copy(written.experiment.db, other)
    with duckdb.connect(str(other)) as connection:
        connection.execute(
            "insert into queries select * replace ('new' as query_id) from queries limit 1"
        )
    found = verify_report(written.folder, other)
    assert found.holds and found.changed == ("database of small",)


def test_a_folder_that_moved_with_its_runs(written: Written, tmp_path: Path) -> None:
    """Runs are looked for beside the report where they are no longer at their old place."""
    home = written.runs[0].folder.parent
    moved = tmp_path / "moved"
    shutil.copytree(home, moved)
    shutil.copytree(written.folder, moved / "page")
    recipe = (moved / "page" / "recipe.json").read_text()
    edited = json.loads(recipe)
    for own in edited["made_from"]:
        own["runs"] = [run.replace(str(home), "/nowhere") for run in own["runs"]]
    from hcache.artefacts import write_object

    write_object(moved / "page" / "recipe.json", {k: v for k, v in edited.items() if k != "digest"})
    assert verify_report(moved / "page").holds


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "recipe.json").unlink(),
        lambda folder: (folder / "recipe.json").write_text("{}"),
        lambda folder: (folder / "recipe.json").write_bytes(b"\xff\x00"),
        lambda folder: (folder / "report.json").unlink(),
        lambda folder: (folder / "report.json").write_text("[]"),
        lambda folder: (folder / "report.json").write_text('{"made_from": [{"a": 1}]}'),
        shutil.rmtree,
    ],
)
def test_what_cannot_be_read_is_one_error(copy: Path, spoil: Callable[[Path], object]) -> None:
    spoil(copy)
    done = verified(copy)
    assert done.exit_code == 1 and isinstance(done.exception, RunError)


def test_one_folder_is_asked_for(written: Written) -> None:
    for targets in ([str(written.folder)] * 2, [str(written.experiment.source)]):
        done = CliRunner().invoke(app, ["report", "--verify", *targets])
        assert done.exit_code == 1 and "one report" in str(done.exception)
