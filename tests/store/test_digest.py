"""The digest of a database: equal for equal content, other for any other."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import duckdb
import pytest
from helpers.experiments import load, sample, settings, table, write_scripts
from helpers.shell import Shell

from hcache.keys import digest
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.store.digest import CIRCUMSTANCES, TABLES, ContentDigest, content_digest
from hcache.store.frames import SCHEMAS
from hcache.store.schema import OPTIONAL


def digest_of(db: Path) -> ContentDigest:
    with Store(db) as store:
        return content_digest(store)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digest")
    write_scripts(folder, "ab")
    sample(folder, settings("ab"))
    return folder


@pytest.fixture
def db(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sampled / "small.duckdb", tmp_path / "copy.duckdb"))


def edit(db: Path, sql: str) -> None:
    with duckdb.connect(str(db)) as connection:
        connection.execute(sql)


def test_it_is_that_of_a_slow_plain_twin(sampled: Path) -> None:
    found = digest_of(sampled / "small.duckdb")
    for name in TABLES:
        rows = table(sampled / "small.duckdb", name).to_dicts()
        for row in rows:
            row |= {"actions": sorted(row["actions"])} if "actions" in row else {}
        texts = [
            json.dumps(
                {key: row[key] for key in sorted(row) if key not in {*CIRCUMSTANCES, *OPTIONAL}},
                separators=(",", ":"),
                ensure_ascii=False,
            )
            for row in rows
        ]
        hashed = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
        parts: dict[str, str] = {}
        for each in hashed:
            parts[each[:4]] = parts.get(each[:4], "") + each
        joined = "".join(hashlib.sha256(part.encode()).hexdigest() for part in parts.values())
        assert found.tables[name].digest == hashlib.sha256(joined.encode()).hexdigest(), name
        assert found.tables[name].rows == len(rows)
    assert found.digest == digest({name: each.digest for name, each in found.tables.items()})


def test_sampling_in_parts_and_in_another_order_gives_the_same(
    sampled: Path, tmp_path: Path
) -> None:
    write_scripts(tmp_path, "ab")
    experiment = load(tmp_path, settings("ab", sampling={"seed": 5}))
    while Sampler(experiment, budget=6).run().left:
        pass
    assert digest_of(tmp_path / "small.duckdb") == digest_of(sampled / "small.duckdb")


def test_arms_that_came_later_are_arms_like_the_others(tmp_path: Path) -> None:
    write_scripts(tmp_path, "abc")
    for arms in ("ba", "ca", "abc"):
        sample(tmp_path, settings(arms))
    sample(tmp_path, settings("abc", db="whole.duckdb"))
    assert digest_of(tmp_path / "small.duckdb") == digest_of(tmp_path / "whole.duckdb")


@pytest.mark.parametrize("name", TABLES)
def test_the_order_of_rows_is_nothing_and_their_number_is(db: Path, name: str) -> None:
    before = digest_of(db)
    edit(db, f"create temp table old as from {name}; delete from {name}; "
             f"insert into {name} from old order by random()")  # fmt: skip
    assert digest_of(db) == before
    edit(db, f"insert into {name} select * from {name} limit 1")
    assert digest_of(db).tables[name] != before.tables[name]
    edit(db, f"delete from {name}")
    assert digest_of(db).tables[name].rows == 0


def other(name: str, column: str) -> str:
    """SQL for another value of a column."""
    kind, quoted = str(SCHEMAS[name][column]), f'"{column}"'
    if kind.startswith("List"):
        known = {"notes": "['x']", "logprobs": "[0.5]"}
        return known.get(column, f"list_concat({quoted}, {quoted})")
    if "Datetime" in kind:
        return f"{quoted} + interval 1 second"
    known = {"Boolean": f"not {quoted}", "String": f"coalesce({quoted}, '') || 'x'"}
    return known.get(kind, f"{quoted} + 1")


@pytest.mark.parametrize(
    ("name", "column"), [(name, column) for name in TABLES for column in SCHEMAS[name]]
)
def test_content_counts_and_circumstances_do_not(db: Path, name: str, column: str) -> None:
    before = digest_of(db)
    order = "order by depth desc" if "depth" in SCHEMAS[name] else ""
    first = f"rowid = (select rowid from {name} {order} limit 1)"
    edit(db, f'update {name} set "{column}" = {other(name, column)} where {first}')
    assert (digest_of(db).tables == before.tables) == (column in CIRCUMSTANCES)


def test_the_command_prints_it(
    sampled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(sampled, capsys, monkeypatch)
    whole = digest_of(sampled / "small.duckdb")
    lines = shell("digest", "experiment.yaml").splitlines()
    assert lines[-1] == f"{whole.digest}  all"
    assert f"{whole.tables['scores'].digest[:32]}  scores (60 rows)" in lines[:-1]
    assert json.loads(shell("digest", "small.duckdb", "--format", "json"))["digest"] == whole.digest
