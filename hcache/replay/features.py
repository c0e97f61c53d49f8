"""Features: the text of a state (c_t) as a vector, computed once per distinct state.

An encoder maps contexts (question, then replies) to float16 rows. Rows are kept beside the
database in `<db>.features/<encoder>/`, in shards of safetensors that are memory-mapped; they are
addressed by the key of the context, so shards written side by side do no harm. One that is
damaged, or without a digest since an earlier version wrote it, is removed and encoded again.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save

from hcache.artefacts import check_tensors, damaged, write_tensors
from hcache.config.schema import FeaturesConfig
from hcache.errors import ConfigError, RunError
from hcache.files import features_folder
from hcache.keys import digest
from hcache.models.causal_lm import (
    beginning,
    by_length,
    checkpoint_config,
    last_hidden,
    load_checkpoint,
    token_ids,
    with_end,
)
from hcache.models.files import encoder_digest, locate
from hcache.models.sentence import load_sentence_encoder
from hcache.plugins import Registry, Source

Array = npt.NDArray[Any]
Context = Sequence[str]
TAIL = 16  # words at the end of the question that count once more: there the task is stated
BUCKETS = 1 << 14
ANEW = "Its texts are encoded again."  # the way out of a damaged shard, which is taken at once
_log = logging.getLogger(__name__)
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


class Encoder(Protocol):
    """Turns contexts into vectors."""

    dim: int

    @property
    def fingerprint(self) -> str:
        """Identity: encoders of equal fingerprint give equal vectors."""

    def encode(self, contexts: Sequence[Context]) -> Array:
        """Vectors of n contexts, float16 [n, dim]."""


class HashingEncoder:
    """Words, word pairs and shapes of numbers, hashed and projected; no download, no fitting.

    Question, end of question, last reply and earlier replies are hashed apart and each scaled to
    unit length, so that a short reply weighs as much as a long passage. The projection is a
    seeded sparse random one (Li, Hastie & Church, KDD 2006), which keeps distances.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.dim = dim
        self.seed = seed
        self._parts: Any = None

    @property
    def fingerprint(self) -> str:
        """See `Encoder`."""
        return digest(["hashing", 1, self.dim, self.seed])

    def encode(self, contexts: Sequence[Context]) -> Array:
        """See `Encoder`."""
        vectorizer, projection = self._load()
        hashed = sum(
            vectorizer.transform([list(_terms(name, text)) for text in texts])
            for name, texts in _segments(contexts).items()
        )
        return np.asarray(projection.transform(hashed), dtype=np.float16)

    def _load(self) -> Any:
        if self._parts is None:
            from scipy.sparse import csr_matrix
            from sklearn.feature_extraction.text import HashingVectorizer
            from sklearn.random_projection import SparseRandomProjection

            vectorizer = HashingVectorizer(n_features=BUCKETS, analyzer=list, norm="l2")
            projection = SparseRandomProjection(
                self.dim, density=1 / 16, dense_output=True, random_state=self.seed
            )
            projection.fit(csr_matrix((1, BUCKETS)))  # takes the shape alone
            self._parts = vectorizer, projection
        return self._parts


# Hashed under names of their own, so that a word in the question and in a reply are two features.
def _segments(contexts: Sequence[Context]) -> dict[str, list[str]]:
    return {
        "question": [context[0] for context in contexts],
        "tail": [" ".join(context[0].split()[-TAIL:]) for context in contexts],
        "reply": [context[-1] if len(context) > 1 else "" for context in contexts],
        "earlier": ["\n".join(context[1:-1]) for context in contexts],
    }


