"""An arm with a policy's ΔW, made for each question: sampled, stored, evaluated, served.

What the models should have said is computed slowly, with ΔW merged into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import facts
from helpers.joint import (
    CPU,
    Slow,
    calls,
    policy_of,
    serve,
    trained,
    write_experiment,
)
from helpers.shell import Shell

from hcache.engines import TOO_LONG, Engine, Generation, Request, make_engine, request_for
from hcache.experiment import Experiment
from hcache.joint import engine as lowrank_engine
from hcache.joint.calls import CallTree
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.engine import LowRankEngine
from hcache.joint.from_cache import Joint, JointSettings
from hcache.joint.generator import LowRank
from hcache.keys import digest, digest_file
from hcache.models.arms import Arm
from hcache.models.files import TEXTS, WEIGHTS
from hcache.replay.loading import load_replay
from hcache.replay.tree import NONE
from hcache.runs.evaluating import compare, evaluate_runs
from hcache.runs.folder import Run
from hcache.runs.routing import live_router, with_changes
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.workflows import Ask, Message

NEAR = 1e-4


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Sampled without any ΔW."""
    experiment = write_experiment(tmp_path_factory.mktemp("serving"))
    Sampler(experiment, serve).run()
    return experiment


@pytest.fixture(scope="module")
def run(spoken: Experiment) -> Run:
    """A policy with ΔW ≠ 0, and what the models say with it, of all splits."""
    found = trained(spoken)
    Sampler(with_changes(spoken, found)).run()
    return found


# Sampling


def test_every_reply_is_said_under_the_delta_of_its_arm_and_question(
    spoken: Experiment, run: Run
) -> None:
    slow = Slow(spoken, policy_of(run))
    rows = calls(run.replies, "test")
    questions = sorted({row["question"] for row in rows})
    assert {row["arm"] for row in rows} == {"a", "b", "c"} and len(questions) == 3
    wrong: dict[str, list[float]] = {"arm": [], "question": [], "none": []}
    for row in rows:
        records, found = (row["messages"], row["token_ids"]), sum(row["logprobs"])
        assert found == pytest.approx(slow.logprob(row["arm"], row["question"], *records), abs=NEAR)
        other = questions[questions.index(row["question"]) - 1]
        wrong["question"].append(abs(found - slow.logprob(row["arm"], other, *records)))
        wrong["none"].append(abs(found - slow.plain(row["arm"], *records)))
        if row["arm"] != "b":  # the other arm of the same model
            arm = {"a": "c", "c": "a"}[row["arm"]]
            wrong["arm"].append(abs(found - slow.logprob(arm, row["question"], *records)))
    for kind, differences in wrong.items():
        assert sum(difference > 100 * NEAR for difference in differences) > 20, kind


