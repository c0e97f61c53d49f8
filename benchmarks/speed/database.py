"""A database as large as wanted: a small one, sampled by scripted arms, many times over.

Each copy has queries, states and trajectories of its own, so that nothing is shared that real
questions would not share, and each state a text of its own, whose vector is random: what is
measured is loading, not encoding. Three arms, three hops, STOP: 39 trajectories of 13 states from
each query.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

import hcache
from hcache.replay.features import Array, Context, FeatureStore, make_encoder

ROOT = Path(__file__).resolve().parents[2]
ARMS = "abc"
DB = "speed.duckdb"
HOPS = 3
FEATURES = 384
QUERIES = 100  # that are sampled; the rest are copies
LEAVES = sum(len(ARMS) ** hop for hop in range(1, HOPS + 1))  # of each query
SHARD = 100_000  # vectors
COPIES = """
insert into queries select t.* replace (md5(query_id || i) as query_id)
    from queries t, range($1) r(i);
insert into splits select t.* replace (md5(query_id || i) as query_id)
    from splits t, range($1) r(i);
insert into states select t.* replace (
    md5(query_id || i) as query_id, md5(query_id || t.decisions::varchar || i) as context_id
) from states t, range($1) r(i);
insert into trajectories select t.* replace (
    md5(query_id || i) as query_id, md5(trajectory_id || i) as trajectory_id
) from trajectories t, range($1) r(i);
insert into scores select t.* replace (md5(trajectory_id || i) as trajectory_id)
    from scores t, range($1) r(i);
"""


def make_database(folder: Path, trajectories: int) -> Path:
    """An experiment with at least so many trajectories and vectors of all states; its file."""
    write_experiment(folder)
    file = folder / "experiment.yaml"
    command = [sys.executable, str(ROOT / "cli.py"), "sample", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    copies = -(-trajectories // (LEAVES * QUERIES)) - 1
    with duckdb.connect(str(folder / DB)) as connection:
        for statement in COPIES.split(";\n")[:-1]:
            connection.execute(statement, [copies])
    write_features(file)
    return file


def write_experiment(folder: Path) -> None:
    """Scripted arms, each of which is right on a third of the questions."""
    folder.mkdir(parents=True)
    for place, arm in enumerate(ARMS):
        rules = [[rf"(\w+\d*[{place}{place + 3}{place + 6}])\b", rf"the word is \1 says {arm}"]]
        (folder / f"{arm}.json").write_text(json.dumps(rules), encoding="utf-8")
    rows = ({"question": f"Say w{n}", "answer": f"w{n}"} for n in range(QUERIES))
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = {
        "name": "speed",
        "db": str(folder / DB),
        "workflow": {"name": "relay", "hops": HOPS},
        "models": {arm: {"path": f"{arm}.json", "engine": "scripted"} for arm in ARMS},
        "arms": {
            arm: {"model": arm, "price": {"input": price, "output": price, "per": 1000}}
            for price, arm in enumerate(ARMS, 1)
        },
        "data": {"made": {"sources": {"train": {"path": "train.jsonl"}}}},
        "features": {"dim": FEATURES},
    }
    (folder / "experiment.yaml").write_text(json.dumps(settings), encoding="utf-8")


def write_features(file: Path) -> None:
    """Random vectors of all states, where the encoder would have put its own."""
    experiment = hcache.Experiment.load(file)
    with hcache.Store(experiment.db) as store:
        found = store.sql("select distinct context_id from states order by all")
    ids, encoder = found["context_id"].to_list(), Random(experiment)
    for start in range(0, len(ids), SHARD):
        FeatureStore(experiment.db, encoder).add(dict.fromkeys(ids[start : start + SHARD], ()))


class Random:
    """An encoder that passes for the experiment's own, and draws its vectors."""

    def __init__(self, experiment: hcache.Experiment) -> None:
        own = make_encoder(experiment.config.features)
        self.dim, self.fingerprint = own.dim, own.fingerprint
        self.generator = np.random.default_rng(0)

    def encode(self, contexts: Sequence[Context]) -> Array:
        """See `Encoder`."""
        shape = len(contexts), self.dim
        return self.generator.standard_normal(shape, dtype=np.float32).astype(np.float16)
