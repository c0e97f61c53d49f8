"""The Hugging Face hub: from the name of a data set there to a file here.

`hf:org/name:split`, or `hf:org/name/config:split`, stands for the rows of one split. They are
fetched once, by the library `datasets`, into a JSON-lines file below the user's cache, which any
reader then reads; where that file is, neither library nor network is asked.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from textwrap import shorten

from hcache.errors import ConfigError, DataError
from hcache.files import cache_folder, find, replace_file

SCHEME = "hf:"

_PART = r"[^/:\s.][^/:\s]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/({_PART}))?:({_PART})")


def is_hub_name(path: str) -> bool:
    """True for a path of an experiment that is the name of a data set of the hub."""
    return path.startswith(SCHEME)


def fetch(name: str, place: str) -> Path:
    """The file with the rows of a split; `place` is where its name stands, for errors.

    Raises:
        ConfigError: the name is of another form.
        DataError: the file is not there and cannot be made, for want of the library or of the
            network, or because the hub has nothing of that name.
    """
    match = _NAME.fullmatch(name.removeprefix(SCHEME))
    if not match:
        raise ConfigError(
            f"{place}: {name} names no split of a data set.",
            "Write hf:org/name:split or hf:org/name/config:split, such as "
            "hf:openai/gsm8k/main:train.",
        )
    repository, config, split = match.groups()
    folder = cache_folder() / "datasets" / repository / (config or "")
    file = folder / f"{split}.jsonl"
    if find(str(file), Path()) is None:
        replace_file(file, _rows(repository, config, split, file, f"{place}: {name}"))
    return file


def _rows(repository: str, config: str | None, split: str, file: Path, place: str) -> bytes:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"{place} needs the Python package datasets, which is not installed.",
            "pip install datasets",
        ) from error
    rows = BytesIO()
    try:
        load_dataset(repository, config, split=split).to_polars().write_ndjson(rows)
    except Exception as error:  # the library lets through what its own libraries raise
        raise DataError(
            f"{place} cannot be fetched ({shorten(str(error), 300) or type(error).__name__}).",
            "Check the name and the network; without a network, fetch it on a machine that has "
            f"one and copy the file to {file}.",
        ) from error
    return rows.getvalue()
