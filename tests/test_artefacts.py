"""Artefacts: what is read is what was written, or an error; the small ones that heal themselves."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.damage import COUNT, damages, in_place_of
from helpers.fitting import fresh, run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from hcache.artefacts import check_tensors, digest_of, read_object, write_object, write_tensors
from hcache.errors import RunError
from hcache.files import replace_file
from hcache.keys import digest
from hcache.models.files import digests_of
from hcache.replay.features import FeatureStore, HashingEncoder

KEYS = st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS.filter(lambda key: key != "digest"), VALUES, max_size=5))
def test_objects_come_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    file = tmp_path_factory.mktemp("object") / "o.json"
    write_object(file, value)
    back = read_object(file, "")
    assert json.dumps(back, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert json.loads(file.read_text())["digest"] == digest_of(back)


def test_an_object_without_a_digest_is_read_only_with_the_entries_it_could_have(
    tmp_path: Path,
) -> None:
    file = tmp_path / "o.json"
    for text in ('{"a": 1}', '{"a": 1, "digesu": "x"}', '{"a": 1, "digest": null}'):
        file.write_text(text)
        with pytest.raises(RunError, match=r"is damaged.* Type this\."):
            read_object(file, "Type this.")
    file.write_text('{"a": 1}')
    assert read_object(file, "", before={"a", "b"}) == {"a": 1}
    for text in ('{"a": 1, "digesu": "x"}', '{"a": 1, "digest": null}'):
        file.write_text(text)
        with pytest.raises(RunError, match="is damaged"):
            read_object(file, "", before={"a", "b"})


@pytest.mark.parametrize("metadata", [None, {"one": "two"}])
def test_tensors_come_back(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    tensors = {"é": torch.arange(7, dtype=torch.int16), "b": torch.zeros(0, 3), "c": torch.ones(())}
    write_tensors(tmp_path / "t", save(tensors, metadata))
    assert check_tensors(tmp_path / "t", "") == (metadata or {})
    back = load_file(tmp_path / "t")
    assert back.keys() == tensors.keys() and all(torch.equal(back[k], tensors[k]) for k in back)


def test_tensors_that_were_damaged_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t"
    write_tensors(file, save({"a": torch.arange(9.0), "b": torch.ones(3)}, {"one": "two"}))
    whole = {name: value.tolist() for name, value in load_file(file).items()}
    for content in damages(file.read_bytes(), 1000):
        file.write_bytes(content)
        try:
            metadata = check_tensors(file, "")
        except RunError:
            continue
        assert metadata == {"one": "two"}
        assert {name: value.tolist() for name, value in load_file(file).items()} == whole


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """At its last iteration nothing is left to train, so that reading it is all that is done."""
    file = tmp_path / "checkpoint"
    whole = fresh("sft")
    run(whole, iterations=2, checkpoint=file)
    data, wanted = file.read_bytes(), whole.state()
    refused = 0
    for content in damages(data):
        file.write_bytes(content)
        again = fresh("sft")
        try:
            run(again, iterations=2, checkpoint=file, resume=True)
        except RunError as error:
            assert error.hint == f"Delete it to start anew: rm -r {file}"
            refused += 1
            continue
        state = again.state()
        assert all(torch.equal(state[name], value) for name, value in wanted.items())
    assert refused > 0.9 * COUNT
    for what in in_place_of(file):
        if what != "nothing":
            with pytest.raises(RunError, match="is damaged"):
                run(fresh("sft"), iterations=2, checkpoint=file, resume=True)


TEXTS = {digest(text): [text, "reply"] for text in ("one", "two", "three")}


def shard_of(db: Path, encoder: HashingEncoder) -> Path:
    FeatureStore(db, encoder).add(TEXTS)
    (shard,) = (db.with_name(db.name + ".features") / encoder.fingerprint).iterdir()
    return shard


def test_a_damaged_shard_of_features_is_encoded_again_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, ids = HashingEncoder(4, seed=0), list(TEXTS)
    shard = shard_of(tmp_path / "db", encoder)
    whole = shard.read_bytes()
    rows = FeatureStore(tmp_path / "db", encoder).rows(ids)
    said = 0
    for content in damages(whole):
        shard.write_bytes(content)
        caplog.clear()
        store = FeatureStore(tmp_path / "db", encoder)
        missing = store.missing(ids)
        assert len(caplog.messages) == bool(missing)
        store.add({key: TEXTS[key] for key in missing})
        assert np.array_equal(store.rows(ids), rows)
        said += len(caplog.messages)
        if missing:
            assert caplog.records[0].levelno == logging.WARNING
            assert str(shard) in caplog.text and "encoded again" in caplog.text
            assert shard.read_bytes() == whole
    assert said > 0.9 * COUNT


def test_a_shard_of_another_encoder_or_without_a_digest_is_encoded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, other = HashingEncoder(4, seed=0), HashingEncoder(8, seed=0)
    shard = shard_of(tmp_path / "db", encoder)
    foreign = shard_of(tmp_path / "other", other)
    before = save(load_file(shard))
    for content in (foreign.read_bytes(), before):
        shard.write_bytes(content)
        assert FeatureStore(tmp_path / "db", encoder).missing(list(TEXTS)) == sorted(TEXTS)
        assert not shard.exists()
    assert len(caplog.messages) == 2


def test_what_else_is_in_the_place_of_a_shard_costs_time_only(tmp_path: Path) -> None:
    encoder, ids = HashingEncoder(4, seed=0), list(TEXTS)
    rows = encoder.encode(list(TEXTS.values()))
    for _ in in_place_of(shard_of(tmp_path / "db", encoder)):
        store = FeatureStore(tmp_path / "db", encoder)
        store.add({key: TEXTS[key] for key in store.missing(ids)})
        assert np.array_equal(store.rows(ids), rows)
        for made in (tmp_path / "db.features" / encoder.fingerprint).iterdir():
            if made.is_file():
                made.unlink()


def test_remembered_digests_of_models_are_made_again_where_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.safetensors").write_bytes(b"weights")
    wanted = dict(digests_of(tmp_path / "model"))
    file = tmp_path / "hcache" / "digests.json"
    for content in damages(file.read_bytes()):
        file.write_bytes(content)
        assert dict(digests_of(tmp_path / "model")) == wanted


def test_a_full_disk_leaves_the_old_file_and_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "manifest.json"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/manifest\.json'"):
        replace_file(file, b"new")
    assert [*tmp_path.iterdir()] == [file] and file.read_bytes() == b"old"
