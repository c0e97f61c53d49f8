"""A folder that the library `datasets` loads, and that `hcache import hf` makes the same trees of.

One parquet file for each split, and a card whose header says where they are and what their columns
hold. See https://huggingface.co/docs/datasets/repository_structure and
https://huggingface.co/docs/hub/datasets-cards.
"""

from __future__ import annotations

from pathlib import Path

from hcache.data.queries import SPLITS
from hcache.errors import ConfigError
from hcache.exports.card import card, file_of
from hcache.exports.selection import EXPORTERS, QUESTIONS, Export, Selection, encoder
from hcache.recorded.huggingface import CARD

NAMES = {"valid": "validation"}
"""Names of splits there, where they are others than ours."""


@EXPORTERS.register("hf")
def hf(selection: Selection, out: Path, *, license: str = "unknown") -> Export:
    """Every trajectory as the table has it, with a card; `license` is an identifier of the hub."""
    if out.suffix in (".jsonl", ".parquet", ".csv"):
        raise ConfigError(f"{out}: format 'hf' is a folder.", "Give a name without an ending.")
    frame = selection.outcomes(SPLITS)
    frame = frame.drop("repeats", *(() if selection.questions else QUESTIONS))
    by_split = {split: frame.filter(split=split) for split in SPLITS}
    parts = {NAMES.get(split, split): rows for split, rows in by_split.items() if len(rows)}
    encode = encoder(Path("rows.parquet"))
    files = {file_of(split): encode(rows) for split, rows in parts.items()}
    files[CARD] = card(selection, parts, license).encode()
    return Export(files, f"{len(frame)} trajectories of {selection.experiment}")
