"""Remarks on figures that derive from partial trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hcache.replay.static import FEWEST
from hcache.replay.tree import Partial, Tree

NOT_AT_RANDOM = (
    "what is missing is not missing at random but where a question was answered well: means of "
    "sequences say nothing of whole trees, and routers and chance, kept from going on there, look "
    "better than they are"
)


def name_of_bound(name: str, tree: Tree, alpha: float | None = None) -> str:
    """The name of a maximum over what is there, at some α, or of something else than reward."""
    partial = tree.partial
    if partial is None or (alpha is not None and partial.exact_at == alpha):
        return name
    return f"{name}, a lower bound ({partial.share:.1%} of trajectories)"


def remarks(test: Tree, selection: Sequence[Tree], alpha: float) -> Iterator[str]:
    """Sentences on partial trees, evaluated ones and those that choices were made on."""
    if test.partial is not None:
        yield f"{_evaluated(test.partial, alpha)}."
    chosen = [tree.partial for tree in selection if tree.partial is not None]
    if chosen:
        yield f"{_chosen(chosen)}."


def in_words(partial: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the trees of a training, from its manifest: what is partial, by split."""
    shares = ", ".join(f"{split} {one['share']:.1%}" for split, one in partial.items())
    told = (
        "rewards here are of the outcomes that are there"
        if all(one["at_random"] for one in partial.values())
        else "where questions were answered well nothing shows what going on would bring, so that "
        "the router may learn no reason to stop (docs/scaling.md)"
    )
    return f"trained on partial trees ({shares} of the trajectories of whole ones): {told}."


def _evaluated(partial: Partial, alpha: float) -> str:
    oracle = (
        "the oracle's reward is that of whole trees at this alpha alone"
        if partial.exact_at == alpha
        else "the oracle is a lower bound, so regrets are too small and shares of the gap too large"
    )
    why = "" if partial.at_random else f"; {NOT_AT_RANDOM}"
    return (
        f"The evaluated trees are partial, with {partial.share:.1%} of the trajectories of whole "
        f"ones: {oracle}, routers and chance act among the outcomes that are there, and static "
        f"sequences are those that every query has{why}"
    )


def _chosen(partials: Sequence[Partial]) -> str:
    shares = " and ".join(f"{partial.share:.1%}" for partial in partials)
    told = (
        f"the best static sequence is by estimates, of sequences that {FEWEST} queries or more have"
        if all(partial.at_random for partial in partials)
        else f"the best static sequence is one of those that every query has, and {NOT_AT_RANDOM}"
    )
    return (
        f"Routers were trained and choices made on partial trees, with {shares} of the "
        f"trajectories of whole ones: {told}"
    )
