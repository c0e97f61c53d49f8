"""Sentence encoders: a folder of a sentence-transformers model as a function of texts."""

from __future__ import annotations

import json
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
        ConfigError: sentence-transformers or the folder is missing, or the folder wants code to
            be run that is not the library's, or holds weights that are pickled.
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
    check_sentence_folder(path, place)
    model: Any = SentenceTransformer(str(path), device="cpu", trust_remote_code=False)

    def encode(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode


def check_sentence_folder(path: Path, place: str) -> None:
    """Refuse a folder whose loading would run anything but the library's own modules.

    Raises:
        ConfigError: it names modules of others or code of its own, or has pickled weights only.
    """
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]) for module in modules]
    except FileNotFoundError:
        kinds = []  # a plain checkpoint, over whose tokens the library takes the mean
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{place}: {path / 'modules.json'} lists no modules ({error}).",
            "Give a folder as sentence-transformers writes it.",
        ) from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise ConfigError(
                f"{place}: {path} wants to run {kind}, which is not of sentence-transformers.",
                "Give a model without code of its own.",
            )
    for file in path.rglob("pytorch_model*.bin"):
        if not any(file.parent.glob("*.safetensors")):
            raise ConfigError(
                f"{place}: {file} is a pickle, which may run anything.",
                "Save the model anew with save_pretrained, which writes model.safetensors.",
            )
