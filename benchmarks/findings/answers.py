"""The questions that the study asks of its cache, each a function that returns a `Finding`.

Every number in a sentence is computed here from the cache; nothing is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from benchmarks.findings.study import SEEDS, Array, Place, Study, difference, study_of, train
from hcache.evaluation.baselines import Candidate
from hcache.evaluation.leaderboard import cell
from hcache.evaluation.statistics import Interval, interval_of_mean
from hcache.replay.exact import sequences, static_leaves
from hcache.reporting.style import GREY, INK, MARKS, METHODS, error_bar
from hcache.runs.benching import algorithms, jobs
from hcache.runs.evaluating import evaluate_runs

OURS = "ensemble"  # the router that stands for learned routers where one is enough
NEIGHBOURS = 20
DRAWN = ("static", "static per kind", "router", "oracle")  # roles in the first figure


@dataclass(frozen=True)
class Bar:
    """A value with its interval in a figure; bars of one group stand together."""

    group: str
    name: str
    value: Interval


@dataclass(frozen=True)
class Finding:
    """An answer: sentences, a table, and a figure where one helps."""

    key: str
    title: str
    sentences: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[Bar, ...] = ()
    axis: str = ""


def told(value: Interval) -> str:
    """A difference in words, by whether its interval holds 0."""
    if not value.excludes_zero:
        return f"not distinguishable ({cell(value)})"
    return f"{'higher' if value.estimate > 0 else 'lower'} by {cell(value)}"


# The table


def table(place: Place) -> Finding:
    """All routers, each in five seeds, against the fixed choices and the oracle."""
    study = study_of(place)
    fit = [name for name, reason in algorithms(study.experiment).items() if not reason]
    report = evaluate_runs(study.experiment, train(jobs(study.experiment, fit, SEEDS)))
    rows = report.groups[0].rows
    shown = [row for row in rows if row.role not in ("static on test", "oracle of quality")]
    routers = [row for row in shown if row.role == "router"]
    best = max(routers, key=lambda row: row.reward.estimate)
    better = [row.name for row in routers if row.verdict == "better"]
    worse = [row.name for row in routers if row.verdict == "worse"]
    sentences = (
        f"{report.queries} test questions, {report.selection_queries} to learn and to choose from; "
        f"R = quality − {report.alpha:g} · USD; every router in {SEEDS} seeds.",
        f"The best static sequence, chosen on training and validation, is {report.best_static}. "
        f"Better than it: {_names(better)}; worse: {_names(worse)}; the others are not "
        "distinguishable from it (95%, Holm over the routers).",
        f"The highest reward is that of {best.name}, {cell(best.reward)}. Against the best static "
        f"sequence it is {told(best.difference)}; it closes {cell(best.gap_closed)} of the gap "
        "to the oracle.",
    )
    return Finding(
        "routers", "All routers", sentences,
        ("who", "quality", "USD per 1,000 questions", "R", "against best static", "verdict",
         "gap closed", "AIQ"),
        tuple(
            (row.name, cell(row.quality), f"{1_000 * row.cost.estimate:.4f}", cell(row.reward),
             cell(row.difference), row.verdict, cell(row.gap_closed), cell(row.aiq))
            for row in shown
        ),
        tuple(Bar("", row.name, row.reward) for row in shown if row.role in DRAWN),
        f"reward R = Q − {report.alpha:g} · USD",
    )  # fmt: skip


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


# Value of context


def context(place: Place) -> Finding:
    """One hop, two hops, and as many calls without context."""
    studies = {
        "L = 1": study_of(place, "workflow.hops=1"),
        "L = 2": study_of(place),
        "L = 2 without STOP": study_of(place, "train.stop=false"),
        "L = 2 without context": study_of(place, cascade=True),
    }
    found: dict[str, dict[str, Candidate]] = {
        name: {"best static": s.static, OURS: s.router(OURS), "oracle": s.oracle}
        for name, s in studies.items()
    }
    gains = {
        (name, who): difference(found["L = 2"][who].reward, found[name][who].reward)
        for name in studies
        for who in found[name]
        if name != "L = 2"
    }
    sentences = [
        f"R with a second hop, against one hop, {who}: {told(gains['L = 1', who])}."
        for who in ("best static", OURS, "oracle")
    ]
    sentences += [
        f"R with context, against the same arms asked without each other's replies, {who}: "
        f"{told(gains['L = 2 without context', who])}."
        for who in ("best static", OURS, "oracle")
    ]
    sentences.append(
        f"R with STOP, against none, {OURS}: {told(gains['L = 2 without STOP', OURS])}; oracle: "
        f"{told(gains['L = 2 without STOP', 'oracle'])}."
    )
    return Finding(
        "context", "Value of context, of a second hop and of STOP", tuple(sentences),
        ("setting", "who", "quality", "R", "R of L = 2 less this"),
        tuple(
            (name, f"{who} ({one.sequence})" if one.sequence else who,
             cell(interval_of_mean(one.quality)), cell(interval_of_mean(one.reward)),
             cell(gains[name, who]) if (name, who) in gains else "")
            for name, all_ in found.items() for who, one in all_.items()
        ),
        tuple(
            Bar(name, who, interval_of_mean(one.reward))
            for name, all_ in found.items() for who, one in all_.items()
        ),
        "reward R",
    )  # fmt: skip


# HierRouter's claim


def claim(place: Place) -> Finding:
    """Quality over that of a single model, as HierRouter reports it, and over the best fixed."""
    study = study_of(place)
    ours, static = study.router(OURS), study.static
    arms = study.evaluator.tree.arms
    singles = [study.evaluator.static(arm, "single", (i,)) for i, arm in enumerate(arms)]
    rows, bars, ratios = [], [], []
    for name in ("all", *dict.fromkeys(study.datasets)):
        of = study.datasets == name if name != "all" else np.ones(len(study.datasets), dtype=bool)
        quality = [float(one.quality[:, of].mean()) for one in singles]
        own = float(ours.quality[:, of].mean())
        lowest, highest = min(quality), max(quality)
        if name != "all" and lowest > 0:
            ratios.append(own / lowest)
        gain = difference(ours.quality[:, of], static.quality[:, of])
        rows.append(
            (name, f"{own:.3f}", *(f"{q:.3f}" for q in quality),
             f"{own / lowest:.2f}" if lowest > 0 else "no number",
             f"{own / highest:.2f}" if highest > 0 else "no number",
             f"{ours.cost[:, of].mean() / static.cost[:, of].mean():.2f}", cell(gain))
        )  # fmt: skip
        bars.append(Bar(name, OURS, interval_of_mean(ours.quality[:, of])))
        bars += [Bar(name, one.name, interval_of_mean(one.quality[:, of])) for one in singles]
    overall = difference(ours.quality, static.quality)
    reached = (
        f"{OURS} reaches up to {max(ratios):.1f} times the weakest arm of a data set"
        if ratios
        else "there is no ratio, since every data set has an arm of quality 0"
    )
    sentences = (
        "HierRouter (arXiv 2511.09873) reports up to 2.4 times the quality of a single model. By "
        f"that measure {reached}.",
        f"Against the best static sequence ({static.sequence}), which the claim leaves out, its "
        f"quality is {told(overall)}.",
    )
    return Finding(
        "claim", "HierRouter's claim, by its measure and by ours",
        sentences,
        ("data set", OURS, *arms, "× weakest arm", "× best arm", "cost × best static",
         "quality less best static"),
        tuple(rows), tuple(bars), "quality",
    )  # fmt: skip


# The gap


def gap(place: Place) -> Finding:
    """Where the gap to the oracle is lost: what a router that sees the question could know."""
    study = study_of(place)
    ours, static, oracle = study.router(OURS), study.static, study.oracle
    whole = difference(oracle.reward, static.reward)
    bounds = dict(_bounds(study))
    rewards = {
        f"best static ({static.sequence})": static.reward,
        OURS: ours.reward,
        **bounds,
        "oracle": oracle.reward,
    }
    best = max(bounds, key=lambda name: bounds[name].mean())
    sentences = (
        f"The oracle is {cell(whole)} of reward above the best static sequence.",
        f"The best of the bounds that look at test outcomes of like questions, {best}, closes "
        f"{_share(bounds[best], static, oracle)} of that gap, {OURS} "
        f"{_share(ours.reward, static, oracle)}: the rest of the way to the oracle is what text "
        "features of the question do not tell.",
    )
    return Finding(
        "gap", "Where the gap is lost", sentences, ("who", "R", "gap closed"),
        tuple(
            (name, cell(interval_of_mean(reward)), _share(reward, static, oracle))
            for name, reward in rewards.items()
        ),
        tuple(Bar("", name, interval_of_mean(reward)) for name, reward in rewards.items()),
        "reward R",
    )  # fmt: skip


def _share(reward: Array, static: Candidate, oracle: Candidate) -> str:
    whole = float((oracle.reward - static.reward).mean())
    return f"{float((reward - static.reward).mean()) / whole:.2f}"


def _bounds(study: Study) -> Iterator[tuple[str, Array]]:
    """Rewards of rules that learn from the other test questions, [1, Q]."""
    tree = study.evaluator.tree
    leaf_TS = static_leaves(tree, sequences(tree))
    reward_QS = study.evaluator.by_query(tree.reward_M(study.alpha)[leaf_TS])
    feature_QD = study.evaluator.by_query(tree.features_ND[tree.root_T].double())
    yield (
        "data set, told (leave one out)",
        _leave_one_out(reward_QS, (study.datasets[:, None] == study.datasets).astype(float)),
    )
    like_QQ = _cosine(feature_QD)
    near_QQ = np.zeros_like(like_QQ)
    np.fill_diagonal(like_QQ, -np.inf)
    nearest = np.argsort(-like_QQ, axis=1, kind="stable")[:, :NEIGHBOURS]
    np.put_along_axis(near_QQ, nearest, 1.0, axis=1)
    yield f"{NEIGHBOURS} nearest neighbours (leave one out)", _leave_one_out(reward_QS, near_QQ)


def _leave_one_out(reward_QS: Array, weight_QQ: Array) -> Array:
    """Reward of the sequence that is best on weighted other questions, [1, Q]."""
    weight_QQ = weight_QQ.copy()
    np.fill_diagonal(weight_QQ, 0.0)
    chosen_Q = (weight_QQ @ reward_QS).argmax(axis=1)
    reached_Q: Array = np.take_along_axis(reward_QS, chosen_Q[:, None], axis=1)[:, 0]
    return reached_Q[None]


def _cosine(feature_QD: Array) -> Array:
    unit_QD: Array = feature_QD / np.linalg.norm(feature_QD, axis=1, keepdims=True).clip(1e-12)
    return unit_QD @ unit_QD.T


ANSWERS: tuple[Callable[[Place], Finding], ...] = (table, context, claim, gap)


# Figures


def draw(axes: Axes, finding: Finding) -> None:
    """Values as marks with intervals: a row a name, a block a group; read without colours too."""
    names = list(dict.fromkeys(bar.name for bar in finding.bars))
    groups = list(dict.fromkeys(bar.group for bar in finding.bars))
    place, ticks = 0.0, {}
    for group in groups:
        for bar in (bar for bar in finding.bars if bar.group == group):
            index = names.index(bar.name) if len(groups) > 1 else 0
            shade = METHODS[index % len(METHODS)] if len(groups) > 1 else INK
            error = error_bar(bar.value.estimate, bar.value.low, bar.value.high)
            axes.errorbar(
                bar.value.estimate, place, xerr=error, fmt=MARKS[index % len(MARKS)], color=shade,
                markersize=4.5, elinewidth=0.9,
            )  # fmt: skip
            ticks[place] = f"{group}: {bar.name}" if group else bar.name
            place += 1
        place += 0.6
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.invert_yaxis()
    axes.set_xlabel(finding.axis)
