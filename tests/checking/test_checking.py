"""Checks of a database: a clean one is clean, and whatever is edited by hand is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from helpers.experiments import failing, load, sample, settings, table, write_script, write_scripts
from helpers.shell import Shell

from hcache.checking import check_database
from hcache.data.extractors import version_of
from hcache.data.metrics import METRICS
from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.store.frames import SCHEMAS
from hcache.store.schema import CONFLICT

UNSEEN = {
    ("generations", "created"): "when a reply was made is known to nobody else",
    ("generations", "seconds"): "a duration; only what is none is a fault",
    ("generations", "cached_tokens"): "depends on what an engine had in memory",
    ("generations", "token_ids +"): "ids are words of a tokenizer, which is not in the database",
    ("generations", "reasoning_tokens"): "a part of the reply that a server alone counts",
    ("conflicts", "facts"): "what another file has said",
    ("conflicts", "origin"): "which file that was",
    ("conflicts", "delete"): "rows of other files are needed by no row",
    ("generations", "logprobs +"): "any numbers of 0 or less may be log-probabilities",
}
"""Columns of which a plausible other value cannot be told from the right one, and why."""
FILES_ONLY = {
    ("queries", "kind"): "not in the key of a query",
    ("splits", "split"): "the file deals the splits",
    ("splits", "delete"): "the file deals the splits",
}
"""What only the experiment's files tell."""


def edits() -> Iterator[tuple[str, str, str]]:
    """(table, what is edited, SQL) for every column, in one row, the deepest if any."""
    for name, columns in SCHEMAS.items():
        order = "depth desc, query_id" if "depth" in columns else "all"
        first = f"rowid = (select rowid from {name} order by {order} limit 1)"
        yield name, "delete", f"delete from {name} where {first}"
        yield name, "double", f"insert into {name} select * from {name} where {first}"
        for column in columns:
            for what, value in mutations(name, column):
                yield (
                    name,
                    f"{column}{what}",
                    (f'update {name} set "{column}" = {value} where {first}'),
                )


def mutations(name: str, column: str) -> Iterator[tuple[str, str]]:
    kind = str(SCHEMAS[name][column])
    quoted = f'"{column}"'
    if (name, column) == ("splits", "split"):
        yield "", "case split when 'train' then 'test' else 'train' end"
    elif kind == "String":
        yield "", f"coalesce({quoted}, '') || 'x'"
    elif column == "costs":
        yield "", "[0.5 for a in asks]"
    elif kind == "Boolean":
        yield "", f"not {quoted}"
    elif kind.startswith("Datetime"):
        yield "", f"{quoted} + interval 1 second"
    elif not kind.startswith("List"):
        yield "", f"{quoted} + 1" if (name, column) != ("scores", "value") else f"0.75 - {quoted}"
    elif column == "notes":  # those of dialogues are edited below
        yield " longer", f"list_append({quoted}, 'x')"
    else:
        yield " shorter", f"{quoted}[:-2]"
        yield " longer", f"list_append({quoted}, {quoted}[-1])"
        if column in ("token_ids", "logprobs"):
            yield " +", f"[one - 1 for one in {quoted}]"
        elif column != "asks":
            yield " +", f"[one || 'x' for one in {quoted}]"
        else:
            for part in ("arm", "generation", "role"):
                yield f" {part}", f"[struct_update(a, {part} := a.{part} || 'x') for a in {quoted}]"
            for part in ("prompt_tokens", "output_tokens"):
                yield f" {part}", f"[struct_update(a, {part} := a.{part} + 1) for a in {quoted}]"


