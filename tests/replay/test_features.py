"""Features: equal texts have equal vectors, each encoded once and kept beside the database."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers.paths import DEMO
from hypothesis import given
from hypothesis import strategies as st

from hcache.config.schema import FeaturesConfig
from hcache.errors import ConfigError
from hcache.keys import digest
from hcache.replay.features import (
    Array,
    CausalEncoder,
    Context,
    FeatureStore,
    HashingEncoder,
    make_encoder,
)

GENERALIST = DEMO / "models" / "generalist"
CONTEXTS: dict[str, list[str]] = {
    digest(context): context
    for context in (
        ["What is 3 + 4?"],
        ["What is 3 + 4?", "7"],
        ["What is 3 + 4?", "7", ""],
        ["What is 3 + 4?", "7", "8"],
        [""],
        ["ünïcode 😀 " * 40, "x\x00y"],
    )
}


class Counting:
    """An encoder that remembers what it was asked, and answers with lengths."""

    dim = 3
    fingerprint = "counting"

    def __init__(self) -> None:
        self.seen: list[Context] = []

    def encode(self, contexts: Sequence[Context]) -> Array:
        self.seen += contexts
        rows = [[len(context), len(context[0]), len(context[-1])] for context in contexts]
        return np.array(rows, dtype=np.float16)


def rows_of(contexts: Sequence[Context]) -> Array:
    return Counting().encode(contexts)


# The encoder


def test_vectors_are_the_same_every_time_and_in_every_company() -> None:
    contexts = list(CONTEXTS.values())
    together = HashingEncoder(16, seed=0).encode(contexts)
    assert together.shape == (len(contexts), 16)
    assert together.dtype == np.float16
    alone = [HashingEncoder(16, seed=0).encode([context])[0] for context in contexts]
    assert np.array_equal(together, np.stack(alone))
    assert np.isfinite(together).all()


def test_vectors_stay_what_they_are() -> None:
    vector = HashingEncoder(8, seed=0).encode([["What is 3 + 4?", "7"]])[0]
    pinned = [0.0, -1.4609375, 0.0, -0.365234375, 0.0, 1.095703125, 0.0, 0.0]
    assert vector.tolist() == pytest.approx(pinned, abs=2e-3)


def test_order_of_replies_and_their_place_are_seen() -> None:
    encoder = HashingEncoder(64, seed=0)
    contexts = [["q", "one", "two"], ["q", "two", "one"], ["q", "two"], ["q two"], ["q"]]
    vectors = encoder.encode(contexts)
    for number, vector in enumerate(vectors):
        assert not any(np.array_equal(vector, other) for other in vectors[number + 1 :])


def test_seed_and_size_make_another_encoder() -> None:
    encoders = [HashingEncoder(16, 0), HashingEncoder(16, 1), HashingEncoder(8, 0)]
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    one, other = (encoder.encode([["a b c"]]) for encoder in encoders[:2])
    assert not np.array_equal(one, other)


def test_texts_without_words_are_vectors_too() -> None:
    vectors = HashingEncoder(8, seed=0).encode([[""], ["", ""], [" \n"]])
    assert np.array_equal(vectors, np.zeros((3, 8), dtype=np.float16))


def test_encoder_is_the_one_of_the_settings() -> None:
    made = make_encoder(FeaturesConfig(dim=24, seed=5))
    assert made.fingerprint == HashingEncoder(24, 5).fingerprint
    with pytest.raises(ConfigError, match=r"features\.(path|encoder): "):
        make_encoder(FeaturesConfig(encoder="sentence-transformers", path="/none"))


def test_encoders_of_sentences_are_told_apart_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        def __init__(self, path: str, device: str, **how: object) -> None: ...

        def encode(self, texts: list[str], **options: bool) -> Array:
            return np.array([[len(text)] * 4 for text in texts], dtype=np.float32)

    library = ModuleType("sentence_transformers")
    monkeypatch.setattr(library, "SentenceTransformer", Model, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    prints = []
    for name, weights in (("one", "a"), ("two", "b"), ("three", "a")):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "part" / "model.safetensors").write_text(weights)
        path = str(tmp_path / name)
        made = make_encoder(FeaturesConfig(encoder="sentence-transformers", path=path))
        prints.append(made.fingerprint)
        assert made.encode([["ab", "c"]]).tolist() == [[4.0] * 4]
    assert prints[0] == prints[2] != prints[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model, with the tokenizer of the demo's models."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(GENERALIST)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def causal(path: Path, **more: Any) -> CausalEncoder:
    made = make_encoder(FeaturesConfig(encoder="causal-lm", path=str(path), **more))
    assert isinstance(made, CausalEncoder)
    return made


ASKED = [["What is 3 + 4?"], [""], ["What is 3 + 4?", "7"], ["Who " * 40], [""], ["7"]]


def test_causal_vectors_are_means_of_the_last_hidden_states(checkpoint: Path) -> None:
    import transformers

    vectors = causal(checkpoint).encode(ASKED)
    assert vectors.shape == (len(ASKED), 16)
    assert vectors.dtype == np.float16
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    for vector, context in zip(vectors, ASKED, strict=True):
        ids = tokenizer("\n".join(context), add_special_tokens=False)["input_ids"]
        expected = np.zeros(16)
        if ids:
            with torch.no_grad():
                output = model(torch.tensor([ids]), output_hidden_states=True)
            expected = output.hidden_states[-1][0].mean(dim=0).numpy()
        assert vector == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_causal_vectors_do_not_depend_on_the_batch(checkpoint: Path, batch: int) -> None:
    encoder = causal(checkpoint)
    together = encoder.encode(ASKED).astype(np.float32)
    encoder.batch = batch
    assert encoder.encode(ASKED).astype(np.float32) == pytest.approx(together, abs=2e-3)
    assert encoder.encode([]).shape == (0, 16)


def test_of_a_text_too_long_the_end_is_encoded(checkpoint: Path) -> None:
    long, end = [["Paris Rome Oslo Bern"]], [["Oslo Bern"]]
    cut, whole = causal(checkpoint, max_tokens=2), causal(checkpoint)
    assert np.array_equal(cut.encode(long), whole.encode(end))
    assert not np.array_equal(whole.encode(long), whole.encode(end))
    assert cut.fingerprint != whole.fingerprint


def test_a_causal_encoder_is_known_by_the_contents_of_its_folder(
    checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    assert causal(copy).fingerprint == causal(checkpoint).fingerprint
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert causal(copy).fingerprint != causal(checkpoint).fingerprint
    assert causal(copy)._loaded is None  # nothing was encoded


def test_a_causal_encoder_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"features\.path: .* is no checkpoint"):
        causal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="transformers cannot be imported"):
        causal(tmp_path)


# What is kept


def test_each_context_is_encoded_once(tmp_path: Path) -> None:
    for expected in (list(CONTEXTS), []):
        encoder = Counting()
        store = FeatureStore(tmp_path / "db", encoder)
        missing = store.missing([*CONTEXTS, *CONTEXTS])
        assert sorted(missing) == sorted(expected)
        store.add({identity: CONTEXTS[identity] for identity in missing})
        assert len(encoder.seen) == len(expected)
        assert store.missing(CONTEXTS) == []
        assert np.array_equal(store.rows(list(CONTEXTS)), rows_of(list(CONTEXTS.values())))


@given(st.lists(st.integers(0, 30), max_size=12), st.lists(st.integers(0, 30), max_size=12))
def test_rows_come_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("features")
    contexts = {digest(number): [str(number)] * (1 + number % 3) for number in range(31)}
    ids = list(contexts)
    for batch in (first, second):
        store = FeatureStore(folder / "db", Counting())
        wanted = [ids[number] for number in batch]
        missing = store.missing(wanted)
        assert len(set(missing)) == len(missing)
        store.add({identity: contexts[identity] for identity in missing})
    store = FeatureStore(folder / "db", Counting())
    wanted = [ids[number] for number in first + second]
    assert store.rows(wanted).shape == (len(wanted), 3)
    assert np.array_equal(
        store.rows(wanted), rows_of([contexts[identity] for identity in wanted]).reshape(-1, 3)
    )


def test_unknown_context_is_named(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "db", Counting())
    known, unknown = list(CONTEXTS)[:2]
    with pytest.raises(KeyError, match=known):
        store.rows([known])
    store.add({known: CONTEXTS[known]})
    with pytest.raises(KeyError, match=unknown):
        store.rows([known, unknown])


def test_writers_side_by_side_do_no_harm(tmp_path: Path) -> None:
    stores = [FeatureStore(tmp_path / "db", Counting()) for _ in range(2)]
    for store in stores:
        store.add(CONTEXTS)
    one, other = list(CONTEXTS)[:2]
    FeatureStore(tmp_path / "db", Counting()).add({one: CONTEXTS[one]})
    again = FeatureStore(tmp_path / "db", Counting())
    assert np.array_equal(again.rows([other, one]), rows_of([CONTEXTS[other], CONTEXTS[one]]))


def test_encoders_are_kept_apart(tmp_path: Path) -> None:
    first, second = HashingEncoder(8, 0), HashingEncoder(8, 1)
    FeatureStore(tmp_path / "db", first).add(CONTEXTS)
    assert len(FeatureStore(tmp_path / "db", second).missing(CONTEXTS)) == len(CONTEXTS)
    assert FeatureStore(tmp_path / "db", first).missing(CONTEXTS) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.features"]


def test_nothing_asked_is_nothing_given(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "db", Counting())
    store.add({})
    assert (store.missing([]), store.rows([]).shape) == ([], (0, 3))
    assert not (tmp_path / "db.features").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_vectors_are_maps_of_the_file(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    identity = digest(["a context"])
    FeatureStore(db, HashingEncoder(8, 0)).add({identity: ["a context"]})
    ((_, vectors),) = FeatureStore(db, HashingEncoder(8, 0))._shards
    address = vectors.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            assert line.endswith(".safetensors")
            return
    pytest.fail("the vectors lie nowhere")
