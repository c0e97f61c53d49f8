"""Names of plug-ins: each can stand in a table, on one line and in the name of a file."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import load, settings, write_scripts
from helpers.shell import Shell

from hcache import plugins
from hcache.data.extractors import EXTRACTORS
from hcache.data.metrics import METRICS
from hcache.data.readers import READERS
from hcache.engines import ENGINES
from hcache.errors import ConfigError
from hcache.exports import EXPORTERS
from hcache.policies.base import POLICIES
from hcache.recorded import IMPORTERS
from hcache.replay.features import ENCODERS
from hcache.runs.tracking import TRACKERS
from hcache.trainers import TRAINERS
from hcache.workflows import WORKFLOWS

REGISTRIES: list[plugins.Registry[Any]] = [
    METRICS, EXTRACTORS, READERS, WORKFLOWS, ENGINES, ENCODERS, POLICIES, TRAINERS, TRACKERS,
    IMPORTERS, EXPORTERS,
]  # fmt: skip
NAMES = [
    "../x",
    "a/b",
    "a\\b",
    ".",
    "..",
    "",
    " ",
    "a\0b",
    "a\nb",
    "x" * 300,
    "a\x1b[2J",
    "\u202ex",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_what_is_no_name_is_refused(registry: plugins.Registry[Any], name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        registry.register(name)
    assert registry.kind in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert name not in registry


def test_all_kinds_are_there() -> None:
    assert {id(each) for each in plugins._registries} == {id(each) for each in REGISTRIES}


@pytest.mark.parametrize("name", ["../out", "sub/x", "x" * 300])
def test_a_trainer_writes_nothing_outside_the_folder_of_runs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    write_scripts(tmp_path, "ab")
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "from hcache.trainers import TRAINERS\n"
        f"TRAINERS.register({name!r})(type('Own', (TRAINERS.find('sft'),), {{}}))\n"
    )
    raw = settings("ab", runs="runs/inner")
    load(tmp_path, raw)
    shell = Shell(tmp_path, capsys, monkeypatch)
    shell("sample", "experiment.yaml")
    raw |= {"plugins": ["own.py"], "train": {"algo": name, "iterations": 2, "evaluate_every": 1}}
    (tmp_path / "experiment.yaml").write_text(json.dumps(raw))
    before = {*TRAINERS.entries}
    try:
        said = shell("train", "experiment.yaml", code=1)
    finally:
        for new in {*TRAINERS.entries} - before:
            del TRAINERS.entries[new]
    assert "no name" in said and len(said.splitlines()) == 1
    assert not [*tmp_path.rglob("*-s0-*")]


@pytest.mark.parametrize("name", ["../x", "x" * 300])
def test_an_installed_package_has_names_as_well(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    point = EntryPoint(name, "hcache.trainers:TRAINERS", TRAINERS.group)
    monkeypatch.setattr(plugins, "_entry_points", lambda group: {name: point})
    with pytest.raises(ConfigError, match="no name"):
        TRAINERS.find(name)