@pytest.fixture
def shell(
    spoken: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    return Shell(spoken.source.parent, capsys, monkeypatch)


def test_the_command_samples_the_same_and_nothing_twice(
    shell: Shell, spoken: Experiment, run: Run, tmp_path: Path
) -> None:
    """A query has 3 + 9 generations, fewer where replies are equal, in two replicas."""
    command = ["sample", "experiment.yaml", "--policy", run.name]
    with Store(run.replies) as store:
        count = store.sql("select count(*) from generations").item()
    assert 120 < count <= 216
    again = shell(*command).replace("\n", " ")
    assert f"0 generations made ({count} were there)" in again
    assert "9 of 9 queries complete" in again
    elsewhere = tmp_path / "again.duckdb"
    made = shell(*command, "--db", str(elsewhere)).replace("\n", " ")
    assert f"{count} generations made (0 were there)" in made
    assert facts(elsewhere) == facts(run.replies)
    keys = [{row[0] for row in facts(db)["generations"]} for db in (run.replies, spoken.db)]
    assert not keys[0] & keys[1]


def test_only_the_splits_asked_for_are_sampled(
    shell: Shell, spoken: Experiment, run: Run, tmp_path: Path
) -> None:
    db = tmp_path / "some.duckdb"
    changed = with_changes(spoken, run, db)
    tally = Sampler(changed, splits=["valid"]).run()
    assert (tally.queries, tally.complete) == (3, 3)
    assert splits_of(db) == {"valid"}
    command = ["sample", "experiment.yaml", "--policy", run.name, "--db", str(db)]
    printed = shell(*command, "--split", "valid,test").replace("\n", " ")
    assert "6 of 6 queries complete" in printed
    assert splits_of(db) == {"valid", "test"}


def splits_of(db: Path) -> set[str]:
    """The splits of which something was said."""
    with Store(db) as store:
        return set(store.sql("select distinct split from outcomes").to_series())


def test_what_cannot_be_sampled_is_refused_in_one_line(
    shell: Shell, spoken: Experiment, run: Run
) -> None:
    plain = trained(spoken, algo="sft", settings={})
    for arguments, words in (
        (["--policy", run.name, "--split", "tset"], "unknown split 'tset'"),
        (["--policy", plain.name], f"{plain.name} makes no ΔW"),
        (["--policy", "nothing"], "there is no run nothing"),
    ):
        message = shell("sample", "experiment.yaml", *arguments, code=1)
        assert message.startswith("error: ") and words in message
        assert message.count("\n") == 1 and "Traceback" not in message
        assert not plain.replies.exists()


def test_arms_that_are_not_sampled_at_temperature_1_are_refused(
    shell: Shell, run: Run, tmp_path: Path
) -> None:
    """The engine draws at temperature 1; under another the replies would be stored as wrong."""
    command = ["sample", "experiment.yaml", "--policy", run.name, "--db", str(tmp_path / "x")]
    for setting in ("arms.a.temperature=0", "arms.b.top_p=0.5"):
        message = shell(*command, "--set", setting, code=1)
        assert message.startswith("error: ") and setting.split("=")[0].rsplit(".", 1)[0] in message


def test_a_policy_for_other_checkpoints_is_refused(shell: Shell, run: Run, tmp_path: Path) -> None:
    command = ["sample", "experiment.yaml", "--policy", run.name, "--db", str(tmp_path / "x")]
    message = shell(*command, "--set", f"models.one.path={shell.folder / 'two'}", code=1)
    assert "\nerror: models.one: " in message and "Traceback" not in message


# Identity


def test_keys_differ_by_question_under_a_delta_alone(spoken: Experiment, run: Run) -> None:
    messages = (Message("user", "look up city"),)
    for experiment, kinds in ((spoken, 1), (with_changes(spoken, run), 2)):
        for arm in experiment.pool:
            asks = [request_for(Ask(arm, messages), 0, question) for question in ("x", "y", "x")]
            assert len({ask.key for ask in asks}) == kinds
            assert asks[0].key == asks[2].key and asks[0].messages_key == asks[1].messages_key
            assert [ask.question for ask in asks] == ["x", "y", "x"]


def test_fingerprints_are_of_the_policy_the_arm_and_the_features(
    spoken: Experiment, run: Run
) -> None:
    other = trained(spoken, seed=1)
    features = spoken.config.features.model_copy(update={"seed": 5})
    model = with_changes(spoken, run).config.models["one"]
    assert model.low_rank is not None
    low_rank = model.low_rank.model_copy(update={"features": features})
    models = {name: model.model_copy(update={"low_rank": low_rank})
              for name, model in spoken.config.models.items()}  # fmt: skip
    read_otherwise = Experiment(spoken.config.model_copy(update={"models": models}), spoken.source)
    plain = [arm.fingerprint for arm in spoken.pool]
    assert plain[0] == plain[2] != plain[1]  # one model, the same settings: the same replies
    pools = [with_changes(spoken, found).pool for found in (run, other)] + [read_otherwise.pool]
    changed = [arm.fingerprint for pool in pools for arm in pool]
    assert len({*changed, *plain}) == len(changed) + 2
    same = with_changes(spoken, run).pool
    assert [arm.fingerprint for arm in same] == changed[:3]


def test_fingerprints_of_plain_arms_are_as_before_there_were_deltas(spoken: Experiment) -> None:
    for arm in spoken.pool:
        files = [file for file in arm.path.iterdir() if file.suffix in WEIGHTS + TEXTS]
        known: dict[str, object] = {
            "dtype": "float32", "quantization": None, "max_model_len": 48,
            "chat_template_args": {}, "max_tokens": 5, "stop": [], "temperature": 1.0,
            "top_p": 1.0, "seed": 0,
        }  # fmt: skip
        wanted = digest({file.name: digest_file(file) for file in files} | known)
        assert arm.fingerprint == wanted
        assert arm.id == digest([wanted, "", "", arm.name])[:12]


# Evaluating


def test_a_router_is_judged_with_what_it_makes_of_the_models(spoken: Experiment, run: Run) -> None:
    report = evaluate_runs(spoken, [run])
    rows = {row.name: row for row in report.groups[0].rows}
    assert rows["joint"].quality.estimate == pytest.approx(slow_quality(spoken, run, spoken.db))
    changed = rows["joint with ΔW"]
    assert changed.quality.estimate == pytest.approx(slow_quality(spoken, run, run.replies))
    assert changed.quality.estimate != rows["joint"].quality.estimate
    assert (changed.role, changed.seeds) == ("router", 1)
    assert not any("hcache sample" in note for note in report.notes)
    assert "joint with ΔW: on replies that were sampled with its ΔW." in report.notes


def test_seeds_are_one_row_once_all_are_sampled(spoken: Experiment, run: Run) -> None:
    other = trained(spoken, seed=2)
    before = evaluate_runs(spoken, [run, other])
    assert "joint with ΔW" not in [row.name for row in before.groups[0].rows]
    command = f"hcache sample EXPERIMENT.yaml --policy {other.name} --split test"
    assert sum(command in note for note in before.notes) == 1
    changed = with_changes(spoken, other)
    Sampler(changed, splits=["test"], budget=50).run()
    assert evaluate_runs(spoken, [run, other]).notes == before.notes  # not to the end
    Sampler(changed, splits=["test"]).run()
    report = evaluate_runs(spoken, [run, other])
    assert not any(command in note for note in report.notes)
    (row,) = (row for row in report.groups[0].rows if row.name == "joint with ΔW")
    qualities = [slow_quality(spoken, found, found.replies) for found in (run, other)]
    assert row.seeds == 2 and qualities[0] != qualities[1]
    assert row.quality.estimate == pytest.approx(sum(qualities) / 2)


def test_runs_are_compared_by_what_was_sampled_with_their_delta(
    spoken: Experiment, run: Run
) -> None:
    plain = trained(spoken, algo="sft", settings={})
    report = evaluate_runs(spoken, [run, plain])
    rewards = {row.name: row.reward.estimate for row in report.groups[0].rows}
    assert rewards["joint with ΔW"] != rewards["joint"]
    difference = f"difference in reward {rewards['joint with ΔW'] - rewards['sft']:+.4f}"
    assert difference in compare(run, plain, db=spoken.db)


QUALITY = """
select quality from outcomes
where split = 'test' and query_id = $1 and replica = $2 and sequence = $3
"""


def slow_quality(experiment: Experiment, run: Run, db: Path) -> float:
    """The mean quality of the greedy assignments on test, by walking, read by SQL."""
    found = []
    with Store(db) as store:
        tree = load_replay(store, experiment.config, "test").tree
        action_N = policy_of(run).probs(tree.states).argmax(dim=1).tolist()
        for root, query, replica in zip(
            tree.root_T.tolist(), tree.query_T.tolist(), tree.replica_T.tolist(), strict=True
        ):
            state, names = root, []
            while state != NONE:
                action = action_N[state]
                names += [tree.arms[action]] if action < len(tree.arms) else []
                state = int(tree.child_NA[state, action])
            sequence = ">".join(names)
            found.append(store.sql(QUALITY, [tree.queries[query], replica, sequence]).item())
    assert len(found) == 6
    return float(sum(found) / len(found))


# Training on replies that were sampled with ΔW


def read(experiment: Experiment, db: Path, split: str = "train") -> CallTree:
    with Store(db) as store:
        tree = load_replay(store, experiment.config, split).tree
    return Joint.enrich(tree, Experiment(experiment.config, experiment.source, db))


def test_training_goes_on_at_ratio_one(spoken: Experiment, run: Run) -> None:
    gone_on = trained(spoken, run.replies, run.folder, iterations=1)
    before, first = gone_on.metrics()
    assert before["valid_covered"] == pytest.approx(1, abs=NEAR)
    assert first["ess"] == pytest.approx(1, abs=NEAR)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-3)
    assert 0 < first["engine_difference"] < NEAR
    fresh = trained(spoken, run.replies, iterations=1)
    assert fresh.metrics()[1]["ratio_max"] > 1.1  # so that 1 is no matter of course