EDITS = list(edits())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two arms, two hops; one draws, keeps log-probabilities, and has its replies cut."""
    folder = tmp_path_factory.mktemp("small")
    write_scripts(folder, "ab")
    raw = settings("ab")
    raw["arms"]["b"] |= {"temperature": 1.0, "system": "Be brief."}
    raw["sampling"] = {"replicas": 2}
    sample(folder, raw)
    with duckdb.connect(str(folder / "small.duckdb")) as connection:
        connection.execute("update generations set logprobs = [-1.0 for t in token_ids]")
        connection.execute(
            f"insert into conflicts by name select *, left(sha256({CONFLICT}), 32) as conflict_id "
            "from (values ('queries', 'q', '{}', '', 'other.duckdb')) "
            "t(table_name, key, content, facts, origin)"
        )
        connection.execute("checkpoint")
    return load(folder, raw)


def edited(source: Path, folder: Path, sql: str) -> Path:
    """A copy of a database with something done to it."""
    copy = Path(shutil.copy(source, folder / "edited.duckdb"))
    with duckdb.connect(str(copy)) as connection:
        connection.execute(sql)
    return copy


def kinds(db: Path, experiment: Experiment | None = None) -> set[tuple[str, str]]:
    return {(fault.table, fault.fault) for fault in check_database(db, experiment).faults}


def test_what_sampling_writes_is_clean(small: Experiment) -> None:
    for experiment in (small, None):
        found = check_database(small.db, experiment)
        assert found.faults == ()
        assert found.checked["trajectories rebuilt"] == len(table(small.db, "trajectories"))
        assert found.checked["states rebuilt"] == len(table(small.db, "states"))
        assert found.checked["scores made again"] == len(table(small.db, "scores"))
    assert check_database(small.db, small).notes == []


@pytest.mark.parametrize(("name", "what", "sql"), EDITS, ids=[f"{n} {w}" for n, w, _ in EDITS])
def test_every_edit_of_every_column_is_found(
    small: Experiment, tmp_path: Path, name: str, what: str, sql: str
) -> None:
    db = edited(small.db, tmp_path, sql)
    assert bool(kinds(db, small)) == ((name, what) not in UNSEEN)
    if (name, what) in FILES_ONLY:
        assert kinds(db) == set()


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("drop view coverage", "coverage has no column experiment VARCHAR, as it should"),
        ("alter table texts drop column text", "texts has no column text VARCHAR, as it should"),
        ("alter table scores alter column value type float",
         "scores has no column value DOUBLE, as it should"),
        ("alter table arms add column more integer", "arms has a column more too many"),
    ],
)  # fmt: skip
def test_another_schema_is_found(small: Experiment, tmp_path: Path, sql: str, fault: str) -> None:
    db = edited(small.db, tmp_path, sql)
    assert ("schema", fault) in kinds(db, small)


def test_tables_of_others_are_no_fault(small: Experiment, tmp_path: Path) -> None:
    assert kinds(edited(small.db, tmp_path, "create table mine (a integer)"), small) == set()


ONE = "rowid = (select min(rowid) from generations)"
FINE = f"""update generations set finish_reason = 'length', output_tokens = 64,
token_ids = range(64), logprobs = null where {ONE}"""
COUNTS = {
    f"update generations set prompt_tokens = 0 where {ONE}": "has no prompt_tokens",
    "update generations set output_tokens = 65, token_ids = range(65)":
        "is longer than max_tokens or the window allow",
    "update generations set finish_reason = 'length' where output_tokens < 9":
        "was cut, yet is shorter than max_tokens and the window allow",
    f"update generations set cached_tokens = prompt_tokens + 1 where {ONE}":
        "cached_tokens are not a part of prompt_tokens",
    f"update generations set finish_reason = 'too_long' where {ONE}":
        "has a reply although its prompt was too long",
    f"update generations set prompt_tokens = 2048 where {ONE}":
        "has a prompt that is too long for its window, and a reply",
    "update generations set logprobs = [0.5 for t in token_ids]":
        "logprobs are not one number, 0 or less, for each of token_ids",
    "update generations set seconds = 'nan'": "seconds is no duration",
    "update generations set prompt_key = left(sha256(generation_id), 32)":
        "has not the prompt_key of other samples of its prompt",
}  # fmt: skip


@pytest.mark.parametrize("sql", COUNTS, ids=list(COUNTS.values()))
def test_implausible_counts_are_found(small: Experiment, tmp_path: Path, sql: str) -> None:
    assert ("generations", COUNTS[sql]) in kinds(edited(small.db, tmp_path, sql))


def test_a_reply_that_fills_max_tokens_is_plausible(small: Experiment, tmp_path: Path) -> None:
    found = kinds(edited(small.db, tmp_path, FINE))
    assert {fault for table, fault in found if table == "generations"} == set()


def test_a_server_that_counts_a_constant_is_found(folder: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        rows = [{"question": f"{split} " + "word " * (9 * place + number), "answer": "a"}
                for place in range(4)]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    raw = settings("a", workflow={"name": "relay", "hops": 1})
    write_script(folder, "a", [["", "same"]])
    sample(folder, raw)
    constant = "prompt_tokens is one constant for all prompts of an arm"
    assert kinds(folder / "small.duckdb") == set()
    db = edited(folder / "small.duckdb", folder, "update generations set prompt_tokens = 7")
    assert ("generations", constant) in kinds(db)


def test_an_unfinished_database_is_clean(folder: Path) -> None:
    with pytest.raises(EngineError):
        sample(folder, settings("ab"), failing("b", after=3))
    found = check_database(folder / "small.duckdb", load(folder, settings("ab")))
    assert found.faults == ()


def test_rows_of_a_larger_pool_and_horizon_are_left_alone(folder: Path) -> None:
    for workflow in ("relay", "cascade"):
        wide = settings("abc", name=workflow, workflow={"name": workflow, "hops": 3})
        sample(folder, wide)
        narrow = settings("ab", name=workflow, workflow={"name": workflow, "hops": 2})
        sample(folder, narrow)
    found = check_database(folder / "small.duckdb")
    assert found.faults == ()
    assert any("trajectories were not rebuilt" in note for note in found.notes)


def test_passages_are_taken_from_searches(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        rows = [{"question": f"{split} {place}?", "answer": "a", "passages": [f"p{place}", "q"]}
                for place in range(2)]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    for name in "ab":
        write_script(folder, name, [[r"(?s)Turn.*|.*", f"Search[{name}]"]])
    raw = settings("ab", workflow={"name": "teacher_student", "budget": 1})
    sample(folder, raw)
    db = folder / "small.duckdb"
    found = check_database(db)
    assert found.faults == ()
    assert not any("passages" in note for note in found.notes)
    sql = "update queries set question = question || '!' where starts_with(question, 'train 0')"
    assert ("queries", "query_id is not the key of its content") in kinds(edited(db, folder, sql))
    assert max(map(len, table(db, "trajectories")["notes"])) > 0
    for notes in ("notes[:-2]", "[note || 'x' for note in notes]"):
        sql = f"update trajectories set notes = {notes} where len(notes) > 0"
        assert ("trajectories", "notes is not what its workflow gives") in kinds(
            edited(db, folder, sql)
        )


def test_trees_whose_prompts_have_passages_are_rebuilt_from_the_files(folder: Path) -> None:
    """No table has these passages; without the files that is said, and is no fault."""
    for split in ("train", "valid", "test"):
        row = {"question": f"{split}?", "answer": "a", "passages": ["p0", "q"]}
        (folder / f"{split}.jsonl").write_text(json.dumps(row))
    raw = settings("ab", workflow={"name": "relay", "passages": True})
    sample(folder, raw)
    experiment = load(folder, raw)
    whole, alone = check_database(experiment.db, experiment), check_database(experiment.db)
    assert whole.faults == alone.faults == () and whole.notes == []
    assert (whole.checked["trajectories rebuilt"], alone.checked["trajectories rebuilt"]) == (18, 0)
    assert any("trees of 3 queries were not rebuilt" in note for note in alone.notes)


def test_scores_by_another_version_are_outdated(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hcache.checking.scores.version_of",
        lambda extract, metric: "new" if metric == "em" else version_of(extract, metric),
    )
    (fault, *others) = check_database(small.db, small).faults
    assert fault.fault == "em of text is by another version of its metric or extractor"
    assert fault.count == len(table(small.db, "trajectories"))
    assert "hcache rescore" in fault.hint
    assert others == []


def test_a_changed_metric_of_the_same_version_is_found(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {metric: version_of("text", metric) for metric in ("f1", "em")}
    monkeypatch.setitem(METRICS.entries, "em", lambda answer, references: 0.5)
    for module in ("checking.scores", "sampling.scoring"):
        monkeypatch.setattr(f"hcache.{module}.version_of", lambda extract, name: versions[name])
    assert ("scores", "value of em of text is not what its output gives") in kinds(small.db)


def test_the_command_says_clean_or_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(folder, settings("ab"))
    shell = Shell(folder, capsys, monkeypatch)
    assert "small.duckdb: clean" in shell("check", "experiment.yaml")
    assert "small.duckdb: clean" in shell("check", "small.duckdb")
    assert json.loads(shell("check", "small.duckdb", "--format", "json"))["clean"]
    with duckdb.connect(str(folder / "small.duckdb")) as connection:
        connection.execute("update scores set value = 2 where rowid = 0")
    assert "2 faults of 2 kinds" in shell("check", "experiment.yaml", code=1)
    assert "no database" in shell("check", "nothing.duckdb", code=1)
