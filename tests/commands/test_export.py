"""`hcache export`: every trajectory is there, and no question unless it is asked for."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from helpers.experiments import SPLITS, load, settings, table, write_script, write_scripts

from hcache.commands import main
from hcache.commands.export import export as write_replies
from hcache.data.metrics import METRICS
from hcache.errors import ConfigError
from hcache.experiment import Experiment
from hcache.exports.selection import QUESTIONS
from hcache.exports.writing import write_out
from hcache.sampling import Sampler

FILES = ("out.jsonl", "out.parquet")
SECRET = "zebra{}quagga?"
REFERENCE = "okapi{}"
KEPT = "REPLYONE", "REPLYTWO"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment of which no reply repeats its question or hits a reference."""
    folder = tmp_path_factory.mktemp("quiet")
    for name, reply in zip("ab", KEPT, strict=True):
        write_script(folder, name, [["(?s)^.*$", reply]])
    for place, split in enumerate(SPLITS):
        row = {"question": SECRET.format(place), "answer": REFERENCE.format(place), "kind": "odd"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    experiment = load(folder, settings("ab"))
    Sampler(experiment).run()
    return experiment


class Exports:
    """Runs `hcache export` in a folder."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.capture = capture
        self.patch = patch

    def __call__(self, db: Path, *arguments: str, code: int = 0) -> str:
        """What it prints, or its error."""
        self.patch.setattr(sys, "argv", ["hcache", "export", "--db", str(db), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = self.capture.readouterr()
        assert (end.value.code or 0) == code, printed.err
        return printed.err if code else printed.out


@pytest.fixture
def export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Exports:
    monkeypatch.chdir(tmp_path)
    return Exports(capsys, monkeypatch)


def read_back(file: str) -> pl.DataFrame:
    return pl.read_parquet(file) if file.endswith("parquet") else pl.read_ndjson(file)


@pytest.mark.parametrize("file", FILES)
def test_a_row_for_each_outcome_with_all_of_it_but_the_references(
    sampled: Experiment, export: Exports, file: str
) -> None:
    outcomes = table(sampled.db, "outcomes", "trajectory_id")
    said = export(sampled.db, file)
    assert f"{len(outcomes)} trajectories of small in {file}" in said
    frame = read_back(file).sort("trajectory_id")
    assert set(outcomes.columns) - set(frame.columns) == {"references"}
    assert set(frame.columns) - set(outcomes.columns) == {"steps"}
    for column in set(outcomes.columns) - {"references"}:
        assert frame[column].to_list() == outcomes[column].to_list(), column


@pytest.mark.parametrize("file", FILES)
def test_steps_are_the_replies_in_their_order(
    sampled: Experiment, export: Exports, file: str
) -> None:
    export(sampled.db, file)
    replies = dict(table(sampled.db, "generations").select("text", "finish_reason").iter_rows())
    for row in read_back(file).iter_rows(named=True):
        assert ">".join(step["arm"] for step in row["steps"]) == row["sequence"]
        assert row["steps"][-1]["reply"].strip() == row["answer"]
        assert all(replies[step["reply"]] == step["finish_reason"] for step in row["steps"])
        for tokens in ("prompt_tokens", "output_tokens"):
            assert sum(step[tokens] for step in row["steps"]) == row[tokens]


@pytest.mark.parametrize("questions", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_questions_are_in_the_file_only_where_they_are_asked_for(
    quiet: Experiment, export: Exports, file: str, questions: bool
) -> None:
    said = export(quiet.db, file, *(["--questions"] if questions else []))
    assert "repeats" not in said
    frame = read_back(file)
    data = Path(file).read_bytes() + frame.write_json().encode()  # as it is, and decompressed
    for place in range(len(SPLITS)):
        for text in (SECRET, REFERENCE):
            assert (text.format(place).encode() in data) is questions
    assert all(reply.encode() in data for reply in KEPT)
    assert (set(QUESTIONS) <= set(frame.columns)) is questions
    assert frame["f1"].max() == 0


def test_replies_that_repeat_their_question_are_counted(
    sampled: Experiment, export: Exports, tmp_path: Path
) -> None:
    rows = len(table(sampled.db, "outcomes"))
    assert f"in {rows} of them a reply repeats the question" in export(sampled.db, "out.jsonl")
    assert "repeats" not in export(sampled.db, "all.jsonl", "--questions")
    write_scripts(tmp_path, "a")
    row = {"question": "Who?", "answer": "x", "context": "Somebody."}
    for place, split in enumerate(SPLITS):
        text = json.dumps(row | {"question": f"Who{place}?"})
        (tmp_path / f"{split}.jsonl").write_text(text + "\n")
    write_script(tmp_path, "a", [["(?s)^.*(Who.[?]).*$", r"You ask: \1"]])
    experiment = load(tmp_path, settings("a", db="passages.duckdb"))
    Sampler(experiment).run()
    assert "in 6 of them a reply repeats the question" in export(experiment.db, "passages.jsonl")


def test_values_of_all_metrics_are_in_the_file(
    export: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS.entries, "brevity", lambda answer, references: 1 / len(answer))
    write_scripts(tmp_path, "a")
    raw = settings("a", quality="brevity")
    raw["data"]["made"]["metrics"] = ["em", "brevity"]
    experiment = load(tmp_path, raw)
    Sampler(experiment).run()
    export(experiment.db, "out.jsonl")
    frame = read_back("out.jsonl")
    place = frame.columns.index("em")
    assert frame.columns[place : place + 3] == ["em", "brevity", "quality"]
    assert frame["brevity"].to_list() == [1 / len(answer) for answer in frame["answer"]]
    assert frame["quality"].equals(frame["brevity"])


def test_an_experiment_is_chosen_where_there_are_several(
    sampled: Experiment, export: Exports, tmp_path: Path
) -> None:
    db = tmp_path / "two.duckdb"
    shutil.copy(sampled.db, db)
    write_scripts(tmp_path, "c")
    Sampler(load(tmp_path, settings("c", name="other", db=db.name))).run()
    message = export(db, "out.jsonl", code=1)
    assert "2 experiments" in message and "--experiment: other, small" in message
    assert "did you mean 'other'?" in export(db, "out.jsonl", "--experiment", "othr", code=1)
    export(db, "out.jsonl", "--experiment", "other")
    assert set(read_back("out.jsonl")["sequence"]) == {"c", "c>c"}


def test_a_file_that_is_there_is_replaced_only_by_force(
    sampled: Experiment, export: Exports
) -> None:
    Path("out.jsonl").write_text("mine")
    assert "--force" in export(sampled.db, "out.jsonl", code=1)
    assert Path("out.jsonl").read_text() == "mine"
    export(sampled.db, "out.jsonl", "--force")
    first = Path("out.jsonl").read_bytes()
    export(sampled.db, "out.jsonl", "--force")
    assert Path("out.jsonl").read_bytes() == first != b"mine"


def test_errors_are_one_line(sampled: Experiment, export: Exports, tmp_path: Path) -> None:
    write_scripts(tmp_path, "a")
    empty = load(tmp_path, settings("a", db="empty.duckdb"))
    empty.record(1)
    (tmp_path / "folder.jsonl").mkdir()
    for db, arguments, words in (
        (sampled.db, ["out.csv"], "unknown format '.csv'. Known: .jsonl, .parquet."),
        (sampled.db, ["out"], "unknown format ''"),
        (sampled.db, ["folder.jsonl", "--force"], "folder.jsonl"),
        (Path("none.duckdb"), ["out.jsonl"], "there is no database"),
        (empty.db, ["out.jsonl"], "no trajectories of small. Fill it with: hcache sample"),
    ):
        message = export(db, *arguments, code=1)
        assert message.startswith("error: ") and words in message
        assert message.count("\n") == 1 and "Traceback" not in message
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("name", ["a\0b.jsonl", "\ud800.jsonl", "x" * 5000 + ".jsonl"])
def test_a_name_that_no_file_has_is_an_error(sampled: Experiment, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_out(Path(name), b"")
    with pytest.raises(ConfigError, match="cannot write"):
        write_replies(Path(name), sampled.db)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "", "'; drop table x"])
def test_an_experiment_of_a_hostile_name_is_unknown(
    sampled: Experiment, export: Exports, name: str
) -> None:
    assert "experiment" in export(sampled.db, "out.jsonl", "--experiment", name, code=1)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "value", ["interval '1 day'", "1::bit", "[1]", "'x'::blob", "date 'infinity'"]
)
@pytest.mark.parametrize("column", ["f1", "notes", "cost"])
def test_types_of_a_foreign_view_are_refused_or_made_ours(
    sampled: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, column: str, value: str, file: str,
) -> None:  # fmt: skip
    db = tmp_path / "foreign.duckdb"
    shutil.copy(sampled.db, db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("create table kept as select * from outcomes")
        connection.execute(
            f"create or replace view outcomes as select * replace ({value} as {column}) from kept"
        )
    export = Exports(capfd, monkeypatch)
    monkeypatch.chdir(tmp_path)
    export(sampled.db, file)
    usual = read_back(file).columns
    monkeypatch.setattr(sys, "argv", ["hcache", "export", "--db", str(db), file, "--force"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capfd.readouterr().err
    assert "panicked" not in said and "Traceback" not in said
    if end.value.code:
        assert said.startswith("error: ") and said.count("\n") == 1
    else:
        assert read_back(file).columns == usual


def test_other_formats_by_name_with_their_options(sampled: Experiment, export: Exports) -> None:
    said = export(sampled.db, "out", "--to", "hf", "--questions", "-o", "license=mit")
    assert said == "30 trajectories of small in out\n"
    assert "license: mit" in Path("out/README.md").read_text()
    assert "--force" in export(sampled.db, "out", "--to", "hf", code=1)
    export(sampled.db, "out", "--to", "hf", "--force", "--split", "train, test")
    names = sorted(path.name.split("-")[0] for path in Path("out/data").iterdir())
    assert names == ["test", "train"]
    said = export(sampled.db, "p.jsonl", "--to", "preferences", "--questions", "-o", "margin=0.1")
    assert "pairs on" in said and "p.jsonl" in said


def test_what_no_format_takes_is_refused_in_one_line(sampled: Experiment, export: Exports) -> None:
    for arguments, words in (
        (["--to", "hff"], "unknown format 'hff'; did you mean 'hf'?"),
        (["--to", "sft"], "format 'sft' is made of questions"),
        (["--to", "sft", "-o", "margin=1"], "format 'sft' has no option 'margin'"),
        (["--to", "preferences", "-o", "margin=x"], "option 'margin' is 'x'. Give a float"),
        (["--to", "hf", "-o", "license"], "not of the form NAME=VALUE"),
        (["--split", "dev"], "unknown split 'dev'"),
    ):
        message = export(sampled.db, "out", *arguments, code=1)
        assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not Path("out").exists()
