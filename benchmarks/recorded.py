"""Our routers on outcomes that others have recorded, beside what their authors report.

    python -m benchmarks.recorded COPIES [--only routellm]

COPIES holds folders `routellm`, `anytime_gsm8k`, `coderouterbench` and `llmrouter`, each as its
repository has it. Routers learn from the training questions, which of them it is and all that is
set is chosen on validation, and the test questions are judged once. Five seeds are five deals of
questions, where the source leaves them open, and five projections of the text features. Intervals
are of 95%, over questions and seeds. Prints a line of JSON for each row.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hcache.evaluation.evaluator import evaluate
from hcache.evaluation.fronts import apgr_cpt
from hcache.experiment import Experiment
from hcache.policies import Policy, at_alpha
from hcache.policies.planning import PlanningPolicy
from hcache.policies.rollout import greedy_leaves
from hcache.recorded.importing import import_files
from hcache.replay.exact import mean_by_query, static_leaves
from hcache.replay.loading import load_replay
from hcache.replay.tree import Tree
from hcache.store import Store
from hcache.trainers import TRAINERS

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Row = dict[str, Any]
SEEDS = 5
DRAWS = 2_000  # of a bootstrap
CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("ridge", {}),
    ("logistic", {"strength": 0.3}),
    ("knn", {"k": 50}),
)
CONFIDENCE = re.compile(r"CONF:\s*([0-9.]+)")


def trees(db: Path, name: str, seed: int, dim: int = 2048) -> dict[str, Tree]:
    """The trees of an import by split, with text features of a seed."""
    settings = [f"features.dim={dim}", f"features.seed={seed}"]
    experiment = Experiment.load(db.parent / f"{name}.yaml", settings, db)
    with Store(db) as store:
        return {
            split: load_replay(store, experiment.config, split).tree for split in experiment.splits
        }


def candidates(train: Tree, alpha: float) -> dict[str, Policy]:
    """The routers to choose among, trained."""
    found: dict[str, Policy] = {}
    for name, settings in CANDIDATES:
        trainer = TRAINERS[name]
        found[name] = trainer(train, trainer.Settings(**settings), alpha=alpha, seed=0).policy
    return found


def of_queries(tree: Tree, index: Places) -> Tree:
    """The trees of some queries."""
    kept = torch.isin(tree.query_T, torch.from_numpy(index))
    return tree.some(kept.nonzero()[:, 0])


def over_seeds(draw_SB: Sequence[Array], rng: np.random.Generator) -> list[float]:
    """A 95% interval of the mean over seeds, from draws over the questions of each."""
    picked_BS = rng.integers(len(draw_SB), size=(DRAWS, len(draw_SB)))
    mean_B = np.stack(draw_SB)[picked_BS, np.arange(DRAWS)[:, None]].mean(axis=1)
    return interval(mean_B)


def interval(draw_B: Array) -> list[float]:
    """The middle 95% of some draws."""
    return [round(float(x), 4) for x in np.quantile(draw_B, [0.025, 0.975])]


# RouteLLM


def routellm(copy: Path, work: Path) -> Iterator[Row]:
    """MMLU: 1,500 questions to learn from and, in five folds, to choose on; the rest to judge.

    A fifth set apart is too few to choose on: by it alone the mean APGR was .633.
    """
    db = work / "routellm.duckdb"
    import_files("routellm", [copy], db, name="mmlu", split="test", options={"dataset": "mmlu"})
    rng = np.random.default_rng(0)
    ours, subject, draws, chosen = [], [], [], []
    for seed in range(SEEDS):
        whole = trees(db, "mmlu", seed)["test"]
        order = np.random.default_rng(seed).permutation(len(whole.queries))
        labelled, test = (of_queries(whole, part) for part in np.split(order, [1_500]))
        name = _by_folds(whole, np.split(order[:1_500], 5))
        score = _margin(candidates(labelled, 0.0)[name], test)
        chosen.append(name)
        outcomes_TK = _rewards(test)
        ours.append(_apgr(score, outcomes_TK))
        subject.append(_apgr(_subject_mean(labelled, test), outcomes_TK))
        size = len(test)
        picks = (rng.integers(size, size=size) for _ in range(DRAWS // 10))
        draws.append(np.resize([_apgr(score[pick], outcomes_TK[pick]) for pick in picks], DRAWS))
    yield {
        "data": "RouteLLM MMLU", "router": f"chosen: {', '.join(chosen)}",
        "APGR": round(float(np.mean(ours)), 4), "interval": over_seeds(draws, rng),
        "by seed": [round(x, 4) for x in ours],
    }  # fmt: skip
    yield {
        "data": "RouteLLM MMLU", "router": "mean of the subject, whose name is given",
        "APGR": round(float(np.mean(subject)), 4), "by seed": [round(x, 4) for x in subject],
    }  # fmt: skip


def _by_folds(tree: Tree, folds: Sequence[Places]) -> str:
    """The router with the highest mean APGR on parts that it has not learned from."""
    totals: dict[str, float] = {}
    for place, fold in enumerate(folds):
        held = of_queries(tree, fold)
        outcomes_TK = _rewards(held)
        rest = of_queries(tree, np.concatenate([*folds[:place], *folds[place + 1 :]]))
        for name, router in candidates(rest, 0.0).items():
            totals[name] = totals.get(name, 0.0) + _apgr(_margin(router, held), outcomes_TK)
    return max(totals, key=lambda name: totals[name])


def _margin(policy: Policy, tree: Tree) -> Array:
    assert isinstance(policy, PlanningPolicy)
    return policy.margin(tree.states[tree.root_T], 1).numpy()


def _rewards(tree: Tree, alpha: float = 0.0) -> Array:
    """Reward of each arm alone, [T, K]; its quality at an α of 0."""
    leaf_TK = static_leaves(tree, [(arm,) for arm in range(len(tree.arms))])
    return tree.reward_M(alpha)[leaf_TK].numpy()


def _apgr(score: Array, outcomes_TK: Array) -> float:
    weak, strong = outcomes_TK.T
    return apgr_cpt(score, weak, strong).apgr


def _subject_mean(train: Tree, test: Tree) -> Array:
    """Mean gain of a subject in training, drawn to that of all by five questions' weight."""
    gain = np.diff(_rewards(train), axis=1)[:, 0]
    kinds = np.array(train.kinds)[train.query_T.numpy()]
    means = {
        kind: (gain[kinds == kind].sum() + 5 * gain.mean()) / ((kinds == kind).sum() + 5)
        for kind in set(kinds)
    }
    asked = np.array(test.kinds)[test.query_T.numpy()]
    return np.array([means.get(kind, gain.mean()) for kind in asked])


