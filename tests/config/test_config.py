"""The experiment file: every error names the place and says what would be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.experiments import Raw, load, settings, write_questions

from hcache.config.file import read_config
from hcache.config.schema import ExperimentConfig, FeaturesConfig, TrainConfig
from hcache.errors import ConfigError, DataError
from hcache.experiment import Experiment

REMOVED = object()


def changed(place: str, value: object) -> Raw:
    """Good settings with one of them changed or removed."""
    raw = settings("ab")
    *parents, last = place.split(":")
    node: Any = raw
    for parent in parents:
        node = node[parent]
    if value is REMOVED:
        del node[last]
    else:
        node[last] = value
    return raw


def test_good_settings_are_taken(folder: Path) -> None:
    experiment = load(folder, settings("ab"))
    assert experiment.name == "small"
    assert [arm.name for arm in experiment.pool] == ["a", "b"]
    assert {split: len(queries) for split, queries in experiment.splits.items()} == {
        "train": 3,
        "valid": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("trian", {}, r"yaml: trian: unknown setting; did you mean 'train'\? known: .*models"),
        ("arms:a:tempreature", 1, r"arms\.a\.tempreature: unknown setting; did .* 'temperature'"),
        ("models:a:dtyp", "x", r"models\.a\.dtyp: unknown setting; did you mean 'dtype'"),
        ("data:made:sources:train:limits", 1, r"data\.made\.sources\.train\.limits: .* 'limit'"),
        ("features:zzz", 1, r"features\.zzz: unknown setting; known: encoder, dim"),
        (
            "arms:a:price",
            {"in": 1, "output": 1},
            r"arms\.a\.price\.in: unknown setting; known: input, output",
        ),
        ("models", REMOVED, r"models: missing"),
        ("arms:a:model", REMOVED, r"arms\.a\.model: missing"),
        ("data:made:sources", REMOVED, r"data\.made\.sources: missing"),
        ("arms", {}, r"arms: .*at least 1"),
        ("arms:a:max_tokens", "many", r"arms\.a\.max_tokens: .*integer.*\(it is 'many'\)"),
        ("arms:a:max_tokens", 0, r"arms\.a\.max_tokens: .*greater than or equal to 1 \(it is 0\)"),
        ("arms:a:price", True, r"arms\.a\.price: .*\(it is True\)"),
        ("arms:a:price", -1, r"arms\.a\.price\.input: .*greater than or equal to 0"),
        ("models:a:dtype", "float8", r"models\.a\.dtype: .*'float32'.*\(it is 'float8'\)"),
        ("name", "a b", r"name: .*pattern"),
        ("workflow", "relay", r"workflow: .*dictionary"),
        ("arms:a:model", "aa", r"arms\.a\.model: there is no model 'aa'; did you mean 'a'"),
        ("arms:a>b", {"model": "a"}, r"arms: an arm cannot be called 'a>b'"),
        ("arms:STOP", {"model": "a"}, r"arms: an arm cannot be called 'STOP'"),
        ("quality", "em2", r"data\.made\.metrics: lacks 'em2', which `quality` asks for"),
        ("data:made:sources:dev", {"path": "x"}, r"unknown split 'dev'; .* train, valid, test"),
        ("data:made:sources:train/test", {"path": "x"}, r"a split has two sources"),
        ("data:made:metrics", ["f1", "bleu"], r"data\.made: unknown metric 'bleu'.* known: .*em"),
        ("data:made:extract", "words", r"data\.made: unknown extractor 'words'.* known: .*text"),
        ("workflow:name", "rely", r"workflow\.name: unknown workflow 'rely'; did you mean 'relay'"),
        ("workflow:name", ["relay"], r"workflow\.name: unknown workflow"),
        ("workflow:hop", 2, r"workflow\.?:? ?\.?hop: unknown setting; did you mean 'hops'"),
        ("workflow:hops", 0, r"workflow.*hops: .*greater than or equal to 1"),
        ("workflow:reply", "x", r"workflow.*reply: needs the placeholder \{reply\}"),
        ("features", {"encoder": "sentence-transformers"}, r"features: .* needs `path`"),
    ],
)
def test_defect_of_settings_is_named(folder: Path, place: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder, changed(place, value))
    assert str(folder / "experiment.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("data:made:reader", "jsonlines", r"unknown reader 'jsonlines'; did you mean 'jsonl'"),
        ("data:made:options", {"qestion": "q"}, r"qestion"),
        ("data:made:sources:train:path", "no.jsonl", r"data\.made\.sources\.train\.path: no.jsonl"),
    ],
)
def test_defect_of_data_settings_is_named(
    folder: Path, place: str, value: object, message: str
) -> None:
    experiment = load(folder, changed(place, value))
    with pytest.raises(ConfigError, match=message):
        _ = experiment.splits


def test_several_defects_are_all_named(folder: Path) -> None:
    raw = settings("ab", quality=3, runs=[])
    with pytest.raises(ConfigError, match=r"runs: .*; .*quality: "):
        load(folder, raw)


def test_split_that_gets_no_query_is_refused(folder: Path) -> None:
    raw = settings("ab")
    sources = {"train": {"path": "train.jsonl"}, "valid/test": {"path": "valid.jsonl"}}
    raw["data"]["made"]["sources"] = sources
    with pytest.raises(DataError, match=r"sources\.valid/test\.path: split test .* no queries"):
        _ = load(folder, raw).splits


# The file


def test_missing_file_points_to_one_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read .*data/demo/experiment.yaml"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: x\narms: [a\nmodels: {}\n", r"experiment\.yaml:3: "),
        (b"name: x\n\tdb: y\n", r"experiment\.yaml:2: "),
        (b"name: x\n[a]: y\n", r"experiment\.yaml:2: "),
        (b"- a\n- b\n", "no YAML mapping"),
        (b"", "no YAML mapping"),
        (b"name: \xff\n", "not UTF-8"),
        (b"name: \x00\n", r"experiment\.yaml"),
        (b"1: x\nname: y\n", r"experiment\.yaml"),
    ],
)
def test_file_that_is_no_experiment_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(file)


def test_name_is_that_of_the_file_unless_given(folder: Path) -> None:
    raw = settings("ab")
    del raw["name"]
    assert load(folder, raw).name == "experiment"


def test_file_in_yaml_reads_as_in_json(folder: Path) -> None:
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(settings("ab"), sort_keys=False), encoding="utf-8")
    assert Experiment.load(file).config == load(folder, settings("ab")).config


def test_price_is_one_number_or_two(folder: Path) -> None:
    raw = settings("ab")
    raw["arms"]["a"]["price"] = 2
    raw["arms"]["b"]["price"] = {"input": 1, "output": 3.5}
    arms = load(folder, raw).config.arms
    assert (arms["a"].price.input, arms["a"].price.output) == (2, 2)
    assert (arms["b"].price.input, arms["b"].price.output) == (1, 3.5)


def test_resolved_settings_load_as_they_are(folder: Path) -> None:
    config = load(folder, settings("ab")).config
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config


# Overrides


def test_overrides_reach_any_depth(folder: Path) -> None:
    raw = settings("ab")
    write_questions(folder, "train", 8)
    raw["data"]["made"]["sources"] = {
        "train": {"path": "train.jsonl"},
        "valid/test": {"path": "none.jsonl"},
    }
    experiment = load(
        folder,
        raw,
        "data.made.sources.valid/test.path=train.jsonl",
        "data.made.sources.train.path=valid.jsonl",
        "train.alpha=0.25",
        "arms.a.stop=[x, 'y=z']",
        "arms.a.instruction='a: b'",
        "workflow.hops=3",
        "quality=em",
    )
    assert experiment.config.train.alpha == 0.25
    assert experiment.config.arms["a"].stop == ("x", "y=z")
    assert experiment.config.arms["a"].instruction == "a: b"
    assert experiment.workflow.hops == 3
    assert experiment.config.quality == "em"
    assert {split: len(queries) for split, queries in experiment.splits.items()} == {
        "train": 1,
        "valid": 5,
        "test": 3,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.alpha", r"--set train\.alpha: not of the form place=value\. Like train.alpha=0\.1"),
        ("=3", "not of the form place=value"),
        ("name.x=1", r"--set name\.x=1: name is a value, nothing is below it"),
        ("arms.a.temperature=.inf", r"arms\.a\.temperature: .*finite"),
        ("arms.a.price=.nan", r"arms\.a\.price"),
        ("models.a.chat_template_args.x=.nan", r"chat_template_args\.x.*finite"),
        ("models.a.chat_template_args.date=2026-07-26", r"chat_template_args\.date: .*JSON"),
        ("train.alpha=[1", r"--set train\.alpha=\[1: the value is not YAML"),
        ("train.alhpa=1", r"train\.alhpa: unknown setting; did you mean 'alpha'"),
        ("train.alpha=much", r"train\.alpha: .*number.*'much'"),
        ("arms.c.price=1", r"arms\.c\.model: missing"),
    ],
)
def test_defect_of_an_override_is_named(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(folder, settings("ab"), override)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("name: x\narms:\n  a: {model: m}\n  a: {model: n}\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml:4: 'a' stands twice"):
        read_config(file)


def test_a_file_may_stand_on_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings("ab", train={"alpha": 0.7})))
    own = {"base": "base.yaml", "name": "second", "train": {"algo": "sft"}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(own))
    first, second = (read_config(tmp_path / f"{name}.yaml") for name in ("base", "second"))
    assert second.name == "second"
    assert (second.train.algo, second.train.alpha) == ("sft", 0.7)
    assert second.arms == first.arms
    (tmp_path / "plain.yaml").write_text("base: base.yaml\ntrain: {alpha: null}\nfeatures: null\n")
    plain = read_config(tmp_path / "plain.yaml")
    assert plain.train == TrainConfig() and plain.features == FeaturesConfig() != first.features
    (tmp_path / "third.yaml").write_text("base: second.yaml\n")
    for text, message in (
        ("base: second.yaml", "second.yaml has a base itself"),
        ("base: ../base.yaml", "is no file beside it"),
        ("base: none.yaml", "cannot read the file"),
    ):
        (tmp_path / "third.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path / "third.yaml")


def test_another_algorithm_has_its_own_settings(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    raw = settings("ab", train={
        "algo": "ppo", "alpha": 0.5, "iterations": 9, "settings": {"lr": 0.1},
        "also": {"sft": {"iterations": 3, "settings": {"ties": "all"}}},
    })  # fmt: skip
    file.write_text(json.dumps(raw))
    own = read_config(file).train
    assert (own.algo, own.iterations, own.settings) == ("ppo", 9, {"lr": 0.1})
    sft = read_config(file, ["train.settings.lr=0.2"], algo="sft").train
    assert (sft.iterations, sft.alpha) == (3, 0.5)
    assert sft.settings == {"ties": "all", "lr": 0.2}
    soft = read_config(file, algo="soft").train
    assert (soft.iterations, soft.settings) == (9, {})
    chain = read_config(file, algo="sft+ppo").train
    assert (chain.algo, chain.settings) == ("sft+ppo", {"lr": 0.1})
    assert chain.of("sft").settings == {"ties": "all"}
    raw["train"]["also"] = {"sft": {"iteration": 3}}
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=r"also\.sft\.iteration: unknown setting"):
        read_config(file, algo="sft")


def test_two_served_models_of_one_name_are_refused() -> None:
    """They would share an identity, and the replies of one would pass for those of the other."""
    raw = settings("ab")
    for port, name in enumerate("ab", 8000):
        server = {"endpoints": [f"http://127.0.0.1:{port}/v1"]}
        raw["models"][name] = {"path": "default", "engine": "openai", "server": server}
    with pytest.raises(ValueError, match="'default' is also the name of a, at other endpoints"):
        ExperimentConfig.model_validate(raw)
    raw["models"]["b"]["path"] = "other"
    ExperimentConfig.model_validate(raw)
    raw["models"]["b"] = raw["models"]["a"]
    ExperimentConfig.model_validate(raw)
