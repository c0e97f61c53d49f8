"""ΔW on real checkpoints, tiny and untrained: scoring, sampling, stored calls, checked slowly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.experiments import load
from helpers.joint import CPU, merged, random_low, raw, serve, slow_logprob, write_checkpoint

from hcache.engines import request_for
from hcache.errors import ConfigError, EngineError, StoreError
from hcache.experiment import Experiment
from hcache.joint.calls import CallTree, calls_of, speakers_of, with_calls
from hcache.joint.checkpoint import Checkpoint, Checkpoints
from hcache.joint.engine import LowRankEngine
from hcache.joint.generator import Generator, LowRank, LowRankSettings
from hcache.joint.prefix import shared_prefix
from hcache.joint.scoring import CallScorer, Tokens, full_logprobs
from hcache.replay.loading import load_replay
from hcache.replay.tree import tree_of_leaf
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.workflows import Ask, Message


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two untrained models in a relay of two hops, sampled; tests only read it."""
    folder = tmp_path_factory.mktemp("spoken")
    write_checkpoint(folder / "one", 1)
    write_checkpoint(folder / "two", 2, heads=4)
    experiment = load(folder, raw(folder))
    Sampler(experiment, serve).run()
    return experiment


@pytest.fixture(scope="module")
def tree(spoken: Experiment) -> CallTree:
    return read(spoken)


def read(experiment: Experiment) -> CallTree:
    with Store(experiment.db) as store:
        loaded = load_replay(store, experiment.config, "train").tree
        return with_calls(store, experiment.config, loaded)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scoring_is_that_of_merged_weights(tree: CallTree, layers: int) -> None:
    scorer = CallScorer(tree.calls, Checkpoints(tree.speakers, CPU), layers, batch=7)
    assert bool(scorer.kept) == (layers == 1)
    with torch.no_grad():
        for arm, part in scorer.chunks(torch.arange(len(tree.calls))):
            checkpoint = scorer.checkpoints.by_arm[arm]
            low = random_low(checkpoint, len(part))
            found = scorer.logprobs(arm, part, low)
            for row, call in enumerate(part.tolist()):
                model = merged(checkpoint, low, row, layers)
                wanted = slow_logprob(model, scorer.tokens[call])
                assert float(found[row]) == pytest.approx(float(wanted), abs=1e-4)


