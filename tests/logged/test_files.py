"""Log files: what is drawn from a tree comes back from a file; every defect has its place."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from helpers.forest import Forest, random_forest, small_forests
from helpers.logs import some_policy
from hypothesis import given
from hypothesis import strategies as st

from hcache.errors import DataError
from hcache.logged.files import read_log, rows_of
from hcache.logged.log import Log, draw

TREE = random_forest(1, queries=3, ragged=False).tree  # arms a, b; three hops; STOP from hop 2
GOOD = (
    "query,episode,hop,action,propensity,cost,score",
    "q0,one,1,a,0.5,1,",
    "q0,one,2,STOP,0.25,0,0.5",
    "q2,two,1,b,1,2,",
    "q2,two,2,b,0.5,2,",
    "q2,two,3,a,0.5,2,1",
)


def equal(one: Log, two: Log) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )


def write(folder: Path, rows: pl.DataFrame, ending: str) -> Path:
    path = folder / f"log.{ending}"
    if ending == "csv":
        rows.write_csv(path)
    elif ending == "jsonl":
        rows.write_ndjson(path)
    else:
        rows.write_parquet(path)
    return path


@given(small_forests(999, 3), st.integers(0, 999), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_a_drawn_log_comes_back(
    tmp_path_factory: pytest.TempPathFactory, forest: Forest, seed: int, ending: str
) -> None:
    tree = forest.tree
    log = draw(tree, some_policy(tree, seed), torch.arange(len(tree)).repeat(2), seed)
    path = write(tmp_path_factory.mktemp("log"), rows_of(log, tree), ending)
    assert equal(read_log(path, tree), log)


def test_order_of_rows_is_no_matter_and_texts_stand_for_ids(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(GOOD), encoding="utf-8")
    log = read_log(path, TREE)
    assert log.query_E.tolist() == [0, 2]
    assert log.action_EL.tolist() == [[0, 2, -1], [1, 1, 0]]
    assert log.propensity_EL.tolist() == [[0.5, 0.25, 0.0], [1.0, 0.5, 0.5]]
    assert log.cost_EL.tolist() == [[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]]
    assert log.quality_E.tolist() == [0.5, 1.0]
    head, *rows = GOOD
    swapped = [rows[1], rows[0], *rows[2:]]
    path.write_text("\n".join([head, *swapped]), encoding="utf-8")
    assert equal(read_log(path, TREE), log)
    texts = [line.replace("q0", "Which?").replace("q2", "What?") for line in rows]
    path.write_text("\n".join([head.replace("query", "question"), *texts]), encoding="utf-8")
    assert equal(read_log(path, TREE, {"Which?": "q0", "What?": "q2"}), log)


@pytest.mark.parametrize(
    ("row", "old", "new", "message"),
    [
        (1, "query,", "prompt,", "has no column 'question'; it has prompt, episode"),
        (1, "propensity", "p", "has no column 'propensity'"),
        (2, "q0", "q9", "row 2: query 'q9' is not among those of the split"),
        (2, "q0", "", "row 2: has no query"),
        (2, "one", "", "row 2: has no episode"),
        (2, "0.5", "", "row 2: has no propensity"),
        (2, "0.5", "nan", "row 2: has no propensity"),
        (2, "0.5", "0", "row 2: propensity is 0, and has to be above 0"),
        (2, "0.5", "-0.1", "row 2: propensity is -0.1"),
        (3, "0.25", "1.01", "row 3: propensity is 1.01, and has to be above 0 and at most 1"),
        (3, "0.25", "often", "row 3: propensity is 'often', no number"),
        (3, "STOP", "c", "row 3: action 'c' is unknown"),
        (2, ",a,", ",STOP,", "row 2: this action is not possible here"),
        (3, ",2,", ",3,", "row 3: episode 'one' has hop 3 where hop 2 is due"),
        (2, ",1,a", ",0,a", "row 2: episode 'one' has hop 0 where hop 1 is due"),
        (3, ",2,", ",1,", "row 3: episode 'one' has hop 1 where hop 2 is due"),
        (3, "q0", "q1", "row 3: episode 'one' has two queries"),
        (3, "0,0.5", "0,", "row 3: episode 'one' ends without a score"),
        (3, "0,0.5", "0,nan", "row 3: score is nan, and has to be in [0, 1]"),
        (3, "0,0.5", "0,50", "row 3: score is 50, and has to be in [0, 1]"),
        (3, "STOP", "b", "row 3: its episode ends here, and its trajectory does not"),
        (4, ",2,", ",-2,", "row 4: cost is -2, and has to be 0 or more"),
        (4, ",2,", ",,", "row 4: has no cost"),
        (4, ",2,", ",inf,", "row 4: cost is inf"),
        (6, "2,1", "2,1\nq2,two,4,STOP,1,0,1", "row 7: this action is not possible here"),
    ],
)
def test_a_defect_is_named_with_its_row(
    tmp_path: Path, row: int, old: str, new: str, message: str
) -> None:
    lines = list(GOOD)
    assert old in lines[row - 1]
    lines[row - 1] = lines[row - 1].replace(old, new, 1)
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_log(path, TREE)
    assert message in str(caught.value) and "log.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_replica_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"{line},{end}" for line, end in zip(GOOD, ["replica", *"00000"], strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert len(read_log(path, TREE)) == 2
    path.write_text("\n".join(line.replace(",0.5,0", ",0.5,1") for line in lines), encoding="utf-8")
    with pytest.raises(DataError, match="not among those"):
        read_log(path, TREE)