def test_behaviour_is_that_of_merged_weights(spoken: Experiment, run: Run) -> None:
    policy = policy_of(run)
    tree = read(spoken, run.replies)
    trainer = Joint(tree, JointSettings(), alpha=0.1, seed=0, init=policy)
    slow = Slow(spoken, policy)
    assert len(tree.calls) > 40
    for call, arm, behaviour in zip(
        tree.calls.records, tree.calls.arm_U, trainer.cache.scorer.behaviour_U, strict=True
    ):
        wanted = slow.logprob(tree.arms[int(arm)], call.question, call.messages, call.output_ids)
        assert float(behaviour) == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_policy_from_scratch_has_the_ratios_of_plain_to_merged_weights(
    spoken: Experiment, run: Run, layers: int
) -> None:
    """ΔW = 0 at its start, and the ΔW that the replies were sampled with is not."""
    tree = read(spoken, run.replies)
    trainer = Joint(tree, JointSettings(adapted_layers=layers), alpha=0.1, seed=0)
    assert bool(trainer.cache.scorer.kept) == (layers == 1)
    line = trainer.step()  # one update: ratios are those before it
    slow = Slow(spoken, policy_of(run))
    wanted = []
    for call, arm in zip(tree.calls.records, tree.calls.arm_U.tolist(), strict=True):
        records = call.messages, call.output_ids
        name = tree.arms[arm]
        wanted.append(slow.plain(name, *records) - slow.logprob(name, call.question, *records))
    assert trainer.log_ratio_U.tolist() == pytest.approx(wanted, abs=2 * NEAR)
    assert line["ratio_max"] == pytest.approx(math.exp(max(wanted)), rel=1e-3)
    assert line["ess"] < 0.95