def test_the_kept_part_equals_the_full_forward(tree: CallTree) -> None:
    scorer = CallScorer(tree.calls, Checkpoints(tree.speakers, CPU), 1, batch=16)
    assert len(scorer.kept) == len(tree.calls)
    for arm, part in scorer.chunks(torch.arange(len(tree.calls))):
        checkpoint = scorer.checkpoints.by_arm[arm]
        low = random_low(checkpoint, len(part))
        low.a_BOR.requires_grad_()
        quick = scorer.logprobs(arm, part, low)
        batch = [scorer.tokens[call] for call in part.tolist()]
        full = full_logprobs(checkpoint, batch, low, 1).sum(dim=1)
        torch.testing.assert_close(quick, full, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(value.sum(), low.a_BOR)[0] for value in (quick, full)]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_common_beginning_is_computed_once_and_changes_nothing(
    spoken: Experiment, layers: int
) -> None:
    checkpoint = Checkpoint(spoken.pool[0], CPU)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 60, (count,), generator=generator).tolist())

    beginning, sizes = draw(20), ((3, 2), (1, 5), (9, 1))
    batch = [Tokens((*beginning, *draw(rest)), draw(records)) for rest, records in sizes]
    prompts = [tokens.prompt for tokens in batch]
    assert [shared_prefix(prompts, layers) for layers in (1, 2)] == [20, 0]
    assert shared_prefix(prompts[:1], 1) == 0
    low = random_low(checkpoint, len(batch))
    low.a_BOR.requires_grad_()
    found = full_logprobs(checkpoint, batch, low, layers).sum(dim=1)
    wanted = torch.stack(
        [slow_logprob(merged(checkpoint, low, row, layers), one) for row, one in enumerate(batch)]
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    alone = [
        full_logprobs(
            checkpoint, [one], LowRank(low.a_BOR[[row]], low.b_BRI[[row]], low.scale), layers
        ).sum()
        for row, one in enumerate(batch)
    ]
    gradients = [
        torch.autograd.grad(value.sum(), low.a_BOR)[0] for value in (found, torch.stack(alone))
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_prompts_that_begin_alike_are_scored_together(tree: CallTree) -> None:
    scorer = CallScorer(tree.calls, Checkpoints(tree.speakers, CPU), 2, batch=5)
    one, two = tuple(range(3, 33)), tuple(range(40, 70))
    for call in range(len(scorer.tokens)):
        scorer.tokens[call] = Tokens(((one, two)[call % 2]) + (call % 7, call % 11), (5,))
    parts = [part.tolist() for _, part in scorer.chunks(torch.arange(len(tree.calls)))]
    assert sorted(call for part in parts for call in part) == list(range(len(tree.calls)))
    assert all(
        len({call % 2 for call in part}) == 1 and len(part) <= 5 for part in parts if part[2:]
    )
    assert max(map(len, parts)) == 5


def test_without_delta_it_is_the_behaviour_and_the_engines_own_figures(tree: CallTree) -> None:
    scorer = CallScorer(tree.calls, Checkpoints(tree.speakers, CPU), 1, batch=16)
    assert 0 < scorer.engine_difference < 1e-4
    generator = Generator.fresh(16, scorer.checkpoints.shapes, LowRankSettings(), seed=0)
    for arm, part in scorer.chunks(torch.arange(len(tree.calls))):
        low = generator.arm(arm)(torch.randn(len(part), 16))
        scored = scorer.logprobs(arm, part, low)
        torch.testing.assert_close(scored, scorer.behaviour_U[part], atol=1e-5, rtol=0)
        scored.sum().backward()
    heads = generator.arm(0)
    assert heads.head_b.weight.grad is not None and bool(heads.head_b.weight.grad.any())


def test_xavier_changes_the_weights_from_the_start() -> None:
    settings = LowRankSettings(init="xavier")
    low = Generator.fresh(4, {0: (6, 5)}, settings, seed=0).arm(0)(torch.randn(3, 4))
    assert low.a_BOR.shape == (3, 6, 8) and low.b_BRI.shape == (3, 8, 5)
    assert bool(low(torch.randn(3, 2, 5)).any())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_batch_of_samples_does_as_each_alone(spoken: Experiment, layers: int) -> None:
    """Some prompts have a long beginning in common."""
    arm = spoken.pool[0]
    checkpoint = Checkpoint(arm, CPU)
    common = "Where does Ada live in which town is city of Paris animal dog food rice Tom Sue Ted "
    texts = ["Where does Ada live", "What", "What does Tom eat look up food", "look"]
    texts += [common + end for end in ("What", "is Rome", "Pat", "Rome Oslo Lima")]
    requests = [
        request_for(Ask(arm, (Message("user", text),)), replica, text)
        for text in texts
        for replica in range(3)
    ]
    low = random_low(checkpoint, len(requests))
    row = {request.key: place for place, request in enumerate(requests)}

    def adapt(batch: Any) -> LowRank:
        index = [row[request.key] for request in batch]
        return replace(low, a_BOR=low.a_BOR[index], b_BRI=low.b_BRI[index])

    def answers(batch: int) -> dict[str, Any]:
        engine = LowRankEngine(checkpoint, layers, adapt, batch)
        for request in requests:
            engine.submit(request)
        found: dict[str, Any] = {}
        while engine.queue:
            found |= {generation.key: generation for generation in engine.step()}
        return found

    together, alone = answers(99), answers(1)
    for request in requests:
        one, other = together[request.key], alone[request.key]
        assert one.token_ids == other.token_ids
        assert 0 < one.output_tokens <= 5
        assert (one.finish_reason == "stop") == (one.token_ids[-1] == 2)
        tokens = Tokens(tuple(checkpoint.render(request.messages)), one.token_ids)
        wanted = slow_logprob(merged(checkpoint, low, row[request.key], layers), tokens)
        assert sum(one.logprobs) == pytest.approx(float(wanted), abs=1e-4)


def test_it_samples_what_the_model_says() -> None:
    """Drawn shares agree with the probabilities."""
    from hcache.joint.engine import _draw, _uniform

    logprob_V = torch.tensor([0.1, 0.0, 0.6, 0.3]).log()
    drawn = _draw(logprob_V.expand(4000, 4), _uniform(range(4000), 1)[:, 0])
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, logprob_V.exp(), atol=0.03, rtol=0)
    assert shares[1] == 0


def test_turns_are_those_of_the_store(spoken: Experiment, tree: CallTree) -> None:
    calls = tree.calls
    tree_M = tree_of_leaf(tree)
    assert bool((calls.query_U[calls.call_E] == tree.query_T[tree_M[calls.leaf_E]]).all())
    with Store(spoken.db) as store:
        asked = store.sql(
            "select len(list_distinct([a.generation for a in asks])) as calls from trajectories "
            "semi join (select query_id from splits where split = 'train') using (query_id)"
        )
    # Every call is a call; one that was asked twice in a trajectory, as after silence, is one.
    assert sorted(asked["calls"]) == sorted(calls.leaf_E.bincount()[calls.leaf_E.unique()].tolist())
    with Store(spoken.db) as store:
        stored = store.sql(
            "select count(distinct (query_id, generation)) from (select query_id, "
            "unnest(asks).generation as generation from trajectories "
            "semi join (select query_id from splits where split = 'train') using (query_id))"
        ).item()
    assert len(calls) == stored
    assert all(
        call.logprobs and len(call.logprobs) == len(call.output_ids) for call in calls.records
    )


def test_a_tree_without_turns_has_none(spoken: Experiment) -> None:
    with Store(spoken.db) as store:
        plain = load_replay(store, spoken.config, "train").tree
    assert len(calls_of(plain)) == 0 and speakers_of(plain) == (None, None)


def test_greedy_arms_are_refused(spoken: Experiment) -> None:
    arms = {name: arm.model_copy(update={"top_p": 0.9}) for name, arm in spoken.config.arms.items()}
    config = spoken.config.model_copy(update={"arms": arms})
    with Store(spoken.db) as store:
        loaded = load_replay(store, spoken.config, "train").tree
        with pytest.raises(ConfigError, match=r"arms\.a: was sampled at temperature 1, top_p 0.9"):
            with_calls(store, config, loaded)


def test_another_checkpoint_than_the_one_sampled_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one", 1)
    write_checkpoint(tmp_path / "two", 2)
    experiment = load(tmp_path, raw(tmp_path, replicas=1))
    Sampler(experiment, serve).run()
    write_checkpoint(tmp_path / "two", 3)
    with pytest.raises(StoreError, match=r"models\.two: .* is not the checkpoint"):
        read(experiment)


def test_a_quantised_checkpoint_is_refused(spoken: Experiment) -> None:
    arm = spoken.pool[0]
    model = arm.model_config.model_copy(update={"quantization": "fp8"})
    with pytest.raises(EngineError, match="takes no ΔW"):
        Checkpoint(replace(arm, model_config=model), CPU)
