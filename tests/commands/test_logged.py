"""`hcache logged` on a scripted experiment: a log that can answer, and one that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from helpers.experiments import load, settings, write_questions, write_scripts
from helpers.shell import Shell

from hcache.logged.files import rows_of
from hcache.logged.log import draw
from hcache.policies.rollout import greedy_leaves, greedy_probs
from hcache.replay.loading import load_replay
from hcache.runs.folder import find_run
from hcache.store import Store
from hcache.store.queries import QUESTIONS


@pytest.fixture
def trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A run, and 40 questions in its test split."""
    write_scripts(tmp_path, "ab")
    for split, count in (("train", 12), ("valid", 6), ("test", 40)):
        write_questions(tmp_path, split, count)
    load(tmp_path, settings("ab", runs="runs"))
    shell = Shell(tmp_path, capsys, monkeypatch)
    shell("sample", "experiment.yaml")
    quick = shell.sets("train.iterations=20", "train.patience=3")
    shell("train", "experiment.yaml", "--algo", "sft", *quick)
    return shell


def logs(shell: Shell) -> tuple[str, float]:
    """Write own.csv, by the router itself, and chance.csv; its folder, and its exact reward."""
    (folder,) = (shell.folder / "runs").glob("sft-*")
    run = find_run(str(folder))
    experiment = run.experiment(None)
    with Store(experiment.db) as store:
        tree = load_replay(store, experiment.config, "test").tree
        texts = dict(store.sql(QUESTIONS).iter_rows())
    own_NA, valid_NA = greedy_probs(run.policy, tree), tree.valid_NA.double()
    chance_NA = valid_NA / valid_NA.sum(dim=1, keepdim=True)
    for name, probs_NA in {"own": own_NA, "chance": chance_NA}.items():
        rows = rows_of(draw(tree, probs_NA, torch.arange(len(tree)), 0), tree)
        rows = rows.with_columns(question=pl.col("query").replace(texts)).drop("query")
        rows.write_csv(shell.folder / f"{name}.csv")
    reward_M = tree.reward_M(run.config.train.alpha)
    exact = float(reward_M[greedy_leaves(run.policy, tree)].mean())
    return str(folder), exact


def test_the_log_of_the_router_itself_gives_its_exact_reward(trained: Shell) -> None:
    run, exact = logs(trained)
    found = json.loads(trained("logged", "own.csv", run, "--format", "json"))
    assert found["answers"] and not found["reasons"]
    assert found["support"]["effective"] == pytest.approx(40)
    for name in ("IPS", "per-decision IPS", "SNIPS"):
        assert found["rows"][name]["reward"]["estimate"] == pytest.approx(exact)
    said = trained("logged", "own.csv", run)
    assert "40 episodes of 40 queries, worth 40.0 queries" in said and f"{exact:.3f} [" in said


def test_a_log_that_cannot_answer_gives_reasons_and_no_figure(trained: Shell) -> None:
    run, _ = logs(trained)
    said = trained("logged", "chance.csv", run)
    assert "The log cannot answer: its weights are worth" in said
    row = next(line for line in said.splitlines() if "SNIPS" in line)
    assert not any(sign.isdigit() for sign in row)
    found = json.loads(trained("logged", "chance.csv", run, "--format", "json"))
    assert not found["answers"] and found["reasons"]
    assert found["rows"]["DR"]["reward"] == {"estimate": None, "low": None, "high": None}


def test_questions_of_another_split_are_refused_and_those_of_training_said_to_be(
    trained: Shell,
) -> None:
    run, _ = logs(trained)
    log = trained.folder / "own.csv"
    log.write_text(log.read_text().replace("test1\n", "train1\n"))
    assert "is not among those of the split" in trained("logged", "own.csv", run, code=1)
    lines = log.read_text().splitlines()
    kept = [lines[0], *(line for line in lines if line.endswith("train1"))]
    assert len(kept) > 1
    log.write_text("\n".join(kept))
    said = trained("logged", "own.csv", run, "--split", "train")
    assert "In-sample" in said and "it has 1 queries" in said