# Live


def test_the_live_router_answers_under_the_delta_of_each_question(
    spoken: Experiment, run: Run
) -> None:
    policy = policy_of(run)
    slow = Slow(spoken, policy)
    queries = spoken.splits["test"]
    with live_router(run.folder) as router:
        episodes = router.live.play(router.policy, queries, samples=range(2))
        route = router.route("Where does Ada live")
        engines = list(router.live.engines.loaded.values())
    assert [type(engine) for engine in engines] == [LowRankEngine] * len(engines)
    assert route.steps and route.sequence.count(">") + 1 == len(route.steps)
    differences = []
    for episode in episodes:
        for ask in episode.asks:
            records = episode.replies[episode.request(ask).key]
            assert records.logprobs is not None
            reply = ask.messages, records.token_ids
            wanted = slow.logprob(ask.arm.name, episode.query.question, *reply)
            assert sum(records.logprobs) == pytest.approx(wanted, abs=NEAR)
            differences.append(abs(wanted - slow.plain(ask.arm.name, *reply)))
    assert len(differences) >= 6 and max(differences) > 0.1


def test_live_engines_are_those_of_the_policy_where_it_has_a_delta(
    spoken: Experiment, run: Run
) -> None:
    plain = trained(spoken, algo="sft", settings={})
    asked: list[Request] = []

    class Stub:
        def __init__(self) -> None:
            self.provenance: dict[str, str] = {}
            self.left: list[Request] = []

        def submit(self, request: Request) -> None:
            asked.append(request)
            self.left.append(request)

        def step(self) -> list[Generation]:
            records = [Generation(r.key, "city", (3,), 1, "stop") for r in self.left]
            self.left.clear()
            return records

        def abort(self) -> None:
            self.left.clear()

        def close(self) -> None:
            self.left.clear()

    def stub(arm: Arm, logprobs: bool) -> Engine:
        return Stub()

    for found, changed in ((run, True), (plain, False)):
        asked.clear()
        with live_router(found.folder, factory=stub) as router:
            router.route("Where does Ada live")
        assert asked and {request.question for request in asked} == {"Where does Ada live"}
        for request in asked:
            low_rank = request.arm.model_config.low_rank
            assert request.arm.by_question == changed == (low_rank is not None)
            assert low_rank is None or low_rank.policy == str(found.policy_folder.resolve())


# The engine


def requests_of(arm: Arm, count: int, **changes: Any) -> list[Request]:
    """Requests whose keys, and so their draws, do not depend on changes of the arm's settings."""
    texts = ["Where does Ada live", "What", "What does Tom eat look up food"]
    changed = replace(arm, config=arm.config.model_copy(update=changes))
    asks = [Ask(changed, (Message("user", text),)) for text in texts]
    return [request_for(ask, number, "") for number in range(count) for ask in asks]


def answers(engine: Engine, requests: Sequence[Request]) -> dict[str, Generation]:
    for request in requests:
        engine.submit(request)
    found: dict[str, Generation] = {}
    while len(found) < len(requests):
        records = engine.step()
        assert records
        found |= {generation.key: generation for generation in records}
    return found


