"""Joint training on-policy: its gradient against REINFORCE done slowly, its budget, its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import punctuation
from typing import Any
from unittest import mock

import pytest
import torch
from helpers.experiments import load, write_script
from helpers.joint import (
    LARGE,
    SHORT,
    raw,
    serve,
    slow_logprob,
    train_people,
    write_checkpoint,
    write_experiment,
)
from helpers.policies import SequencePolicy
from helpers.shell import Shell

from hcache.data.queries import Query
from hcache.engines import Engine, make_engine
from hcache.experiment import Experiment
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.generator import LowRank
from hcache.joint.on_policy import VALIDATION, JointLive, JointLiveSettings, LiveTree, others_mean
from hcache.joint.scoring import Tokens
from hcache.live import Episode
from hcache.models.arms import Arm
from hcache.policies import Policy
from hcache.replay.features import make_encoder
from hcache.replay.loading import load_replay
from hcache.replay.tree import ReadableStates, Texts
from hcache.runs.benching import algorithms
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.trainers import fit
from hcache.workflows import STOP, Ask, Message
from hcache.workflows.teacher_student import TeacherStudent

hf: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")
ALPHA = 0.1


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Sampled as the models are; tests only read it."""
    experiment = write_experiment(tmp_path_factory.mktemp("live"))
    Sampler(experiment, serve).run()
    return experiment


def read(experiment: Experiment, split: str = "train") -> LiveTree:
    with Store(experiment.db) as store:
        return JointLive.enrich(load_replay(store, experiment.config, split).tree, experiment)


def trainer_of(experiment: Experiment, seed: int = 0, **settings: Any) -> JointLive:
    """A trainer whose ΔW is large, and whose router has preferences."""
    chosen = JointLiveSettings(**{"batch_queries": 2, **LARGE, **settings})
    trainer = JointLive(read(experiment), chosen, alpha=ALPHA, seed=seed)
    with torch.no_grad():
        last_layer(trainer).weight.mul_(100)
    return trainer