# anytime GSM8K


def anytime(copy: Path, work: Path) -> Iterator[Row]:
    """A learned stop against a threshold of the stated confidence, both at about 260 tokens."""
    rng = np.random.default_rng(0)
    gains, rows = [], []
    for seed in range(3):
        db = work / f"anytime{seed}.duckdb"
        folder = copy / "data" / "router_splits_seeds" / f"seed{seed}"
        import_files("anytime_gsm8k", [folder], db, name=f"seed{seed}")
        confidence = _confidences(folder)
        projected = [trees(db, f"seed{seed}", projection) for projection in range(SEEDS)]
        theirs = _threshold(projected[0], confidence, 256.0)  # which see no features
        for own in projected:
            ours = _stops(own, 256.0)
            rows.append([*(x.mean() for x in (*ours, *theirs))])
            gains.append(ours[0] - theirs[0])
    mean = np.mean(rows, axis=0)
    index = rng.integers(len(gains[0]), size=(DRAWS, len(gains[0])))
    yield {
        "data": "anytime GSM8K", "router": "learned stop",
        "accuracy": round(float(mean[0]), 4), "tokens": round(float(mean[1]), 1),
        "against the threshold": round(float(np.mean(gains)), 4),
        "interval": over_seeds([gain[index].mean(axis=1) for gain in gains], rng),
    }  # fmt: skip
    yield {
        "data": "anytime GSM8K", "router": "thresholds of confidence, tuned on all but test",
        "accuracy": round(float(mean[2]), 4), "tokens": round(float(mean[3]), 1),
    }  # fmt: skip


def _stops(own: Mapping[str, Tree], budget: float) -> tuple[Array, Array]:
    """Quality and tokens on test of the router and α that are best on validation in a budget."""
    routers = candidates(own["train"], 0.0)
    options = [(name, alpha) for name in routers for alpha in np.geomspace(1e-5, 3e-3, 40)]
    found = []
    for name, alpha in options:
        quality, tokens = _ends(at_alpha(routers[name], alpha), own["valid"])
        if tokens.mean() <= budget:
            found.append((quality.mean(), -tokens.mean(), name, alpha))
    _, _, name, alpha = max(found)
    return _ends(at_alpha(routers[name], alpha), own["test"])


def _ends(policy: Policy, tree: Tree) -> tuple[Array, Array]:
    leaf = greedy_leaves(policy, tree)
    return tuple(mean_by_query(tree, x[leaf]).numpy() for x in (tree.quality_M, tree.cost_M))  # type: ignore[return-value]


def _confidences(folder: Path) -> dict[str, list[float]]:
    """Stated confidence of each call, by question."""
    found: dict[str, list[float]] = {}
    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            said = CONFIDENCE.findall(row["raw_text"] or "")
            found.setdefault(row["problem"], []).append(float(said[-1].rstrip(".")) if said else 0)
    return found


def _threshold(
    own: Mapping[str, Tree], confidence: Mapping[str, Sequence[float]], budget: float
) -> tuple[Array, Array]:
    """The same of the first call whose stated confidence reaches the threshold of its place.

    The three thresholds are those of the highest accuracy in the budget on all but test.
    """
    parts = [_calls(own[split], confidence) for split in ("train", "valid", "test")]
    seen = [np.concatenate(each) for each in zip(*parts[:2], strict=True)]
    levels = np.quantile(seen[2][:, :3], np.linspace(0, 1, 25)).tolist()
    tuned = []
    for least in product(sorted({*levels, 1.01}), repeat=3):
        quality, tokens = _first_sure(seen, least)
        if tokens.mean() <= budget:
            tuned.append((quality.mean(), -tokens.mean(), least))
    return _first_sure(parts[2], max(tuned)[2])


