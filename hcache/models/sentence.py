"""Sentence encoders: a folder of a sentence-transformers model as a function of texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hcache.errors import ConfigError

Vectors = npt.NDArray[np.float32]


def load_sentence_encoder(path: Path, place: str) -> Callable[[Sequence[str]], Vectors]:
    """Function from n texts to unit vectors [n, D], on the CPU; the network is never asked.

    `place` is the setting that names the folder, for errors.

    Raises:
        ConfigError: sentence-transformers or the folder is missing.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            f"{place}: sentence-transformers is not installed.",
            "Install it with: pip install 'hcache[encoders]'",
        ) from error
    if not path.is_dir():
        raise ConfigError(f"{place}: {path} does not exist.", "Give the folder of a model.")
    model: Any = SentenceTransformer(str(path), device="cpu")

    def encode(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode
