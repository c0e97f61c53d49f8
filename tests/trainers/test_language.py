"""Language models as routers: what they read, how they choose, and that training is exact."""

from __future__ import annotations

import json
import math
import pickle
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from helpers.experiments import load, settings, write_script, write_scripts
from helpers.fitting import ALPHA, same, small
from helpers.paths import DEMO, ROOT
from helpers.policies import RandomPolicy
from typer.testing import CliRunner

from hcache.artefacts import write_object
from hcache.config.schema import FeaturesConfig
from hcache.engines import Engines, make_engine
from hcache.errors import ConfigError, HcacheError, RunError
from hcache.experiment import Experiment
from hcache.live import Live
from hcache.models.causal_lm import beginning, by_length, last_hidden, token_ids, with_end
from hcache.policies import load_policy
from hcache.policies.language import CUE, LanguagePolicy, labels_of
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import sequences, static_leaves
from hcache.replay.features import make_encoder
from hcache.replay.loading import load_replay
from hcache.replay.tree import ReadableStates, Texts, Tree, path_name, to_read
from hcache.runs.evaluating import evaluate_runs
from hcache.runs.routing import Router, live_router
from hcache.runs.training import repeat, train, with_train
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.trainers import TRAINERS, fit, greedy_metrics
from hcache.trainers.language import Language, LanguageSettings, half_of, static_reward

transformers = pytest.importorskip("transformers")
GENERALIST = DEMO / "models" / "generalist"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of chance weights, with the tokenizer of the demo's models."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(GENERALIST)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


QUESTIONS = {"train": 12, "valid": 4, "test": 2}
WORDS = ("country", "number")  # which model is right, as the question says


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Questions that say which of two arms is right, sampled."""
    folder = tmp_path_factory.mktemp("worded")
    write_scripts(folder, "bc")
    for split, count in QUESTIONS.items():
        rows = [
            {"question": f"What {WORDS[n % 2]} is {n // 2} {split}", "answer": "bc"[n % 2]}
            for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in "bc":
        write_script(folder, name, [["(?s).*", name]])
    experiment = load(folder, settings("bc", runs=str(folder / "runs")))
    Sampler(experiment).run()
    return experiment


def tree_of(experiment: Experiment, split: str = "train") -> Tree:
    with Store(experiment.db) as store:
        return load_replay(store, experiment.config, split).tree


def values(checkpoint: Path, **more: Any) -> dict[str, Any]:
    quick = {"batch_size": 4, "accumulation": 2, "decay_steps": 40, "lr": 3e-3}
    return {"path": str(checkpoint), "max_tokens": 128, **quick, **more}


def fresh(checkpoint: Path, tree: Tree, seed: int = 0, **more: Any) -> Language:
    made = LanguageSettings(**values(checkpoint, **more))
    return Language(tree, made, alpha=ALPHA, seed=seed)


# What there is to read


def test_texts_are_those_of_the_states_and_are_fetched_once(sampled: Experiment) -> None:
    tree = tree_of(sampled)
    assert tree.texts is not None and "_all" not in vars(tree.texts)
    root = tree.states[tree.root_T]
    assert isinstance(root, ReadableStates)
    questions = {query.id: query.question for query in sampled.splits["train"]}
    assert [list(text) for text in root.read()] == [[questions[query]] for query in tree.queries]
    fetched = tree.texts._all
    for other in (tree.without_stop(), tree.to("cpu"), replace(tree, kinds=tree.kinds)):
        assert other.texts is tree.texts
        assert other.texts._all is fetched
    for state, parts in zip(tree.hop_N.tolist(), tree.texts._all, strict=True):
        assert len(parts) == state + 1
    assert pickle.loads(pickle.dumps(tree)).texts[tree.root_T] == tree.texts[tree.root_T]


def test_parts_of_states_keep_their_texts() -> None:
    tree = small("train")
    told = replace(tree, texts=Texts(lambda: [[str(n)] for n in range(len(tree.hop_N))]))
    states = told.states
    assert isinstance(states, ReadableStates)
    some = states[torch.tensor([5, 2, 7])][torch.tensor([True, False, True])]
    assert some.read() == [["5"], ["7"]]
    assert torch.equal(some.hop_N, tree.hop_N[[5, 7]])
    assert not isinstance(tree.states[tree.root_T], ReadableStates)


def test_the_role_that_is_assigned_stands_last() -> None:
    assert to_read(("q", "teacher: a"), "student") == ["q", "teacher: a", "student:"]
    assert to_read(("q",), "") == ("q",)


def test_batches_hold_every_row_once_by_length() -> None:
    rows = [[0] * size for size in (3, 1, 2, 5, 1)]
    assert list(by_length(rows, 2)) == [[1, 4], [2, 0], [3]]
    assert list(by_length([], 2)) == []


def test_of_a_long_text_the_end_is_kept() -> None:
    for limit, expected in ((9, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (3, [0, 2, 3]), (1, [0])):
        assert with_end([0], [1, 2, 3], limit) == expected


# How it chooses


def test_labels_are_one_token_each() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        GENERALIST
    )  # knows no letters, but digits
    labels = labels_of(tokenizer, 4)
    assert list(labels) == ["0", "1", "2", "3"]
    for label, token in labels.items():
        assert tokenizer.decode([token]).strip() == label
    with pytest.raises(ConfigError, match="no 11 letters or digits"):
        labels_of(tokenizer, 11)


def test_probabilities_are_those_of_the_labels_and_batches_do_not_matter(
    checkpoint: Path, worded: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tree_of(worded)
    policy = fresh(checkpoint, tree).policy
    probs_NA = policy.probs(tree.states)
    assert bool((probs_NA[~tree.valid_NA] == 0).all())
    assert torch.allclose(probs_NA.sum(dim=1), torch.ones(len(probs_NA)).double())
    monkeypatch.setattr("hcache.policies.language.BATCH", 3)
    assert torch.allclose(policy.probs(tree.states), probs_NA, atol=1e-6)
    for state in (0, len(tree.hop_N) - 1):
        (row,) = policy.prompts(tree.states[torch.tensor([state])])
        with torch.no_grad():
            logits = policy.model(torch.tensor([row])).logits[0, -1, policy.label_A].double()
        slow = logits.masked_fill(~tree.valid_NA[state], -math.inf).softmax(dim=0)
        assert torch.allclose(probs_NA[state], slow, atol=1e-6)


def test_prompts_end_with_the_list_of_the_arms_however_long_the_text(
    checkpoint: Path, worded: Experiment
) -> None:
    tree = tree_of(worded)
    policy = fresh(checkpoint, tree).policy
    (cue,) = token_ids(policy.tokenizer, [CUE])
    rows = policy.prompts(tree.states)
    assert {tuple(row[-len(cue) :]) for row in rows} == {tuple(cue)}
    tight = len(policy.after) + 2
    cut = fresh(checkpoint, tree, max_tokens=tight).policy.prompts(tree.states)
    assert [row[-tight:] for row in rows] == cut
    with pytest.raises(ConfigError, match="Raise max_tokens"):
        fresh(checkpoint, tree, max_tokens=len(policy.after))


def test_a_first_token_stands_before_every_text(checkpoint: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    assert beginning(tokenizer) == []

    class Begins:
        bos_token_id = 7

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [7]}

    assert beginning(Begins()) == [7]


def test_what_stands_beside_a_row_changes_nothing(checkpoint: Path) -> None:
    model = transformers.AutoModel.from_pretrained(checkpoint)
    with torch.no_grad():
        alone, _ = last_hidden(model, [[5, 6]])
        beside, mask_BT = last_hidden(model, [[5, 6], [7] * 30])
    assert torch.allclose(beside[0, :2], alone[0], atol=1e-5)
    assert mask_BT.sum(dim=1).tolist() == [2, 30]


def test_states_without_text_are_refused(checkpoint: Path, worded: Experiment) -> None:
    policy = fresh(checkpoint, tree_of(worded)).policy
    with pytest.raises(RunError, match="have no text"):
        policy.probs(small("train").states)
    assert "no text" in Language.unfit(small("train"))
    assert Language.unfit(tree_of(worded)) == ""


# Training


def fitted(trainer: Language, valid: Tree, **how: Any) -> tuple[Any, list[dict[str, float]]]:
    lines: list[dict[str, float]] = []
    defaults: dict[str, Any] = {"iterations": 4, "evaluate_every": 2, "patience": 0}
    return fit(trainer, valid, on_metrics=lines.append, **{**defaults, **how}), lines


def test_it_learns_what_the_text_says(checkpoint: Path, worded: Experiment) -> None:
    trainer = fresh(checkpoint, tree_of(worded), lr=1e-2, decay_steps=60)
    losses = [trainer.step()["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 3
    found = greedy_metrics(trainer.policy, tree_of(worded, "test"), ALPHA)
    assert found["quality"] == 1.0
    evaluated = trainer.validate(tree_of(worded, "valid"))
    assert evaluated["beats_static"] == 1.0
    assert evaluated["over_static"] > 0.1


def test_one_seed_repeats_to_the_bit_and_another_does_not(
    checkpoint: Path, worded: Experiment
) -> None:
    train_tree, valid = tree_of(worded), tree_of(worded, "valid")
    (one, lines), (two, again), (other, _) = (
        fitted(fresh(checkpoint, train_tree, seed=seed), valid) for seed in (4, 4, 5)
    )
    assert lines == again
    assert same(one.policy.state_dict(), two.policy.state_dict())
    assert not same(one.policy.state_dict(), other.policy.state_dict())


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_killed_run_ends_with_the_same_bits(
    checkpoint: Path, worded: Experiment, tmp_path: Path, killed_at: int
) -> None:
    train_tree, valid = tree_of(worded), tree_of(worded, "valid")
    whole = fresh(checkpoint, train_tree)
    expected, lines = fitted(whole, valid)

    def kill(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == killed_at:
            raise KeyboardInterrupt

    how: dict[str, Any] = {"checkpoint": tmp_path / "c", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        fit(
            fresh(checkpoint, train_tree), valid, iterations=4, evaluate_every=2, patience=0,
            on_metrics=kill, **how,
        )  # fmt: skip
    resumed = fresh(checkpoint, train_tree)
    found, rest = fitted(resumed, valid, **how)
    assert same(resumed.state(), whole.state())
    assert same(found.policy.state_dict(), expected.policy.state_dict())
    assert rest == lines[len(lines) - len(rest) :]


def test_batches_of_a_step_do_not_change_its_gradient(checkpoint: Path, worded: Experiment) -> None:
    tree = tree_of(worded)
    trainers = [
        fresh(checkpoint, tree, batch_size=size, accumulation=8 // size, max_grad_norm=1e9)
        for size in (1, 8)
    ]
    metrics = [trainer.step() for trainer in trainers]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)
    one, two = (trainer.policy.state_dict() for trainer in trainers)
    grads = [[weight.grad for weight in state.values()] for state in (one, two)]
    for first, second in zip(*grads, strict=True):
        assert first is not None and second is not None
        assert torch.allclose(first, second, atol=1e-6)


def test_every_pass_takes_every_state_once(checkpoint: Path, worded: Experiment) -> None:
    trainer = fresh(checkpoint, tree_of(worded))
    count = len(trainer.targets)
    taken = torch.cat([trainer._next(3) for _ in range(2 * count)])
    for start in range(0, 6 * count, count):
        assert sorted(taken[start : start + count].tolist()) == list(range(count))


def test_the_rate_rises_then_falls_to_nothing(checkpoint: Path, worded: Experiment) -> None:
    trainer = fresh(checkpoint, tree_of(worded), lr=1.0, decay_steps=20, warmup_ratio=0.2)
    rates = [trainer.rate(step) for step in range(25)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[12] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[20:] == [0.0] * 5
    steady = fresh(checkpoint, tree_of(worded), lr=1.0, decay_steps=0)
    assert {steady.rate(step) for step in range(5)} == {1.0}


def test_weights_are_float32_whatever_the_checkpoint_holds(
    checkpoint: Path, worded: Experiment, tmp_path: Path
) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    trainer = fresh(tmp_path, tree_of(worded))
    assert {weight.dtype for weight in trainer.policy.parameters()} == {torch.float32}


def test_training_goes_on_from_a_policy_of_its_kind_alone(
    checkpoint: Path, worded: Experiment
) -> None:
    tree = tree_of(worded)
    start = fresh(checkpoint, tree)
    start.step()
    before = {name: value.clone() for name, value in start.policy.state_dict().items()}
    made = LanguageSettings(**values(checkpoint))
    trainer = Language(tree, made, alpha=ALPHA, seed=1, init=start.policy)
    assert same(trainer.policy.state_dict(), before)
    trainer.step()
    assert not same(trainer.policy.state_dict(), before)
    assert same(start.policy.state_dict(), before)
    with pytest.raises(RunError, match="cannot start from a RandomPolicy"):
        Language(tree, made, alpha=ALPHA, seed=0, init=RandomPolicy(tree.arms))
    with pytest.raises(RunError, match="Start from a run on the same pool"):
        renamed = replace(tree, arms=("b", "d"))
        Language(renamed, made, alpha=ALPHA, seed=0, init=start.policy)


# The best static sequence


def test_halves_are_the_queries_by_turns() -> None:
    tree = small("valid")
    halves = [half_of(tree, number) for number in (0, 1)]
    assert [half.queries for half in halves] == [tree.queries[0::2], tree.queries[1::2]]
    for number, half in enumerate(halves):
        assert half.root_T.tolist() == tree.root_T[number::2].tolist()
        assert [half.queries[q] for q in half.query_T] == list(tree.queries[number::2])


def test_the_static_sequence_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    tree = small("valid")
    reward_TS = tree.reward_M(ALPHA)[static_leaves(tree, sequences(tree))]
    best = int(reward_TS[0::2].mean(dim=0).argmax())
    expected = float(reward_TS[1::2].mean(dim=0)[best])
    halves = half_of(tree, 0), half_of(tree, 1)
    assert static_reward(tree, *halves, ALPHA) == pytest.approx(expected)


def test_one_query_cannot_say_whether_static_is_beaten(
    checkpoint: Path, worded: Experiment
) -> None:
    trainer = fresh(checkpoint, tree_of(worded))
    valid = tree_of(worded, "valid")
    assert {"over_static", "beats_static"} <= trainer.validate(valid).keys()
    alone = half_of(half_of(valid, 0), 0)
    assert "over_static" not in trainer.validate(alone)
    assert (
        trainer.validate(alone)["reward"] == greedy_metrics(trainer.policy, alone, ALPHA)["reward"]
    )


# From a database to a run


def test_it_is_trained_saved_judged_repeated_and_routes_live(
    checkpoint: Path, worded: Experiment, tmp_path: Path
) -> None:
    algorithm = {"algo": "language", "iterations": 2, "settings": values(checkpoint)}
    chosen = worded.config.train.model_copy(update=algorithm)
    experiment = with_train(worded, chosen)
    run = train(experiment, folder=tmp_path / "runs")
    assert evaluate_runs(experiment, [run], "valid").seeds == {"language": 1}
    assert repeat(run, worded.db) is None
    tree = tree_of(worded, "valid")
    leaf_T = greedy_leaves(load_policy(run.policy_folder), tree)
    questions = {query.id: query.question for query in worded.splits["valid"]}
    with live_router(run.folder) as router:
        for index, query in enumerate(tree.queries):
            routed = router.route(questions[query])
            assert routed.sequence == path_name(tree.path_ML[leaf_T[index]].tolist(), tree.arms)


def test_any_trainer_may_see_the_pooled_hidden_states(
    checkpoint: Path, worded: Experiment, tmp_path: Path
) -> None:
    features = FeaturesConfig(encoder="causal-lm", path=str(checkpoint))
    chosen = worded.config.train.model_copy(update={"algo": "sft", "iterations": 2})
    config = worded.config.model_copy(update={"features": features, "train": chosen})
    run = train(Experiment(config, worded.source, worded.db), folder=tmp_path)
    with live_router(run.folder) as router:
        assert router.live.encoder.dim == 16
        assert router.route("What country is 0 train").choices


def test_a_saved_policy_needs_its_checkpoint_no_more(
    checkpoint: Path, worded: Experiment, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in checkpoint.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    tree = tree_of(worded)
    trainer = fresh(moved, tree)
    trainer.step()
    trainer.policy.save(tmp_path / "p")
    for file in moved.iterdir():
        file.unlink()
    chance = torch.get_rng_state()
    again = load_policy(tmp_path / "p")
    assert torch.equal(torch.get_rng_state(), chance)
    assert isinstance(again, LanguagePolicy)
    assert same(again.state_dict(), trainer.policy.state_dict())
    assert torch.equal(again.probs(tree.states), trainer.policy.probs(tree.states))
    assert str(tmp_path) not in (tmp_path / "p" / "policy.json").read_text()


def test_other_weights_are_refused(checkpoint: Path, worded: Experiment, tmp_path: Path) -> None:
    policy = fresh(checkpoint, tree_of(worded)).policy
    with pytest.raises(KeyError, match="other weights"):
        policy.load_state_dict({})
    policy.save(tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    config = json.loads(description["settings"]["files"]["config.json"]) | {"num_hidden_layers": 1}
    description["settings"]["files"]["config.json"] = json.dumps(config)
    write_object(tmp_path / "policy.json", description)
    with pytest.raises(RunError, match="does not fit the class 'language'"):
        load_policy(tmp_path)


def test_low_rank_training_changes_nothing_else(
    checkpoint: Path, worded: Experiment, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    tree = tree_of(worded)
    trainer = fresh(checkpoint, tree, lora_rank=2)
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    assert torch.equal(
        trainer.policy.probs(tree.states), fresh(checkpoint, tree).policy.probs(tree.states)
    )
    for _ in range(2):
        trainer.step()
    after = trainer.policy.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if "lora" in name
    }
    trainer.policy.save(tmp_path)
    assert torch.equal(load_policy(tmp_path).probs(tree.states), trainer.policy.probs(tree.states))


def test_errors_are_one_line(
    checkpoint: Path, worded: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tree_of(worded)
    train_config = worded.config.train.model_copy(update={"algo": "language"})
    experiment = with_train(worded, train_config)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    def no_peft() -> Language:
        monkeypatch.setitem(sys.modules, "peft", None)
        return fresh(checkpoint, tree, lora_rank=2)

    def no_transformers() -> Language:
        monkeypatch.setitem(sys.modules, "transformers", None)
        return fresh(checkpoint, tree)

    for attempt, words in (
        (lambda: train(experiment, folder=tmp_path), "train.settings: path: missing"),
        (lambda: fresh(tmp_path / "none", tree), "none does not exist"),
        (lambda: fresh(tmp_path, tree), "cannot be loaded"),
        (no_peft, "lora_rank: peft cannot be imported"),
        (no_transformers, "pip install 'hcache[language]'"),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert words in str(caught.value)


def test_importing_the_trainers_loads_neither_library() -> None:
    assert TRAINERS["language"] is Language
    script = "import sys, hcache.trainers; print({'transformers', 'peft'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# Workflows with roles


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Teacher and student, of whom the student answers at once: b is right, c is wrong."""
    folder = tmp_path_factory.mktemp("dialogue")
    for name, answer in (("b", "Rome"), ("c", "Oslo")):
        write_script(folder, name, [["", f"Finish[{answer}]"]])
    for split, count in QUESTIONS.items():
        rows = [{"question": f"{split} {n}?", "answer": "Rome"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = load(folder, settings("bc", workflow={"name": "teacher_student"}))
    Sampler(experiment).run()
    return experiment


def test_the_role_is_read_from_the_database_and_live_alike(
    checkpoint: Path, dialogue: Experiment
) -> None:
    tree = tree_of(dialogue, "test")
    assert tree.texts is not None
    told = [list(text) for text in tree.texts[torch.arange(3 * 2)]]
    roots = [[f"test {n}?", "teacher:"] for n in range(2)]
    assert sorted(told[:2]) == roots
    cast = [[f"test {n}?", f"teacher: {arm}", "student:"] for n in range(2) for arm in "bc"]
    assert sorted(told[2:]) == cast
    policy = fresh(checkpoint, tree_of(dialogue)).policy
    engines = Engines(make_engine)
    encoder = make_encoder(dialogue.config.features)
    live = Live(dialogue.config, dialogue.workflow, dialogue.pool, encoder, engines)
    router = Router(live, policy)
    probs_NA = policy.probs(tree.states)
    for root, query in zip(tree.root_T.tolist(), tree.queries, strict=True):
        (question,) = (q.question for q in dialogue.splits["test"] if q.id == query)
        chosen = [list(one.values()) for one in router.route(question).choices]
        child = int(tree.child_NA[root, int(probs_NA[root].argmax())])
        assert torch.allclose(torch.tensor(chosen).double(), probs_NA[[root, child]], atol=1e-6)
    engines.close()


def assignments(db: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    example = runpy.run_path(str(ROOT / "examples" / "haps_assignments.py"))
    command = typer.Typer()
    command.command()(example["assignments"])
    CliRunner().invoke(command, [str(out), str(db), *options], catch_exceptions=False)
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def test_best_assignments_are_written_as_rows(dialogue: Experiment, tmp_path: Path) -> None:
    rows = assignments(dialogue.db, tmp_path / "all.json")
    asked = [f"train {n}?" for n in range(QUESTIONS["train"])]
    assert sorted(row["question"] for row in rows) == sorted(asked * 2)
    assert {row["reward"] for row in rows} == {1.0}
    role_assignments = [json.loads(row["output"]) for row in rows]
    assert all(list(cast) == ["teacher", "student"] for cast in role_assignments)
    assert [cast["student"] for cast in role_assignments] == [0] * len(role_assignments)
    assert sorted(cast["teacher"] for cast in role_assignments) == sorted([0, 1] * len(asked))
    one = assignments(
        dialogue.db, tmp_path / "one.json", "--ties", "random_one", "--split", "test",
        "--balance", "smart", "--factor", "3",
    )  # fmt: skip
    assert {row["question"] for row in one} == {"test 0?", "test 1?"}


def test_assignments_need_roles_and_a_free_file(
    dialogue: Experiment, worded: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text("mine")
    for db, options, words in (
        (dialogue.db, ("mine.json",), "--force"),
        (worded.db, ("out.json",), "no roles"),
        (dialogue.db, ("out.json", "--ties", "some"), "ties: "),
        (dialogue.db, ("out.json", "--min-best", "2"), "Lower min_best"),
        (dialogue.db, ("out.json", "--split", "tset"), "tset"),
    ):
        out, *more = options
        with pytest.raises(HcacheError) as caught:
            assignments(db, tmp_path / out, *more)
        assert words in str(caught.value)
    assert (tmp_path / "mine.json").read_text() == "mine"