def test_a_reply_ends_at_the_first_of_its_stops(spoken: Experiment) -> None:
    """As vLLM has it: tokens up to the one that completes the text, the text before it.

    Of two that one token completes, the one that is named first ends the reply.
    """
    arm = spoken.pool[0]
    checkpoint = Checkpoint(arm, CPU)
    plain = answers(LowRankEngine(checkpoint), requests_of(arm, 8, max_tokens=8))
    texts = sorted(records.text for records in plain.values() if records.output_tokens == 8)
    first, second = texts[0].split(), texts[-1].split()
    stops = (first[3], " ".join(first[2:4]), second[5])
    requests = requests_of(arm, 8, max_tokens=8, stop=stops)
    found = answers(LowRankEngine(checkpoint), requests)
    assert found.keys() == plain.keys()
    stopped = 0
    for key, whole in plain.items():
        ids, text, reason = whole.token_ids, whole.text, whole.finish_reason
        for count in range(1, len(ids) + 1):
            so_far = checkpoint.decode(ids[:count])
            named = [stop for stop in stops if stop in so_far]
            if named:
                ids, text, reason = ids[:count], so_far[: so_far.index(named[0])], "stop"
                stopped += 1
                break
        records = found[key]
        assert (records.token_ids, records.text, records.finish_reason) == (ids, text, reason)
        assert records.logprobs is not None and whole.logprobs is not None
        assert records.logprobs == pytest.approx(whole.logprobs[: len(ids)], abs=1e-5)
    assert 1 < stopped < len(plain)


def test_a_batch_holds_no_more_tokens_than_it_may(
    spoken: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = spoken.pool[0]
    checkpoint = Checkpoint(arm, CPU)
    batches: list[list[Request]] = []

    def watch(batch: Sequence[Request]) -> LowRank | None:
        batches.append(list(batch))
        return None

    requests = requests_of(arm, 5)
    freely = answers(LowRankEngine(checkpoint, 1, watch), requests)
    assert [len(batch) for batch in batches] == [15]
    batches.clear()
    monkeypatch.setattr(lowrank_engine, "TOKENS", 40)
    found = answers(LowRankEngine(checkpoint, 1, watch), requests)
    assert [records.token_ids for records in freely.values()] == [
        found[key].token_ids for key in freely
    ]
    sizes = [
        len(batch) * max(len(checkpoint.render(request.messages)) + 5 for request in batch)
        for batch in batches
    ]
    assert max(sizes) <= 40 and 3 < len(batches) < 15
    batches.clear()
    monkeypatch.setattr(lowrank_engine, "TOKENS", 1)  # one alone is always let through
    answers(LowRankEngine(checkpoint, 1, watch), requests)
    assert [len(batch) for batch in batches] == [1] * 15


def test_a_prompt_without_room_for_a_reply_is_answered_at_once(spoken: Experiment) -> None:
    arm = spoken.pool[0]
    engine = LowRankEngine(Checkpoint(arm, CPU))
    for words in (47, 48, 49, 0):
        ask = Ask(arm, (Message("user", " ".join(["city"] * words)),))
        engine.submit(replace(request_for(ask, 0, ""), key=str(words)))
    assert len(engine.queue) == 1
    found = {records.key: records for records in engine.step()}
    reasons = {key: records.finish_reason for key, records in found.items()}
    assert reasons.pop("47") in ("length", "stop") and found["47"].output_tokens == 1
    assert reasons == dict.fromkeys(("48", "49", "0"), TOO_LONG)
    assert [found[key].prompt_tokens for key in ("47", "48", "49", "0")] == [47, 48, 49, 0]
    assert not found["48"].token_ids and not engine.step()


def test_arms_of_one_queue_are_served_one_after_the_other(spoken: Experiment, run: Run) -> None:
    """In any order of arms, with limits of their own, each reply is what it is alone."""
    pool = with_changes(spoken, run).pool
    limits = {"a": 3, "c": 7}
    lots = [requests_of(arm, 3, max_tokens=limits[arm.name]) for arm in (pool[0], pool[2])]
    mixed = [request for pair in zip(*lots, strict=True) for request in pair]
    engine = make_engine(pool[0], True)
    assert isinstance(engine, LowRankEngine)
    batches: list[set[str]] = []
    adapt = engine.adapt

    def watch(batch: Sequence[Request]) -> LowRank | None:
        batches.append({request.arm.name for request in batch})
        return adapt(batch)

    engine.adapt = watch
    together = answers(engine, mixed)
    assert batches == [{"a"}, {"c"}]
    for request in mixed:
        alone = answers(make_engine(pool[0], True), [request])[request.key]
        assert replace(alone, seconds=0, logprobs=None) == replace(
            together[request.key], seconds=0, logprobs=None
        )
        assert alone.output_tokens <= limits[request.arm.name]
    assert max(together[request.key].output_tokens for request in lots[1]) > 3
