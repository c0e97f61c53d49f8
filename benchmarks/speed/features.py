"""Vectors of texts from the cache, beside encoding them again."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hcache.keys import digest
from hcache.replay.features import FeatureStore, HashingEncoder

from .contest import Action, Figures, contest

TEXTS, WORDS, WIDTH = 2000, 80, 384


def rows(rounds: int, work: Path) -> list[Figures]:
    """Texts per second."""
    draw = random.Random(0)
    texts = {
        digest(number): ["".join(f"w{draw.randrange(5000)} " for _ in range(WORDS))]
        for number in range(TEXTS)
    }
    with TemporaryDirectory() as folder:
        db, encoder = Path(folder) / "x.duckdb", HashingEncoder(WIDTH, seed=0)
        FeatureStore(db, encoder).add(texts)
        actions: dict[str, Action] = {
            "vectors from the cache": lambda: len(FeatureStore(db, encoder).rows([*texts])),
            "encoding again": lambda: len(encoder.encode([*texts.values()])),
        }
        return contest("features", "texts/s", actions, rounds)
