"""Names of the hub as sources: fetched once by a stand-in for `datasets`, read as local files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from helpers.experiments import load, settings, write_scripts

from hcache.data.hub import fetch, is_hub_name
from hcache.data.readers import read
from hcache.errors import ConfigError, DataError

PLACE = "data.d.sources.test.path"
GSM8K = [{"question": f"How many {n}?", "answer": f"1 + {n}\n#### {n + 1}"} for n in range(4)]


class Hub:
    """Stands in for the library; notes what it is asked."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str | None, str], pl.DataFrame] = {}
        self.asked: list[tuple[str, str | None, str]] = []

    def put(self, name: str, config: str | None, split: str, rows: list[dict[str, Any]]) -> None:
        """Make a split known."""
        self.rows[name, config, split] = pl.DataFrame(rows)

    def load_dataset(self, path: str, name: str | None = None, *, split: str) -> Hub.Split:
        """As `datasets.load_dataset`."""
        self.asked.append((path, name, split))
        if (path, name, split) not in self.rows:
            raise FileNotFoundError(f"Dataset '{path}'\ncannot be accessed.")
        return Hub.Split(self.rows[path, name, split])

    class Split:
        """As `datasets.Dataset`."""

        def __init__(self, frame: pl.DataFrame) -> None:
            self.frame = frame

        def to_polars(self) -> pl.DataFrame:
            """As `datasets.Dataset.to_polars`."""
            return self.frame


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hcache" / "datasets"


def install(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable[..., object]) -> None:
    module = ModuleType("datasets")
    vars(module)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    install(monkeypatch, hub.load_dataset)
    hub.put("openai/gsm8k", "main", "train", GSM8K)
    return hub


def test_a_split_is_fetched_once_and_found_again_without_the_library(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch("hf:openai/gsm8k/main:train", PLACE)
    assert path == cache / "openai" / "gsm8k" / "main" / "train.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == GSM8K
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert fetch("hf:openai/gsm8k/main:train", PLACE) == path
    assert hub.asked == [("openai/gsm8k", "main", "train")]
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]


def test_the_cache_is_in_the_home_where_nothing_else_is_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    path = fetch("hf:openai/gsm8k/main:train", PLACE)
    assert path.is_relative_to(tmp_path / ".cache" / "hcache" / "datasets")


def test_a_name_without_configuration(hub: Hub, cache: Path) -> None:
    hub.put("openai/openai_humaneval", None, "test", [{"prompt": "def f", "extra": None}])
    path = fetch("hf:openai/openai_humaneval:test", PLACE)
    assert path == cache / "openai" / "openai_humaneval" / "test.jsonl"


def test_all_that_a_column_may_hold_is_json(hub: Hub) -> None:
    row = {
        "question": 'Wo? "Größe"\u2028\n', "answer": 0.1234567890123456, "context": ["a", ""],
        "nan": float("nan"), "none": None, "when": datetime(2024, 1, 2), "big": 2**62,
    }  # fmt: skip
    hub.put("org/odd", None, "test", [row])
    path = fetch("hf:org/odd:test", PLACE)
    (query,) = read("jsonl", path, dataset="d")
    assert query.references == ("0.1234567890123456",)
    assert query.question == 'a\n\nQuestion: Wo? "Größe"'
    assert json.loads(path.read_text())["big"] == 2**62


@pytest.mark.parametrize(
    "name",
    [
        "hf:", "hf:gsm8k:train", "hf:openai/gsm8k", "hf:openai/gsm8k/main", "hf:a/b/c/d:train",
        "hf:openai/gsm8k/main:", "hf:openai/gsm8k/main:train[:3]", "hf:../../x:train",
        "hf:a/../b:train", "hf:a/b:../c", "hf:/a/b:c", "hf:a/b :c",
    ],
)  # fmt: skip
def test_names_of_another_form_are_refused(hub: Hub, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch(name, PLACE)
    assert str(caught.value).startswith(f"{PLACE}: {name} names no split")
    assert "hf:openai/gsm8k/main:train" in caught.value.hint
    assert not hub.asked and is_hub_name(name)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for thing in (None, ModuleType("datasets")):
        monkeypatch.setitem(sys.modules, "datasets", thing)
        with pytest.raises(DataError, match=r"test\.path: hf:a/b:c needs .*pip install datasets$"):
            fetch("hf:a/b:c", PLACE)
    assert not cache.exists()


def test_what_the_library_says_is_one_line_with_the_file_to_bring(hub: Hub, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch("hf:openai/nothing:train", PLACE)
    message = str(caught.value)
    assert "Dataset 'openai/nothing' cannot be accessed." in message and "\n" not in message
    assert message.startswith(f"{PLACE}: hf:openai/nothing:train cannot be fetched")
    assert message.endswith(f"{cache / 'openai' / 'nothing' / 'train.jsonl'}.")
    assert not cache.exists()


def test_an_error_of_any_kind_leaves_no_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    class Silent(Exception):
        pass

    def fail(*asked: object, **how: object) -> object:
        raise Silent

    install(monkeypatch, fail)
    with pytest.raises(DataError, match=r"cannot be fetched \(Silent\)"):
        fetch("hf:a/b:c", PLACE)
    assert not cache.exists()


def test_an_experiment_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    write_scripts(tmp_path, "a")
    hub.put("openai/gsm8k", "main", "test", [{**row, "question": row["answer"]} for row in GSM8K])
    sources = {
        "train": {"path": "hf:openai/gsm8k/main:train", "limit": 3},
        "valid/test": {"path": "hf:openai/gsm8k/main:test"},
    }
    raw = settings("a", data={"gsm8k": {"reader": "gsm8k", "sources": sources}})
    splits = load(tmp_path, raw).splits
    assert {split: len(queries) for split, queries in splits.items()} == {
        "train": 3, "valid": 3, "test": 1,
    }  # fmt: skip
    assert load(tmp_path, raw).splits == splits and len(hub.asked) == 2
    sources["train"] = {"path": "hf:openai/gsm8k:train"}
    with pytest.raises(DataError, match=r"^data\.gsm8k\.sources\.train\.path: hf:openai"):
        _ = load(tmp_path, raw).splits
