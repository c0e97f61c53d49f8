"""Transitions of all trajectories, against a walk down the nested trees."""

from __future__ import annotations

import torch
from helpers.forest import Forest, Leaf, Node, random_forest, small_forests
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.envs.mdp import RoutingMDP
from hcache.envs.transitions import transitions

quick = settings(max_examples=60, deadline=None)
forests = small_forests(seeds=10_000, hops=3)
Step = tuple[int, int, int, int]  # leaf, state, action, next state


def walk(forest: Forest, end: int) -> list[Step]:
    """The transitions on the way to each leaf, by recursion."""
    found: dict[int, list[tuple[int, int, int]]] = {}

    def down(node: Node, before: list[tuple[int, int, int]]) -> None:
        for action, target in node.actions.items():
            if isinstance(target, Leaf):
                found[target.index] = [*before, (node.index, action, end)]
            else:
                down(target, [*before, (node.index, action, target.index)])

    for root in forest.roots:
        down(root, [])
    return [(leaf, *step) for leaf in sorted(found) for step in found[leaf]]


@quick
@given(forests, st.sampled_from([0.0, 0.3]))
def test_transitions_equal_walks(forest: Forest, alpha: float) -> None:
    tree = forest.tree
    mdp = RoutingMDP(tree, alpha)
    played = transitions(mdp)
    fields = played.leaf_B, played.state_B, played.action_B, played.next_B
    steps = [*zip(*(field.tolist() for field in fields), strict=True)]
    assert steps == walk(forest, mdp.end) and len(played) == len(steps)
    reward_M = tree.reward_M(alpha).tolist()
    ends = [after == mdp.end for _, _, _, after in steps]
    assert played.terminal_B.tolist() == ends
    wanted = [reward_M[leaf] if over else 0.0 for (leaf, *_), over in zip(steps, ends, strict=True)]
    assert played.reward_B.dtype == torch.float64 and played.reward_B.tolist() == wanted
    for row, (_, state, action, after) in enumerate(steps):
        assert bool(played.mask_BA[row, action])
        assert played.mask_BA[row].equal(tree.valid_NA[state])
        assert played.observation_BW[row, :4].equal(tree.features_ND[state])
        assert played.observation_BW[row].equal(mdp.observation_NW[state])
        assert played.next_observation_BW[row].equal(mdp.observation_NW[after])
        assert bool(played.next_mask_BA[row].all()) or after != mdp.end


def test_trajectories_that_a_tree_has_lost_are_left_out() -> None:
    tree = random_forest(1, ragged=False).tree
    mdp = RoutingMDP(tree.without_stop(), 0.1)
    played = transitions(mdp)
    assert tree.stop not in played.action_B
    assert len(played) == 3 * int(played.terminal_B.sum()) == 3 * len(tree) * 2**3
