"""The folder of a data set: a card that programs read, and nothing in it that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.experiments import digest_of, load, settings, table, write_script, write_scripts
from helpers.servers import remote
from huggingface_hub import DatasetCard

from hcache.engines import ScriptedEngine
from hcache.errors import ConfigError
from hcache.experiment import Experiment
from hcache.exports import EXPORTERS, Selection
from hcache.exports.writing import check_free, write_out
from hcache.files import replace_file
from hcache.models.arms import Arm
from hcache.recorded.huggingface import read_facts
from hcache.sampling import Sampler
from hcache.store import Store

SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def folder_of(experiment: Experiment, out: Path, questions: bool = True, **how: str) -> Path:
    with Store(experiment.db) as store:
        selection = Selection(store, experiment.config.name, questions=questions)
        write_out(out, EXPORTERS["hf"](selection, out, **how).content)
    return out


def header(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = DatasetCard.load(out / "README.md").data.to_dict()
    return found


def arrow_feature(kind: Any) -> Any:
    """The feature that a type of Arrow is, as the library `datasets` writes it."""
    if hasattr(kind, "value_type"):
        inner = arrow_feature(kind.value_type)
        return {"list": inner["dtype"] if isinstance(inner, dict) and "dtype" in inner else inner}
    if hasattr(kind, "names"):
        found = []
        for place in range(kind.num_fields):
            inner = arrow_feature(kind.field(place).type)
            found.append({"name": kind.field(place).name, **inner})
        return found
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind).removeprefix("large_"))}


def test_header_says_what_is_in_the_files(sampled: Experiment, tmp_path: Path) -> None:
    out = folder_of(sampled, tmp_path / "out")
    found = header(out)
    assert found["license"] == "unknown"
    [config] = found["configs"]
    paths = {part["split"]: out / part["path"] for part in config["data_files"]}
    assert list(paths) == list(SPLITS)
    assert {path.name for path in paths.values()} == {
        f"{split}-00000-of-00001.parquet" for split in SPLITS
    }
    assert sorted(out.rglob("*.*")) == sorted([*paths.values(), out / "README.md"])
    info = found["dataset_info"]
    counts = {part["name"]: part["num_examples"] for part in info["splits"]}
    outcomes = table(sampled.db, "outcomes")
    for split, path in paths.items():
        rows = pl.read_parquet(path)
        assert counts[split] == len(rows) == len(outcomes.filter(split=SPLITS[split]))
        assert set(rows["split"]) == {SPLITS[split]}
        schema = pq.read_schema(path)
        assert info["features"] == [
            {"name": name, **arrow_feature(schema.field(name).type)} for name in schema.names
        ]


def test_facts_are_those_of_the_database(sampled: Experiment, tmp_path: Path) -> None:
    facts = read_facts(folder_of(sampled, tmp_path / "out", license="cc-by-4.0"))
    assert facts is not None
    assert facts.digest == digest_of(sampled.db) and facts.arms == ("a", "b")
    assert set(facts.sequences) == {*table(sampled.db, "outcomes")["sequence"]}
    assert header(tmp_path / "out")["license"] == "cc-by-4.0"


def test_folder_is_the_same_each_time(sampled: Experiment, tmp_path: Path) -> None:
    one, two = (folder_of(sampled, tmp_path / name) for name in ("one", "two"))
    assert {p.relative_to(one): p.read_bytes() for p in one.rglob("*.*")} == {
        p.relative_to(two): p.read_bytes() for p in two.rglob("*.*")
    }


def test_datasets_loads_the_folder(sampled: Experiment, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    out = folder_of(sampled, tmp_path / "out")
    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert list(found) == list(SPLITS)
    for split, rows in found.items():
        [file] = out.glob(f"data/{split}-*")
        assert rows.to_list() == pl.read_parquet(file).to_dicts()


def test_nothing_secret_and_no_question_is_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-zebra")
    write_scripts(tmp_path, "a")
    write_script(tmp_path, "a", [["(?s)^.*$", "REPLY"]])
    for split in ("train", "valid", "test"):
        row = {"question": f"quagga {split}?", "answer": "okapi", "kind": "odd"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    raw = settings("ab", models=remote("ab"), workflow={"name": "relay", "separator": "\nGNU\n"})
    server = {"endpoints": ["http://10.1.2.3:80/v1"], "api_key_env": "MY_KEY"}
    raw["models"]["a"]["server"] |= server
    raw["models"]["b"]["path"] = "/home/somebody/secret/gnat"
    raw["arms"]["a"] |= {"instruction": "ELAND", "system": "ORYX"}
    experiment = load(tmp_path, raw)

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return ScriptedEngine(lambda request: "REPLY")

    Sampler(experiment, factory).run()
    out = folder_of(experiment, tmp_path / "out", questions=False)
    frames = [pl.read_parquet(path) for path in out.glob("data/*")]
    text = (out / "README.md").read_text() + "".join(frame.write_json() for frame in frames)
    for word in ("zebra", "MY_KEY", "10.1.2.3", "quagga", "okapi", "ELAND", "ORYX", "GNU",
                 "somebody", "secret"):  # fmt: skip
        assert word not in text, word
    assert "REPLY" in text and "gnat" in text
    assert "hcache import" not in text  # nothing could be asked


def test_names_do_not_break_out_of_the_card(tmp_path: Path) -> None:
    names = ["````", "---", "<b", "a: b", "| x |", "{arms}", "- é"]
    write_scripts(tmp_path, "a")
    raw = settings(names, workflow={"name": "relay", "hops": 1})
    raw["models"] = {name: {"path": "a.json", "engine": "scripted"} for name in names}
    for place, name in enumerate(names):
        raw["arms"][name]["system"] = str(place)
    experiment = load(tmp_path, raw)
    Sampler(experiment).run()
    out = folder_of(experiment, tmp_path / "out", license="---\nx: 1")
    text = (out / "README.md").read_text(encoding="utf-8")
    assert header(out)["license"] == "---\nx: 1"
    facts = read_facts(out)
    assert facts is not None and list(facts.arms) == names
    [block] = text.split("````yaml\n")[1:]
    made_by = yaml.safe_load(block.split("\n````\n")[0])
    assert list(made_by["arms"]) == names
    assert text.count("\n````") == 2


def test_only_a_folder_of_ours_gives_way(sampled: Experiment, tmp_path: Path) -> None:
    out = folder_of(sampled, tmp_path / "out")
    before = (out / "README.md").read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        check_free(out, force=False)
    (out / "notes").write_text("mine")
    folder_of(sampled, out, license="mit")
    assert before != (out / "README.md").read_bytes() and not (out / "notes").exists()
    other = tmp_path / "mine"
    (other / "data").mkdir(parents=True)
    (other / "README.md").write_text("---\nhcache: 1\n---\n")
    with pytest.raises(ConfigError, match="is no folder that hcache has written"):
        folder_of(sampled, other)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is no folder that hcache has written"):
        folder_of(sampled, tmp_path / "file")
    assert (other / "README.md").read_text() == "---\nhcache: 1\n---\n"


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_folder_is_whole_or_absent(
    sampled: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Each file in turn cannot be written."""
    out = folder_of(sampled, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    left = iter(range(1, 10))

    def failing(path: Path, *parts: bytes) -> None:
        if next(left) == call:
            raise OSError(28, "No space left on device")
        replace_file(path, *parts)

    with monkeypatch.context() as patch:
        patch.setattr("hcache.exports.writing.replace_file", failing)
        for place in (out, tmp_path / "new"):
            left = iter(range(1, 10))
            with pytest.raises(ConfigError, match="No space left"):
                folder_of(sampled, place, license="mit")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_that_cannot_be_moved_leaves_the_old_one(
    sampled: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder_of(sampled, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ConfigError, match="Input/output error"):
        folder_of(sampled, out, license="mit")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
