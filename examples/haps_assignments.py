"""The best arm of each role as JSON rows, on which arXiv 2601.05903 fine-tunes its router.

python examples/haps_assignments.py sft.json runs/roles/hcache.duckdb --balance smart
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hcache.commands.console import say
from hcache.commands.export import chosen_experiment
from hcache.config.file import parse_settings
from hcache.config.schema import FeaturesConfig, TrainConfig
from hcache.config.stored import stored_config
from hcache.data.queries import known_split
from hcache.errors import StoreError
from hcache.exports.writing import check_free, write_out
from hcache.replay.loading import load_replay
from hcache.replay.tree import tree_of_leaf
from hcache.store import Store
from hcache.store.queries import QUESTIONS, ROLES
from hcache.trainers.sft import TargetSettings, best_leaves


def assignments(
    out: Annotated[Path, typer.Argument(help="The file to write, JSON.", show_default=False)],
    db: Annotated[Path, typer.Argument(help="The database.", show_default=False)],
    experiment: Annotated[
        str | None, typer.Option(help="Which one, where the database holds several.")
    ] = None,
    split: Annotated[str, typer.Option(help="The questions of which split.")] = "train",
    alpha: Annotated[float, typer.Option(help="α of R = Q − α·C, by which best is meant.")] = 0.0,
    ties: Annotated[str, typer.Option(help="all, random_one or deterministic_one.")] = "all",
    min_best: Annotated[
        float, typer.Option(help="Skip questions whose best quality is below this.")
    ] = 1e-6,
    balance: Annotated[
        str, typer.Option(help="none, undersample, oversample or smart, over whole assignments.")
    ] = "none",
    factor: Annotated[float, typer.Option(help="smart: how many times a class may grow.")] = 2.0,
    skip: Annotated[
        float, typer.Option(help="smart: largest over smallest class that is even enough.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of ties and balance.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the best assignments of roles to arms.

    A JSON array of rows with `question`, `reward` and `output`, which is JSON itself: each role
    with the place of its arm. Questions are in the file by its nature; their licence may forbid
    copies. Questions that are not sampled to the end are left out.
    """
    known_split(split)
    check_free(out, force)
    values = {"ties": ties, "min_best": min_best, "balance": balance}
    values |= {"balance_factor": factor, "balance_skip": skip}
    settings = parse_settings(TargetSettings, values, "--")
    alpha = parse_settings(TrainConfig, {"alpha": alpha}, "--").alpha
    with Store(db) as store:
        rows = _rows(store, chosen_experiment(store, experiment), split, alpha, settings, seed)
    write_out(out, (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode())
    say(f"{len(rows)} assignments in {out}")


def _rows(
    store: Store, name: str, split: str, alpha: float, settings: TargetSettings, seed: int
) -> list[dict[str, Any]]:
    """The rows, question by question."""
    found = store.rows_of("experiments", name)
    roles = store.sql(ROLES, [found["workflow"][0]])["role"].to_list()
    if not roles:
        raise StoreError(
            f"the workflow of {name} has no roles to assign.",
            "Name an experiment of one that has, such as teacher_student, with --experiment.",
        )
    config = stored_config(json.loads(found["config"][0]))
    config = config.model_copy(update={"features": FeaturesConfig()})  # they are not looked at
    tree = load_replay(store, config, split).tree
    questions = dict(store.sql(QUESTIONS).iter_rows())
    reward_M = tree.reward_M(alpha)
    leaves = best_leaves(tree, reward_M, settings, torch.Generator().manual_seed(seed))
    query_R = tree.query_T[tree_of_leaf(tree)[leaves]].tolist()
    return [
        {
            "question": questions[tree.queries[query]],
            "reward": float(reward_M[leaf]),
            "output": json.dumps(dict(zip(roles, tree.path_ML[leaf].tolist(), strict=True))),
        }
        for query, leaf in zip(query_R, leaves.tolist(), strict=True)
    ]


if __name__ == "__main__":
    typer.run(assignments)