def _terms(segment: str, text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    shapes = [_DIGIT.sub("0", word) for word in words]
    for word, shape in zip(words, shapes, strict=True):
        yield f"{segment}:{word}"
        if shape != word:
            yield f"{segment}#{shape}"
    for first, second in pairwise(shapes):
        yield f"{segment}:{first} {second}"


class SentenceEncoder:
    """A sentence-transformers model from a folder; the network is never asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._vectors = load_sentence_encoder(path, "features.path")
        self.dim = self.encode([("",)]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder`; the names and contents of the model's files, wherever they lie."""
        return encoder_digest(self.path)

    def encode(self, contexts: Sequence[Context]) -> Array:
        """See `Encoder`."""
        texts = ["\n".join(context) for context in contexts]
        return np.asarray(self._vectors(texts), dtype=np.float16)


class CausalEncoder:
    """The mean of a causal language model's last hidden states over a text, in float32.

    So is summed up what a router reads in arXiv 2601.05903. It runs on a GPU where one is visible.
    """

    batch = 16  # texts at a time; vectors do not depend on it but for rounding

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.path, self.max_tokens = path, max_tokens
        self.dim = int(checkpoint_config(path, "features.path").hidden_size)
        self._loaded: Any = None

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder`; the names and contents of the model's files, wherever they lie."""
        return digest(["causal-lm", 1, encoder_digest(self.path), self.max_tokens])

    def encode(self, contexts: Sequence[Context]) -> Array:
        """See `Encoder`; a text of no tokens is at the origin."""
        model, tokenizer = self._load()
        first = beginning(tokenizer)
        texts = token_ids(tokenizer, ["\n".join(context) for context in contexts])
        rows = [with_end(first, ids, self.max_tokens) for ids in texts]
        vectors = np.zeros((len(rows), self.dim), dtype=np.float16)
        for batch in by_length(rows, self.batch):
            full = [row for row in batch if rows[row]]
            if full:
                vectors[full] = _means(model, [rows[row] for row in full])
        return vectors

    def _load(self) -> Any:
        if self._loaded is None:
            model, tokenizer = load_checkpoint(self.path, "AutoModel", "features.path")
            self._loaded = model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
        return self._loaded


@torch.no_grad()
def _means(model: Any, rows: Sequence[Sequence[int]]) -> Array:
    """Means of the last hidden states over the tokens of each row, float32 [B, D]."""
    hidden_BTD, mask_BT = last_hidden(model, rows)
    sum_BD = (hidden_BTD * mask_BT[:, :, None]).sum(dim=1)
    mean_BD: Array = (sum_BD / mask_BT.sum(dim=1, keepdim=True)).cpu().numpy()
    return mean_BD


ENCODERS: Registry[Callable[[FeaturesConfig], Encoder]] = Registry("encoder", "hcache.encoders")
"""Functions from the section `features` of an experiment to an encoder."""


def make_encoder(config: FeaturesConfig) -> Encoder:
    """The encoder of an experiment.

    Raises:
        ConfigError: there is none of that name, or a model is missing.
    """
    encoder = ENCODERS.find(config.encoder, "features.encoder")(config)
    source = ENCODERS.source(config.encoder)
    return encoder if source is None else _Foreign(encoder, source)


class _Foreign:
    """An encoder from a plug-in: vectors by another version of its code are not taken for its."""

    def __init__(self, encoder: Encoder, source: Source) -> None:
        self.encoder, self.dim = encoder, encoder.dim
        self.fingerprint = digest([source.digest, encoder.fingerprint])

    def encode(self, contexts: Sequence[Context]) -> Array:
        """See `Encoder`."""
        return self.encoder.encode(contexts)


@ENCODERS.register("hashing")
def _hashing(config: FeaturesConfig) -> Encoder:
    return HashingEncoder(config.dim, config.seed)


@ENCODERS.register("causal-lm")
def _causal(config: FeaturesConfig) -> Encoder:
    return CausalEncoder(_model_folder(config), config.max_tokens)


@ENCODERS.register("sentence-transformers")
def _sentence(config: FeaturesConfig) -> Encoder:
    return SentenceEncoder(_model_folder(config))


def _model_folder(config: FeaturesConfig) -> Path:
    if config.path is None:
        raise ConfigError(
            f"features: {config.encoder} needs `path`, the folder of a model.",
            "Set it in the file, or with --set features.path=FOLDER",
        )
    return locate(config.path, Path(), "features.path")


class QuestionFeatures:
    """Vectors of questions, as those of the first state of each; kept once encoded."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.known: dict[str, torch.Tensor] = {}

    def __call__(self, questions: Sequence[str]) -> torch.Tensor:
        """One row for each question, float32 [B, D]."""
        new = sorted({*questions} - self.known.keys())
        if new:
            rows = torch.from_numpy(self.encoder.encode([(question,) for question in new]))
            self.known |= dict(zip(new, rows.float(), strict=True))
        return torch.stack([self.known[question] for question in questions])


class FeatureStore:
    """Vectors of contexts, kept beside a database."""

    def __init__(self, db: Path, encoder: Encoder) -> None:
        self.encoder = encoder
        self.folder = features_folder(db) / encoder.fingerprint
        self._shards = list(self._read())

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Contexts that have no vector yet, each once."""
        wanted = np.unique(_binary(list(ids)))
        known = [shard_ids for shard_ids, _ in self._shards]
        left = np.setdiff1d(wanted, np.concatenate(known)) if known else wanted
        return [bytes(identity).hex() for identity in left]

    def add(self, contexts: Mapping[str, Context]) -> None:
        """Encode contexts by id, and keep their vectors."""
        if not contexts:
            return
        ids = _binary(list(contexts))
        vectors = self.encoder.encode(list(contexts.values()))
        order = np.argsort(ids)
        tensors = {
            "ids": ids[order].view(np.uint8).reshape(len(ids), -1),
            "vectors": np.ascontiguousarray(vectors[order]),
        }
        self._shards.append((ids[order], tensors["vectors"]))
        name = f"{digest(sorted(contexts))}.safetensors"
        with contextlib.suppress(OSError):  # a folder that cannot be written costs time only
            write_tensors(self.folder / name, save(tensors, {"encoder": self.encoder.fingerprint}))

    def rows(self, ids: Sequence[str]) -> Array:
        """Vectors of contexts in the order of `ids`, float16 [n, dim].

        Raises:
            KeyError: a context that has none; `add` it first.
        """
        wanted = _binary(ids)
        out = np.empty((len(ids), self.encoder.dim), dtype=np.float16)
        found = np.zeros(len(ids), dtype=bool)
        for shard_ids, vectors in self._shards:
            index = np.searchsorted(shard_ids, wanted).clip(max=len(shard_ids) - 1)
            here = shard_ids[index] == wanted
            out[here] = vectors[index[here]]
            found |= here
        if not found.all():
            raise KeyError(ids[int(np.argmin(found))])
        return out

    def _read(self) -> Iterator[tuple[Array, Array]]:
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                yield self._read_shard(file)
            except RunError as error:
                _log.warning("%s", error)
                with contextlib.suppress(OSError):  # it may be of others, or gone
                    file.unlink()

    def _read_shard(self, file: Path) -> tuple[Array, Array]:
        """Ids and vectors; RunError for what this version did not write for this encoder."""
        if check_tensors(file, ANEW).get("encoder") != self.encoder.fingerprint:
            raise damaged(file, "it is of another encoder", ANEW)
        with safe_open(file, framework="pt") as shard:  # its tensors are maps of the file
            ids = shard.get_tensor("ids").numpy()
            return ids.view("V16").reshape(-1), shard.get_tensor("vectors").numpy()


def _binary(ids: Sequence[str]) -> Array:
    """Keys of 32 hex digits as 16-byte values, which numpy can sort."""
    return np.frombuffer(bytes.fromhex("".join(ids)), dtype="V16")