def last_layer(trainer: JointLive) -> torch.nn.Linear:
    """Where the router's preferences are made."""
    layer = trainer.policy.actor[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def drawn(trainer: JointLive, samples: int = 3, queries: int = 3) -> list[Episode]:
    """Episodes of some training questions, as the policy draws them."""
    generator = torch.Generator().manual_seed(7)
    chosen = trainer.experiment.splits["train"][:queries]
    return trainer.player.play(trainer.policy, chosen, samples=range(samples), generator=generator)


# The gradient


def gradients(trainer: JointLive) -> dict[str, torch.Tensor]:
    named = trainer.policy.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


def climbed(trainer: JointLive, episodes: Sequence[Episode]) -> dict[str, torch.Tensor]:
    trainer.optimizer.zero_grad()
    trainer.climb(episodes, trainer.rewards(episodes))
    return gradients(trainer)


def reinforced(trainer: JointLive, episodes: Sequence[Episode]) -> dict[str, torch.Tensor]:
    """The same, one episode, decision and reply after the other, by its definition."""
    trainer.optimizer.zero_grad()
    rewards = [slow_reward(trainer, episode) for episode in episodes]
    baselines = slow_baselines([episode.query.id for episode in episodes], rewards)
    loss = torch.zeros((), dtype=torch.float64)
    for episode, reward, baseline in zip(episodes, rewards, baselines, strict=True):
        log_pi = sum(log_decisions(trainer, episode), torch.zeros((), dtype=torch.float64))
        log_pi = log_pi + sum(log_replies(trainer, episode), torch.zeros(()))
        loss = loss - (reward - baseline) * log_pi / len(episodes)
    loss.backward()
    return gradients(trainer)


def slow_reward(trainer: JointLive, episode: Episode) -> float:
    """F1 of the answer's words, without articles and marks, less α times the tokens' prices."""
    marks = str.maketrans("", "", punctuation)
    answer, words = (
        [word for word in text.lower().translate(marks).split() if word not in ("a", "an", "the")]
        for text in (episode.answer, *episode.query.references)
    )
    common = sum(min(answer.count(word), words.count(word)) for word in {*answer})
    quality = 2 * common / (len(answer) + len(words))
    arms, cost = trainer.experiment.config.arms, 0.0
    for ask in episode.asks:
        records = episode.replies[episode.request(ask).key]
        price = arms[ask.arm.name].price.input if ask.arm.name in arms else 0  # of tools
        cost += price * (records.prompt_tokens + len(records.token_ids)) / 1000
    return quality - trainer.alpha * cost


def slow_baselines(ids: Sequence[str], rewards: Sequence[float]) -> list[float]:
    """Other samples of the question; where there are none, all other episodes; else 0."""
    found = []
    for place, own in enumerate(ids):
        others = [other for other in range(len(ids)) if other != place]
        same = [other for other in others if ids[other] == own]
        chosen = [rewards[other] for other in same or others]
        found.append(sum(chosen) / len(chosen) if chosen else 0.0)
    return found


def log_decisions(trainer: JointLive, episode: Episode) -> Iterable[torch.Tensor]:
    """log π of each decision, from what the router had read and paid by then."""
    encoder = make_encoder(trainer.experiment.config.features)
    ids = [*(arm.id for arm in trainer.experiment.pool), STOP.id]
    for hop, (context, cost, stop) in enumerate(decided_at(trainer, episode)):
        states = ReadableStates(
            torch.from_numpy(encoder.encode([context])).float(),
            torch.tensor([hop]),
            torch.tensor([cost], dtype=torch.float64),
            torch.tensor([[*[True] * len(trainer.experiment.pool), stop]]),
            torch.zeros(1, dtype=torch.int64),
            Texts(lambda: []),
        )
        logprob_A = trainer.policy.logits(states)[0].double().log_softmax(dim=0)
        yield logprob_A[ids.index(episode.decisions[hop].id)]


def decided_at(
    trainer: JointLive, episode: Episode
) -> Iterable[tuple[tuple[str, ...], float, bool]]:
    """Text, cost so far, and whether STOP was offered, at each decision."""
    question, workflow = episode.query.question, trainer.experiment.workflow
    if isinstance(workflow, TeacherStudent):  # the cast is chosen before anything is said
        yield (question,), 0.0, False
        yield (question, f"{workflow.roles[0]}: {episode.decisions[0].name}"), 0.0, False
        return
    context: tuple[str, ...] = (question,)
    cost = 0.0
    for hop in range(len(episode.decisions)):
        yield context, cost, hop > 0
        if episode.decisions[hop] is not STOP:
            ask = episode.asks[hop]
            records = episode.replies[episode.request(ask).key]
            context = (*context, records.text)
            price = trainer.experiment.config.arms[ask.arm.name].price.input
            cost += price * (records.prompt_tokens + records.output_tokens) / 1000


def log_replies(trainer: JointLive, episode: Episode) -> Iterable[torch.Tensor]:
    """log π of each reply that was drawn; one that is asked for again is not drawn again."""
    layers = trainer.policy.low.settings.adapted_layers
    encoder = make_encoder(trainer.experiment.config.features)
    features = torch.from_numpy(encoder.encode([(episode.query.question,)])).float()
    names = [name for name in trainer.experiment.config.arms if name != "script"]
    for key, ask in {episode.request(ask).key: ask for ask in episode.asks}.items():
        if ask.arm.name not in names or not episode.replies[key].token_ids:
            continue  # a tool, a script, or a prompt that was too long
        place = names.index(ask.arm.name)
        low = trainer.policy.delta(place, features)
        checkpoint = trainer.checkpoints.by_arm[place]
        prompt = tuple(checkpoint.render(ask.messages))
        call = with_merged(checkpoint, low, layers)
        yield slow_logprob(call, Tokens(prompt, episode.replies[key].token_ids))


def with_merged(checkpoint: Checkpoint, low: LowRank, layers: int) -> Any:
    """The model with a ΔW in its weights, through which gradients go."""
    weights = dict(checkpoint.model.named_parameters())
    for layer in range(len(checkpoint.layers))[-layers:]:
        name = f"model.layers.{layer}.self_attn.o_proj.weight"
        weights[name] = weights[name] + low.scale * low.a_BOR[0] @ low.b_BRI[0]

    def call(**inputs: Any) -> Any:
        return torch.func.functional_call(checkpoint.model, weights, kwargs=inputs)

    return call


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            found[name], value, atol=2e-4 * scale + 1e-8, rtol=2e-3, msg=name
        )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("samples", "queries"), [(3, 3), (1, 3), (1, 1)], ids=["several", "one each", "single"]
)
def test_the_gradient_is_that_of_reinforce(
    spoken: Experiment, layers: int, samples: int, queries: int
) -> None:
    trainer = trainer_of(spoken, adapted_layers=layers, batch_turns=2)
    episodes = drawn(trainer, samples, queries)
    if samples * queries > 1:
        assert len({len(episode.decisions) for episode in episodes}) + samples > 1
        assert len({episode.sequence for episode in episodes}) > 1
    for episode in episodes:  # which are said under ΔW as it is
        own = [one.item() for one in log_replies(trainer, episode)]
        records = [sum(one.logprobs or ()) for one in episode.replies.values()]
        assert records == pytest.approx(own, abs=1e-4)
    found = climbed(trainer, episodes)
    assert {name.split(".")[0] for name in found} == {"actor", "embedding", "low"}
    assert_equal(found, reinforced(trainer, episodes))


