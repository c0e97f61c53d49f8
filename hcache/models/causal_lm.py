"""Causal language models as readers: checkpoints of transformers, and texts as batches of tokens.

transformers is imported when the first checkpoint is loaded. Rows are padded at the right, where
causal attention never looks, so what stands beside a row changes nothing but the rounding.

Axes in names: B rows of a batch, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hcache.errors import ConfigError
from hcache.models.files import locate

SAFE: Mapping[str, Any] = MappingProxyType({"trust_remote_code": False})
"""Arguments of `from_pretrained`; left out, a folder with code of its own asks on the terminal."""


def checkpoint_config(path: str | Path, place: str) -> Any:
    """The configuration of a checkpoint; `place` is where the path stands, for errors.

    Raises:
        ConfigError: transformers is missing, or the folder holds no checkpoint, or one that wants
            to run code of its own.
    """
    folder = locate(str(path), Path(), place)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{place}: {folder} is no checkpoint (it has no config.json).",
            "Give a folder as written by save_pretrained, with weights and tokenizer.",
        )
    transformers = import_transformers()
    with loading(folder, place):
        return transformers.AutoConfig.from_pretrained(folder, **SAFE)


def load_checkpoint(path: str | Path, kind: str, place: str) -> tuple[Any, Any]:
    """Model, in float32 and on the CPU, and tokenizer of a folder; the network is never asked.

    `kind` is transformers' class of the model.

    Raises:
        ConfigError: transformers is missing, or the folder holds no such checkpoint.
    """
    config, transformers = checkpoint_config(path, place), import_transformers()
    folder = locate(str(path), Path(), place)
    with loading(folder, place):
        model = getattr(transformers, kind).from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, **SAFE
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **SAFE)
    return model.eval(), tokenizer


@contextmanager
def loading(folder: Path, place: str) -> Iterator[None]:
    """While transformers reads a folder: what it cannot read, or may not run, is an error.

    Raises:
        ConfigError: in the library's own words; `place` is the setting that names the folder.
    """
    try:
        yield
    except Exception as error:  # whatever it raises for files that are damaged
        hint = "Give a folder as written by save_pretrained, with weights as safetensors."
        if "trust_remote_code" in str(error):
            hint = "Code in a model's folder is not run here: give a model of a kind it knows."
        reason = shorten(str(error), 300) or type(error).__name__
        raise ConfigError(f"{place}: {folder} cannot be loaded ({reason}).", hint) from error


def import_transformers() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"transformers cannot be imported ({error}).",
            "Install it with: pip install 'hcache[language]'",
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def beginning(tokenizer: Any) -> list[int]:
    """The token that this tokenizer puts before every text, or none."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts, with nothing added."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def with_end(first: list[int], ids: list[int], limit: int) -> list[int]:
    """`first`, then as much of the end of `ids` as fits into so many tokens together."""
    return first + ids[max(0, len(ids) + len(first) - limit) :]


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of rows in batches of at most `size`, those of like length together."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def last_hidden(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Last hidden states [B, T, …] of rows of at least one token, and which are of tokens."""
    length_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.zeros(len(rows), int(length_B.max()), dtype=torch.int64)
    mask_BT = torch.arange(ids_BT.shape[1]) < length_B[:, None]
    ids_BT[mask_BT] = torch.tensor([token for row in rows for token in row])
    ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
    output = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)
    return output.last_hidden_state, mask_BT