def _calls(tree: Tree, confidence: Mapping[str, Sequence[float]]) -> tuple[Array, Array, Array]:
    """Quality, tokens and stated confidence after each number of calls, [T, 4]."""
    assert tree.texts is not None
    leaf_TS = static_leaves(tree, [(0,) * calls for calls in range(1, 5)])
    said_TS = np.array([confidence[text[0]] for text in tree.texts[tree.root_T]])
    return tree.quality_M[leaf_TS].numpy(), tree.cost_M[leaf_TS].numpy(), said_TS


def _first_sure(calls: Sequence[Array], least: Sequence[float]) -> tuple[Array, Array]:
    quality_TS, tokens_TS, said_TS = calls
    sure_TS = said_TS >= np.array([*least, -1.0])  # nothing comes after the fourth
    last_T = sure_TS.argmax(axis=1)
    every_T = np.arange(len(last_T))
    return quality_TS[every_T, last_T], tokens_TS[every_T, last_T]


# CodeRouterBench


def coderouterbench(copy: Path, work: Path) -> Iterator[Row]:
    """OOD176 unseen: per dimension the model that is best in distribution; R = score − 0.1 USD."""
    found = {}
    for part in ("id_test", "ood176"):
        db = work / f"{part}.duckdb"
        import_files("coderouterbench", [copy], db, name=part, split="test", options={"part": part})
        found[part] = trees(db, part, 0, 8)["test"]
    seen, unseen = found["id_test"], found["ood176"]
    order = [unseen.arms.index(arm) for arm in seen.arms]
    seen_QK, unseen_QK = _rewards(seen, 0.1), _rewards(unseen, 0.1)[:, order]
    quality_QK = _rewards(unseen)[:, order]
    kinds = np.array(seen.kinds)
    overall = int(seen_QK.mean(axis=0).argmax())
    best = {kind: int(seen_QK[kinds == kind].mean(axis=0).argmax()) for kind in set(seen.kinds)}
    choice_Q = np.array([best.get(kind, overall) for kind in unseen.kinds])
    always = seen.arms.index("gpt-5.4")
    rng, every = np.random.default_rng(0), np.arange(len(choice_Q))
    gain_Q = unseen_QK[every, choice_Q] - unseen_QK[every, always]
    draws = gain_Q[rng.integers(len(gain_Q), size=(DRAWS, len(gain_Q)))].mean(axis=1)
    yield {
        "data": "CodeRouterBench OOD176", "router": "best of each dimension in distribution",
        "AvgPerf %": round(100 * float(quality_QK[every, choice_Q].mean()), 2),
        "R": round(float(unseen_QK[every, choice_Q].mean()), 4),
        "against gpt-5.4 always": round(float(gain_Q.mean()), 4),
        "interval": interval(draws),
        "dimensions": {k: seen.arms[best.get(k, overall)] for k in sorted(set(unseen.kinds))},
        "dimensions unseen": sorted(set(unseen.kinds) - set(best)),
    }  # fmt: skip


# LLMRouter


def llmrouter(copy: Path, work: Path) -> Iterator[Row]:
    """Nine models by quality alone, once the questions of test are out of training."""
    db = work / "llmrouter.duckdb"
    folder = copy / "data" / "dcrouter_preprocessed"
    imported = import_files("llmrouter", [folder], db, name="nine")
    policies, names = [], []
    own: dict[str, Tree] = {}
    for seed in range(SEEDS):
        own = trees(db, "nine", seed)
        routers = candidates(own["train"], 0.0)
        scores = {name: _ends(each, own["valid"])[0].mean() for name, each in routers.items()}
        name = max(scores, key=lambda each: scores[each])
        names.append(name)
        policies.append((own["test"], {"chosen": routers[name]}))
    report = evaluate(
        own["test"], {}, alpha=0.0, selection=[own["train"], own["valid"]], elsewhere=policies
    )
    for row in report.groups[0].rows:
        if row.name in ("chosen", "random", "oracle") or "best static" in row.name:
            yield {
                "data": "LLMRouter, nine models", "router": row.name, "sequence": row.sequence,
                "quality": round(row.quality.estimate, 4),
                "interval": [round(row.quality.low, 4), round(row.quality.high, 4)],
                "against best static": round(row.difference.estimate, 4),
                "its interval": [round(row.difference.low, 4), round(row.difference.high, 4)],
                "verdict": row.verdict, "gap closed": round(row.gap_closed.estimate, 3),
                "questions": imported.splits, "chosen": names,
            }  # fmt: skip


PARTS = {
    "routellm": routellm,
    "anytime_gsm8k": anytime,
    "coderouterbench": coderouterbench,
    "llmrouter": llmrouter,
}


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("copies", type=Path)
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    for name in [given.only] if given.only else PARTS:
        with tempfile.TemporaryDirectory() as work:
            for row in PARTS[name](given.copies / name, Path(work)):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
