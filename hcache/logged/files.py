"""Log files: a row for each step that was taken, checked against the tree of its queries.

Columns: `query` (the id) or `question` (the text), `episode`, `hop` from 1, `action` (an arm, or
STOP), `propensity`, `cost` of the step, `score` of the outcome in the last row of an episode, and
`replica` where it is not the first. CSV, TSV, JSON lines or parquet.

Axes in names: E episodes, L steps, n rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from hcache.errors import DataError
from hcache.logged.log import Log
from hcache.recorded.files import defect, read_table
from hcache.replay.tree import NONE, Tree

STOP = "STOP"
COLUMNS = ("episode", "hop", "action", "propensity", "cost", "score")
ROW = "Correct this row, or take the whole episode out."
NUMBERS = ("hop", "propensity", "cost", "score", "replica")


def read_log(path: Path, tree: Tree, questions: Mapping[str, str] | None = None) -> Log:
    """The episodes of a log, in the states of the tree that they passed.

    `questions` has the ids of queries by their text, for logs that have texts. The replies of an
    episode are taken to be those of the tree.

    Raises:
        DataError: in one line with file and row: a column or a value is missing or out of range,
            hops have gaps, an episode has no outcome, or it is none that the tree has.
    """
    rows = _checked(_with_numbers(read_table(path), path))
    rows = _in_order(_known(rows, tree, questions or {}))
    return _placed(rows, tree)


def rows_of(log: Log, tree: Tree) -> pl.DataFrame:
    """A log as the rows of a file."""
    actions, last_E = (*tree.arms, STOP), log.taken_EL.sum(dim=1) - 1
    episode_n, step_n = log.taken_EL.nonzero().unbind(dim=1)
    state_n, ends_n = log.state_EL[episode_n, step_n], step_n == last_E[episode_n]
    score_n = torch.where(ends_n, log.quality_E[episode_n], torch.nan)
    tree_of_root = dict(zip(tree.root_T.tolist(), tree.replica_T.tolist(), strict=True))
    return pl.DataFrame(
        {
            "query": [tree.queries[query] for query in log.query_E[episode_n].tolist()],
            "replica": [tree_of_root[root] for root in log.state_EL[episode_n, 0].tolist()],
            "episode": episode_n.tolist(),
            "hop": (tree.hop_N[state_n] + 1).tolist(),
            "action": [actions[action] for action in log.action_EL[episode_n, step_n].tolist()],
            "propensity": log.propensity_EL[episode_n, step_n].tolist(),
            "cost": log.cost_EL[episode_n, step_n].tolist(),
            "score": pl.Series(score_n.tolist()).fill_nan(None),
        }
    )


def _with_numbers(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The rows with all columns there are to be, numbers as float64, all else as text."""
    named = "query" if "query" in frame.columns else "question"
    for column in (named, *COLUMNS):
        if column not in frame.columns:
            have = ", ".join(name for name in frame.columns if name not in ("file", "row"))
            raise DataError(
                f"{path}: has no column {column!r}; it has {have[:300]}.",
                f"A log has the columns query or question, {', '.join(COLUMNS)}.",
            )
    frame = frame.rename({named: "name"})
    if "replica" not in frame.columns:
        frame = frame.with_columns(replica=pl.lit(0))
    frame = frame.with_columns(pl.col("name", "episode", "action", *NUMBERS).cast(pl.String))
    cells = pl.col(NUMBERS).str.strip_chars().replace("", None)
    frame = frame.with_columns(cells)
    made = frame.with_columns(pl.col(NUMBERS).cast(pl.Float64, strict=False))
    for name in NUMBERS:
        if len(wrong := frame.filter(made[name].is_null() & frame[name].is_not_null())):
            raise defect(wrong, f"{name} is {wrong[name][0][:60]!r}, no number", ROW)
    return made.with_columns(by_text=pl.lit(named == "question"))


def _checked(rows: pl.DataFrame) -> pl.DataFrame:
    """Refuse values that are missing or out of range."""
    for name in ("name", "episode", "action", "hop", "cost"):
        if len(wrong := rows.filter(pl.col(name).is_null() | pl.col(name).cast(pl.String).eq(""))):
            raise defect(wrong, f"has no {'query' if name == 'name' else name}", ROW)
    if len(wrong := rows.filter(pl.col("propensity").is_null() | pl.col("propensity").is_nan())):
        raise defect(
            wrong,
            "has no propensity",
            "Without the probability of each action nothing can be estimated: log it.",
        )
    ranges = {
        "propensity": (pl.col("propensity") > 0) & (pl.col("propensity") <= 1),
        "score": pl.col("score").is_null() | pl.col("score").is_between(0, 1),
        "cost": pl.col("cost").is_finite() & (pl.col("cost") >= 0),
    }
    allowed = {"propensity": "above 0 and at most 1", "score": "in [0, 1]", "cost": "0 or more"}
    for name, inside in ranges.items():
        if len(wrong := rows.filter(~inside)):
            raise defect(wrong, f"{name} is {wrong[name][0]:g}, and has to be {allowed[name]}", ROW)
    return rows