def test_a_question_with_one_sample_among_others_is_compared_with_all(
    spoken: Experiment,
) -> None:
    trainer = trainer_of(spoken)
    episodes = drawn(trainer)
    mixed = [episodes[place] for place in (0, 3, 6, 1, 2, 4)]  # 3 or 2 samples, and 1 of the last
    ids = [episode.query.id for episode in mixed]
    assert sorted(ids.count(own) for own in {*ids}) == [1, 2, 3]
    reward_B = trainer.rewards(mixed)
    assert reward_B.tolist() == pytest.approx([slow_reward(trainer, one) for one in mixed])
    wanted = slow_baselines(ids, reward_B.tolist())
    assert others_mean(mixed, reward_B).tolist() == pytest.approx(wanted)
    assert others_mean(mixed[:1], reward_B[:1]).tolist() == [0.0]
    assert_equal(climbed(trainer, mixed), reinforced(trainer, mixed))


def test_failure_is_what_an_episode_without_quality_is_worth(spoken: Experiment) -> None:
    episodes = drawn(trainer_of(spoken), samples=8)
    reward_B, failed_B = (
        trainer_of(spoken, failure=failure).rewards(episodes) for failure in (0.0, -0.75)
    )
    wanted = [slow_reward(trainer_of(spoken), episode) for episode in episodes]
    assert reward_B.tolist() == pytest.approx(wanted)
    none = [reward < 0 for reward in wanted]  # costs are small beside any quality
    assert 0 < sum(none) < len(none)
    assert failed_B.tolist() == pytest.approx(
        [r - 0.75 * no for r, no in zip(wanted, none, strict=True)]
    )


def test_a_reply_that_is_asked_for_twice_is_drawn_once(spoken: Experiment) -> None:
    """After an empty reply the relay's next prompt is the same: what is said to it is known."""
    trainer = trainer_of(spoken)
    episodes = silent_at_first(trainer)
    for episode in episodes:
        asked = [episode.request(ask).key for ask in episode.asks]
        assert len(asked) == 2 and len({*asked}) == len(episode.replies) == 1
    records = trainer._drawn_calls(episodes, torch.ones(len(episodes)))
    assert len(records) == len(episodes)
    mixed = [*episodes, *drawn(trainer, 1)]
    assert_equal(climbed(trainer, mixed), reinforced(trainer, mixed))


def test_arms_with_weights_of_their_own_never_share_a_reply(spoken: Experiment) -> None:
    """Two arms of one model and equal settings are stored as one; their ΔW are two."""
    one, _, other = spoken.pool
    assert one.fingerprint == other.fingerprint
    episode = Episode(spoken.splits["train"][0], 0)
    messages = (Message("user", "look up city"),)
    keys = [episode.request(Ask(arm, messages)).key for arm in (one, other, one)]
    assert keys[0] == keys[2] != keys[1]


def silent_at_first(trainer: JointLive) -> list[Episode]:
    """Two episodes in which an arm that is chosen twice ends its call at once."""
    policy = SequencePolicy(trainer.policy.arms, [0, 0])
    found: list[Episode] = []
    for first in range(0, 2000, 100):
        queries = trainer.experiment.splits["train"]
        played = trainer.player.play(policy, queries, samples=range(first, first + 100))
        found += [one for one in played if not one.replies[one.request(one.asks[0]).key].text]
        if len(found) > 1:
            return found[:2]
    raise AssertionError("no empty reply was drawn")


# Tools, and arms without weights


