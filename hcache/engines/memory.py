"""Memory that a checkpoint takes once it is loaded, read from its files.

Weights take their size on disk, converted to the dtype that they are loaded in. Keys and values of
a token take 2 · layers · heads of keys · their dimension · bytes a number (Kwon et al. 2023, arXiv
2309.06180), and the cache has to hold the window of a few requests at least.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from hcache.config.schema import ModelConfig
from hcache.models.files import WEIGHTS, is_weights

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
WINDOWS = 4  # requests of a full window that the cache holds at least
UNKNOWN_CACHE = 0.3  # of the weights, where a configuration does not say what a token takes


class Memory(NamedTuple):
    """Memory that an engine of a model needs."""

    weights: int  # bytes
    cache: int  # bytes of keys and values, at least
    heads: int = 0  # of attention, which devices share out evenly; 0 where unknown


def checkpoint_memory(model: ModelConfig) -> Memory:
    """The memory that a checkpoint takes, adapters apart, which are small."""
    folder = Path(model.path)
    config = _text_part(_read(folder / "config.json"))
    weights = _on_disk(folder)
    stored = BYTES.get(str(config.get("dtype", config.get("torch_dtype"))))
    if stored and model.quantization is None and "quantization_config" not in config:
        weights = weights * BYTES[model.dtype] // stored
    heads = config.get("num_attention_heads")
    cache = _cache(config, model, weights)
    return Memory(weights, cache, heads if isinstance(heads, int) else 0)


def _cache(config: dict[str, Any], model: ModelConfig, weights: int) -> int:
    try:
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        keys = config.get("num_key_value_heads") or heads
        token = 2 * config["num_hidden_layers"] * keys * size * BYTES[model.dtype]
        return int(token) * model.max_model_len * WINDOWS
    except (KeyError, TypeError, ZeroDivisionError):
        return int(UNKNOWN_CACHE * weights)


def _on_disk(folder: Path) -> int:
    """Bytes of the weights; of several formats, and of a second copy, the first that is loaded."""
    files = [file for file in folder.iterdir() if is_weights(file)]
    for suffix in WEIGHTS:
        chosen = [file for file in files if file.suffix == suffix]
        if chosen:
            parts = [file for file in chosen if not file.name.startswith("consolidated")]
            return sum(file.stat().st_size for file in parts or chosen)
    return 0


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that is about text, which has a section where there is more."""
    part = config.get("text_config")
    return config | part if isinstance(part, dict) else config