def _known(rows: pl.DataFrame, tree: Tree, questions: Mapping[str, str]) -> pl.DataFrame:
    """The rows with the tree and the action of each as numbers."""
    roots = pl.DataFrame(
        {
            "id": [tree.queries[query] for query in tree.query_T.tolist()],
            "replica": tree.replica_T.double().tolist(),
            "tree": list(range(len(tree))),
        },
        schema_overrides={"id": pl.String},
    )
    ids = pl.col("name").replace_strict(questions, default=None, return_dtype=pl.String)
    rows = rows.with_columns(id=pl.when("by_text").then(ids).otherwise("name"))
    rows = rows.join(roots, on=["id", "replica"], how="left", maintain_order="left")
    if len(wrong := rows.filter(pl.col("tree").is_null())):
        raise defect(
            wrong,
            f"query {wrong['name'][0][:80]!r} is not among those of the split",
            "Name its split with --split, sample it, or take it out.",
        )
    numbers = {arm: number for number, arm in enumerate((*tree.arms, STOP))}
    number = pl.col("action").replace_strict(numbers, default=None, return_dtype=pl.Int64)
    rows = rows.with_columns(number=number)
    if len(wrong := rows.filter(pl.col("number").is_null())):
        raise defect(
            wrong,
            f"action {wrong['action'][0][:80]!r} is unknown",
            f"Known: {', '.join(numbers)}.",
        )
    return rows


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows episode by episode, hops in order; refuse gaps and episodes without outcome."""
    first = rows.group_by("episode", maintain_order=True).agg(place=pl.col("row").first())
    rows = rows.join(first.with_row_index("number_of"), on="episode", how="left")
    rows = rows.sort("number_of", "hop", maintain_order=True)
    rows = rows.with_columns(due=pl.col("hop").cum_count().over("number_of"))
    if len(wrong := rows.filter(pl.col("hop") != pl.col("due"))):
        one = wrong.row(0, named=True)
        raise defect(
            wrong.head(1),
            f"episode {one['episode'][:80]!r} has hop {one['hop']:g} where hop {one['due']} is due",
            ROW,
        )
    if len(wrong := rows.filter(pl.col("tree") != pl.col("tree").first().over("number_of"))):
        raise defect(wrong, f"episode {wrong['episode'][0][:80]!r} has two queries", ROW)
    last = rows.filter(pl.col("hop") == pl.col("hop").max().over("number_of"))
    if len(wrong := last.filter(pl.col("score").is_null() | pl.col("score").is_nan())):
        raise defect(wrong, f"episode {wrong['episode'][0][:80]!r} ends without a score", ROW)
    return rows


def _placed(rows: pl.DataFrame, tree: Tree) -> Log:
    """The rows as tensors, each step in its state."""
    last = rows.filter(pl.col("hop") == pl.col("hop").max().over("number_of"))
    episode_n, step_n = _tensor(rows["number_of"]), _tensor(rows["hop"]).long() - 1
    shape = len(last), max(tree.hops, int(step_n.max()) + 1) + 1  # one more, behind any end

    def table(value_n: Tensor, fill: float) -> Tensor:
        return torch.full(shape, fill, dtype=value_n.dtype).index_put((episode_n, step_n), value_n)

    tree_E = _tensor(last["tree"])
    action_EL = table(_tensor(rows["number"]), NONE)
    state_EL = _states(tree, tree_E, action_EL, table(torch.arange(len(rows)), NONE), rows)
    return Log(
        query_E=tree.query_T[tree_E],
        state_EL=state_EL[:, : tree.hops],
        action_EL=action_EL[:, : tree.hops],
        propensity_EL=table(_tensor(rows["propensity"]), 0.0)[:, : tree.hops],
        cost_EL=table(_tensor(rows["cost"]), 0.0)[:, : tree.hops],
        quality_E=_tensor(last["score"]),
    )


def _states(
    tree: Tree, tree_E: Tensor, action_EL: Tensor, row_EL: Tensor, rows: pl.DataFrame
) -> Tensor:
    """The state of each step; refuse episodes that are none of the tree."""
    state_E, state_EL = tree.root_T[tree_E], torch.full_like(action_EL, NONE)
    for step in range(action_EL.shape[1] - 1):
        on_E, at_E = action_EL[:, step] != NONE, state_E.clamp(min=0)
        action_E = action_EL[:, step].clamp(min=0)
        can_E = (state_E != NONE) & tree.valid_NA[at_E, action_E]
        _refuse(on_E & ~can_E, row_EL[:, step], rows, "this action is not possible here")
        state_EL[:, step] = state_E.where(on_E, NONE)
        state_E = tree.child_NA[at_E, action_E].where(on_E, NONE)
        unfinished_E = (state_E != NONE) & (action_EL[:, step + 1] == NONE)
        short = "its episode ends here, and its trajectory does not: a row for STOP is missing"
        _refuse(unfinished_E, row_EL[:, step], rows, short)
    return state_EL


def _tensor(values: pl.Series) -> Tensor:
    """Whole numbers as int64, others as float64."""
    whole = values.dtype.is_integer()
    return torch.from_numpy(values.cast(pl.Int64 if whole else pl.Float64).to_numpy(writable=True))


def _refuse(wrong_E: Tensor, row_E: Tensor, rows: pl.DataFrame, message: str) -> None:
    if bool(wrong_E.any()):
        raise defect(rows[row_E[wrong_E].tolist()], message, ROW)
