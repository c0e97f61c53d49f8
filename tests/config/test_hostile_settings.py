"""Settings of strangers: what JSON cannot say, bombs of aliases, and names that are paths."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.experiments import Raw, load, settings

from hcache.config.file import read_config
from hcache.config.yaml import load_yaml
from hcache.data.readers import read
from hcache.errors import ConfigError, HcacheError, RunError
from hcache.files import find
from hcache.models.files import by_content, locate
from hcache.runs.folder import all_runs
from hcache.sampling import Sampler, make_plan


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2024-01-01", "timestamp is nothing that JSON has; put it in quotes"),
        ("2024-99-99", "timestamp"),
        ("9" * 5_000, "cannot be read as int"),
        ("0x" + "f" * 5_000, "more than 64 bits"),
        ("18446744073709551616", "more than 64 bits"),
        ("1.0e+999999999", "not finite"),
        (".inf", "not finite"),
        ("!!binary aGk=", "binary is nothing"),
        ("!!set {a, b}", "set is nothing"),
        ("!!python/object:os.system {}", "python/object:os.system is nothing"),
        ("!!bool x", "cannot be read as bool"),
        ("{[a, b]: c}", "a key is a text, not a list"),
        ("{1: 2}", "a key is a text, not '1'"),
        ("[" * 3_000, "50 lists and mappings within one another"),
        ("[" * 60 + "]" * 60, "50 lists and mappings within one another"),
        ("&a [*a]", "an alias stands within"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'"\0"', "NUL"),
        (r'"\U00110000"', "chr"),
    ],
    ids=lambda value: value[:20],
)
def test_value_that_json_has_not_is_refused(folder: Path, value: str, problem: str) -> None:
    file = folder / "experiment.yaml"
    file.write_text(f"name: x\ntrain:\n  settings: {{a: {value}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=problem):
        read_config(file)
    load(folder, settings("ab"))
    with pytest.raises(ConfigError, match=problem):
        read_config(file, [f"train.settings.a={value}"])


def test_pair_of_surrogates_is_one_character(folder: Path) -> None:
    load(folder, settings("ab"))
    changed = read_config(folder / "experiment.yaml", [r'arms.a.system="\ud83d\ude00"'])
    assert changed.arms["a"].system == "\U0001f600"


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_that_grow_beyond_measure_are_refused_at_once(tmp_path: Path, merge: bool) -> None:
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [x, x]"]
    for level in range(1, 40):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        inner = f"{{<<: [{nine}]}}" if merge else f"[{nine}]"
        lines.append(f"a{level}: &a{level} {inner}")
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError, match="more than 100,000 values, each alias written out"):
        read_config(file)
    assert time.process_time() - started < 2


def test_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_text("- x\n" * 300_000, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError, match="more than 1,048,576 characters"):
        read_config(file)
    assert time.process_time() - started < 2


BAD_NAMES = ["..", "../x", "a/b", "a\\b", "/etc/passwd", "", " ", "a\nb", "\x1b[0m", "x" * 101]
BAD_NAMES += [" a", "a ", "\u3000a", "cafe\u0301", "\u212bngstrom"]  # look like another name


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("section", ["name", "models", "arms", "data"])
def test_name_that_is_a_path_is_refused(folder: Path, name: str, section: str) -> None:
    raw: Raw = settings("ab")
    if section == "name":
        raw["name"] = name
    else:
        raw[section] = {name: next(iter(raw[section].values()))} | raw[section]
    with pytest.raises(ConfigError, match=rf"(?s){section}.*(name|should match)"):
        load(folder, raw)


@pytest.mark.parametrize("name", [".", ".hidden", "-x"])
def test_experiment_has_no_name_that_hides(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: .*should match"):
        load(folder, settings("ab", name=name))


@pytest.mark.parametrize("place", ["train", "sampling", "features", "evaluate", "arms.a"])
@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seed_is_one_that_numpy_takes(folder: Path, place: str, seed: str) -> None:
    load(folder, settings("ab"))
    with pytest.raises(ConfigError, match=rf"{place}\.seed"):
        read_config(folder / "experiment.yaml", [f"{place}.seed={seed}"])


NO_FILES = ["x" * 300, "x/" * 3_000, "a\0b", "~nobody-of-this-name/x", "\ud800"]


@pytest.mark.parametrize("path", NO_FILES, ids=ascii)
def test_path_that_no_file_can_have_is_not_there(tmp_path: Path, path: str) -> None:
    assert find(path, tmp_path, Path()) is None
    assert by_content(path, ()) == path
    with pytest.raises(ConfigError, match=r"place: .* does not exist"):
        locate(path, tmp_path, "place")


@pytest.mark.parametrize("db", ["", ".", "..", "runs", "x" * 300])
def test_database_that_can_be_no_file_is_refused_and_leaves_nothing(folder: Path, db: str) -> None:
    (folder / "runs").mkdir()
    before = sorted(folder.rglob("*"))
    experiment = load(folder, settings("ab"))
    experiment.db = Path(db) if db in ("", ".", "..") else folder / db
    for use in (Sampler(experiment).run, lambda: make_plan(experiment)):
        with pytest.raises(HcacheError) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert [file for file in sorted(folder.rglob("*")) if file.name != "experiment.yaml"] == before


def test_names_of_files_that_cannot_be_are_errors_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the file"):
        read_config(tmp_path / "a\0.yaml")
    with pytest.raises(RunError, match="cannot be read"):
        all_runs(tmp_path / ("x" * 300))


@pytest.mark.parametrize("limit", [10**6, 2**63 - 1, 2**63, 10**30])
def test_limit_beyond_all_rows_is_all_rows(folder: Path, limit: int) -> None:
    file = folder / "train.jsonl"
    every = read("jsonl", file, dataset="made")
    assert len(read("jsonl", file, dataset="made", limit=1)) == 1 < len(every)
    assert read("jsonl", file, dataset="made", limit=limit) == every


def test_resamples_beyond_memory_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="resamples"):
        load(folder, settings("ab", evaluate={"resamples": 10**12}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        ("3e825ceb85bdb9434c4f34e68a0d004a", None),  # keys and digests are texts
        ("38250000085009434040340068000e04", None),
        ("1e-3x", None),
        ("2e", None),
    ],
)
def test_numbers_with_exponents_are_numbers_and_keys_are_not(
    text: str, value: float | None
) -> None:
    assert load_yaml(f"x: {text}") == {"x": text if value is None else value}
