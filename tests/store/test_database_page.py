"""docs/database.md: all tables, views and columns are named, and its queries are true."""

from __future__ import annotations

import re

import pytest
from helpers.experiments import table
from helpers.paths import ROOT

from hcache.commands.console import csv_text
from hcache.experiment import Experiment
from hcache.store import Store, answer, open_for_people
from hcache.store.schema import UNIQUE

PAGE = (ROOT / "docs" / "database.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.*)\|$", re.MULTILINE)
EXAMPLE = re.compile(r"```sql\n(.*?)```\n\n```\n(.*?)```", re.DOTALL)


def described() -> dict[tuple[str, str], str]:
    """Types of what the page names, by table and column."""
    return {
        (name, column): kind
        for name, text in SECTION.findall(PAGE)
        for column, kind, _ in ROW.findall(text)
    }


def test_page_names_every_table_view_and_column(sampled: Experiment) -> None:
    with Store(sampled.db) as store:
        found = store.sql(
            "select table_name, column_name, data_type from duckdb_columns() where not internal"
        )
    assert described() == {(name, column): kind for name, column, kind in found.iter_rows()}


def test_keys_of_the_page_are_the_keys() -> None:
    keys = {
        name: re.findall(r"`(\w+)`", match[1])
        for name, text in SECTION.findall(PAGE)
        if (match := re.search(r"^Key: (.*?)\.", text, re.MULTILINE))
    }
    assert keys == {name: columns.split(", ") for name, columns in UNIQUE.items()}


@pytest.mark.parametrize("place", range(3))
def test_queries_of_the_page_give_its_results(sampled: Experiment, place: int) -> None:
    examples = EXAMPLE.findall(PAGE)
    assert len(examples) == 3
    query, result = examples[place]
    with open_for_people(sampled.db) as store:
        assert csv_text(*answer(store, query)) == result


def test_values_of_the_page_are_those_of_the_file(sampled: Experiment) -> None:
    reasons = set(table(sampled.db, "generations")["finish_reason"])
    splits = set(table(sampled.db, "splits")["split"])
    assert {f"`{value}`" for value in reasons | splits} <= set(re.findall(r"`\w+`", PAGE))