class Few:
    """A tokenizer of few words, so that untrained models search, comment and finish at times."""

    WORDS = (
        "<pad> <unk> <eos> Search[city] Search[food] Finish[Rome] [Continue] [Rethink] "
        "city food act note advise watch last"
    )

    @classmethod
    def build(cls) -> Any:
        words = {word: place for place, word in enumerate(cls.WORDS.split())}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        return hf.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>",
            chat_template=train_people.CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Teacher and student on passages: two models with weights, and a script."""
    folder = tmp_path_factory.mktemp("dialogue")
    with mock.patch.object(train_people, "build_tokenizer", Few.build):
        write_checkpoint(folder / "one", 1)
        write_checkpoint(folder / "two", 2, heads=4)
    write_script(folder, "script", [["^act", "Search[food]"], [".", "[Continue] city"]])
    passages = [["city", ["Rome is a city."]], ["food", ["Bread is food."]]]
    for split in ("train", "valid", "test"):
        rows = [
            {"question": f"{split} {word}", "answer": "Rome", "context": passages}
            for word in ("city", "food", "act")
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {name: text.replace("|", " ") for name, text in SHORT.items()}
    settings = raw(folder) | {
        "workflow": {"name": "teacher_student", "budget": 1, "prompts": prompts},
        "sampling": {"replicas": 1, "logprobs": True},
        "runs": str(folder / "runs"),
    }
    settings["models"]["script"] = {"path": "script.json", "engine": "scripted"}
    settings["arms"]["script"] = {"model": "script"}
    settings["data"] = {"made": {
        "reader": "hotpotqa", "options": {"apart": True, "passages": "all"},
        "sources": {split: {"path": f"{split}.jsonl"} for split in ("train", "valid", "test")},
    }}  # fmt: skip
    experiment = load(folder, settings)
    Sampler(experiment, by_weights).run()
    return experiment


def by_weights(arm: Arm, logprobs: bool) -> Engine:
    """The engine of tests for arms with weights; others as ever."""
    return serve(arm, logprobs) if arm.model_config.engine == "vllm" else make_engine(arm, logprobs)


def test_tools_and_scripts_carry_no_gradient(dialogue: Experiment) -> None:
    trainer = trainer_of(dialogue)
    assert sorted(trainer.checkpoints.by_arm) == [0, 1]
    episodes = drawn(trainer, samples=8)
    speakers = {(ask.arm.name, ask.role) for episode in episodes for ask in episode.asks}
    assert {name for name, _ in speakers} == {"a", "b", "script", "search"}
    assert ("a", "student") in speakers and ("script", "teacher") in speakers
    records = trainer._drawn_calls(episodes, torch.ones(len(episodes)))
    spoken = [
        ask for episode in episodes for ask in episode.asks
        if ask.arm.name in ("a", "b") and episode.replies[episode.request(ask).key].token_ids
    ]  # fmt: skip
    assert len(records) == len(spoken) and {one.arm for one in records} == {0, 1}
    few = episodes[:9]
    assert {ask.arm.name for episode in few for ask in episode.asks} >= {"a", "script", "search"}
    found = climbed(trainer, few)
    assert_equal(found, reinforced(trainer, few))


def test_training_with_a_tool_runs_and_counts_what_models_say(dialogue: Experiment) -> None:
    trainer = trainer_of(dialogue, samples=2, tokens=10_000)
    played = watched(trainer)
    for _ in range(2):
        line = trainer.step()
    assert line["tokens"] == slow_tokens(episode for some in played for episode in some)
    silent = trainer_of(dialogue)
    with torch.no_grad():  # the script has both roles
        last_layer(silent).weight.zero_()
        last_layer(silent).bias.copy_(torch.tensor([0.0, 0.0, 100.0, 0.0]))
    episodes = drawn(silent)
    assert {episode.sequence for episode in episodes} == {"script>script"}
    silent.climb(episodes, silent.rewards(episodes))
    assert not any(name.startswith("low") for name in gradients(silent))


# Budget, resuming, draws


def watched(trainer: JointLive) -> list[list[Episode]]:
    """The episodes of each later call of `play`, as they come."""
    played: list[list[Episode]] = []
    play = trainer.player.play

    def watch(policy: Policy, queries: Sequence[Query], **how: Any) -> list[Episode]:
        played.append(play(policy, queries, **how))
        return played[-1]

    trainer.player.play = watch  # type: ignore[method-assign]
    return played


def slow_tokens(episodes: Iterable[Episode]) -> int:
    """Tokens of all replies of models with weights."""
    return sum(
        len(episode.replies[key].token_ids)
        for episode in episodes
        for key in {
            episode.request(ask).key for ask in episode.asks if ask.arm.name in ("a", "b", "c")
        }
    )


TOKENS = """
select sum(len(token_ids)) from generations semi join (
    select unnest(asks).generation as generation_id from trajectories
    semi join (select query_id from splits where split = 'train') using (query_id)
) using (generation_id)
"""


def test_it_halts_when_as_much_is_drawn_as_was_stored(spoken: Experiment) -> None:
    with Store(spoken.db) as store:
        stored = store.sql(TOKENS).item()
    trainer = trainer_of(spoken, batch_queries=3, samples=2)
    assert trainer.budget == stored
    played = watched(trainer)
    lines = []
    while not trainer.halted:
        lines.append(trainer.step())
        assert lines[-1]["tokens"] == slow_tokens(episode for some in played for episode in some)
    assert len(lines) > 2
    assert lines[-2]["tokens"] < stored <= lines[-1]["tokens"]
    assert [line["halted"] for line in lines] == [0.0] * (len(lines) - 1) + [1.0]
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    assert trainer.step() == {"tokens": lines[-1]["tokens"], "halted": 1.0}
    assert len(played) == len(lines)
    assert all(torch.equal(before[k], v) for k, v in trainer.policy.state_dict().items())
    assert trainer_of(spoken, tokens=5).budget == 5


def test_a_step_draws_each_reply_anew_and_no_question_twice(spoken: Experiment) -> None:
    """More questions in a step than there are, and passes that end within a step."""
    trainer = trainer_of(spoken, batch_queries=8, samples=2)
    assert {len(some) for some in step_by_step(trainer, 3)} == {6}
    trainer = trainer_of(spoken, batch_queries=2, samples=2, tokens=100_000)
    played = step_by_step(trainer, 6)
    assert {len(some) for some in played} == {4}
    for some in played:
        assert len({(episode.query.id, episode.sample) for episode in some}) == 4
    ids = [episode.query.id for some in played for episode in some]
    assert {ids.count(query.id) for query in spoken.splits["train"]} == {8}
    assert len({episode.sample for some in played for episode in some}) == 12
    assert max(episode.sample for some in played for episode in some) < VALIDATION


def step_by_step(trainer: JointLive, steps: int) -> list[list[Episode]]:
    played = watched(trainer)
    for _ in range(steps):
        trainer.step()
    return played


def test_a_killed_run_goes_on_to_the_same_bits(spoken: Experiment, tmp_path: Path) -> None:
    """Killed within a pass over the questions; another seed gives another run."""
    valid = read(spoken, "valid")
    how: dict[str, Any] = {"iterations": 4, "evaluate_every": 2, "patience": 0}

    def run(
        on_metrics: Callable[[dict[str, float]], None], seed: int = 3, **options: Any
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        chosen = JointLiveSettings(batch_queries=2, cosine_steps=4)
        trainer = JointLive(read(spoken), chosen, alpha=ALPHA, seed=seed)
        fitted = fit(trainer, valid, on_metrics=on_metrics, **how, **options)
        return fitted.policy.state_dict(), trainer.state()

    def kill(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 3:
            raise KeyboardInterrupt

    lines: list[dict[str, float]] = []
    later: list[dict[str, float]] = []
    whole = run(lines.append)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(kill, checkpoint=checkpoint, resume=True)
    again = run(later.append, checkpoint=checkpoint, resume=True)
    assert later == lines[-len(later) :] and [line["iteration"] for line in later] == [3, 4]
    for one, two in zip(whole, again, strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    repeated: list[dict[str, float]] = []
    run(repeated.append)
    assert repeated == lines
    other: list[dict[str, float]] = []
    run(other.append, seed=4)
    assert other != lines


def test_decisions_are_drawn_in_training_and_greedy_in_validation(sampled: Experiment) -> None:
    """Shares of the arms agree with π, of first and of second decisions; scripts say the rest."""
    trainer = JointLive(
        read(sampled), JointLiveSettings(batch_queries=1, samples=1500), alpha=ALPHA, seed=0
    )
    with torch.no_grad():
        last_layer(trainer).weight.mul_(100)
    (episodes,) = step_by_step(trainer, 1)
    compared = 0
    for place in {len(episode.decisions) for episode in episodes}:
        for before in {tuple(episode.decisions[: place - 1]) for episode in episodes}:
            mine = [one for one in episodes if tuple(one.decisions[: place - 1]) == before]
            mine = [one for one in mine if len(one.decisions) >= place]
            if len(before) < place - 1 or len(mine) < 400:
                continue
            probs_A = mine[0].probs[place - 1]
            taken = [trainer.player.options.index(one.decisions[place - 1]) for one in mine]
            shares_A = torch.bincount(torch.tensor(taken), minlength=len(probs_A)) / len(mine)
            torch.testing.assert_close(shares_A.double(), probs_A, atol=0.07, rtol=0)
            assert 0.1 < float(probs_A.max()) < 0.9
            compared += 1
    assert compared > 1
    played = watched(trainer)
    figures = [trainer.validate(read(sampled, "valid")) for _ in range(2)]
    assert figures[0] == figures[1] and len(played) == 2
    for episode in played[0]:
        for decision, probs_A in zip(episode.decisions, episode.probs, strict=True):
            assert trainer.player.options[int(probs_A.argmax())] == decision


def test_validation_is_the_mean_over_greedy_episodes(spoken: Experiment) -> None:
    trainer = trainer_of(spoken, valid_samples=2)
    played = watched(trainer)
    found = trainer.validate(read(spoken, "valid"))
    (episodes,) = played
    assert [episode.sample for episode in episodes] == [VALIDATION] * 3 + [VALIDATION + 1] * 3
    assert {episode.query.id for episode in episodes} == {q.id for q in spoken.splits["valid"]}
    rewards = [slow_reward(trainer, episode) for episode in episodes]
    assert found["reward"] == pytest.approx(sum(rewards) / 6)
    assert found["reward"] == pytest.approx(found["quality"] - ALPHA * found["cost"])
    hops = [sum(taken is not STOP for taken in episode.decisions) for episode in episodes]
    assert found["hops"] == pytest.approx(sum(hops) / 6)
    assert trainer.drawn == 0


def test_many_at_once_are_played_as_one_at_a_time(spoken: Experiment) -> None:
    trainer = trainer_of(spoken)
    queries = spoken.queries()
    together = trainer.player.play(trainer.policy, queries, samples=range(3))
    assert [(one.query.id, one.sample) for one in together] == [
        (query.id, sample) for sample in range(3) for query in queries
    ]
    for episode in together:
        (alone,) = trainer.player.play(trainer.policy, [episode.query], samples=[episode.sample])
        assert (alone.answer, alone.sequence) == (episode.answer, episode.sequence)
        assert alone.decisions == episode.decisions and alone.asks == episode.asks
        assert alone.replies.keys() == episode.replies.keys()
        for key, records in alone.replies.items():
            assert records.token_ids == episode.replies[key].token_ids
            assert records.text == episode.replies[key].text
    keys = [key for episode in together for key in episode.replies]
    assert len({*keys}) == len(keys) and len({one.answer for one in together}) > 20


# The command line


def test_train_live_and_eval_from_the_command_line(
    spoken: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(spoken.source.parent, capsys, monkeypatch)
    sets = shell.sets("train.settings.batch_queries=2", "train.settings.tokens=30")
    command = ["train", "experiment.yaml", "--live", "--set", "train.iterations=50", *sets]
    printed = shell(*command).replace("\n", " ")
    assert "best validation reward" in printed and "It ended by itself" in printed
    (run,) = (shell.folder / "runs").glob("joint-live-s0-*")
    assert f"hcache sample experiment.yaml --policy {run.name}" in printed
    report = json.loads(shell("eval", "experiment.yaml", "--format", "json"))
    (row,) = (row for row in report["rows"] if row["name"] == "joint-live")
    assert row["role"] == "router" and row["seeds"] == 1
    assert any(f"--policy {run.name} --split test" in note for note in report["notes"])
    shell("sample", "experiment.yaml", "--policy", run.name, "--split", "test")
    assert "joint-live with ΔW" in {
        row["name"]
        for row in json.loads(shell("eval", "experiment.yaml", "--format", "json"))["rows"]
    }
    assert "identical" in shell("runs", "repeat", str(run))


def test_bench_leaves_it_out(spoken: Experiment) -> None:
    found = algorithms(spoken)
    assert found["joint"] == "" and "runs the models in every step" in found["joint-live"]
