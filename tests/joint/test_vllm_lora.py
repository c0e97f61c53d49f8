"""A policy's ΔW served by real vLLM, a LoRA adapter for each arm and question.

What the models should have said is computed slowly, with ΔW merged into the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.experiments import facts
from helpers.joint import Slow, calls, policy_of, serve, trained, write_experiment
from helpers.shell import Shell

from hcache.engines import Generation, Request, make_engine, request_for
from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.joint import vllm_lora
from hcache.joint.generator import LowRank, Shape
from hcache.joint.vllm_lora import VllmLowRankEngine, write_adapter
from hcache.runs.folder import Run
from hcache.runs.routing import with_changes
from hcache.sampling import Sampler
from hcache.workflows import Ask, Message

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]
NEAR = 1e-3
TOGETHER = 2  # adapters of a step
KEPT = 6  # adapters on disk, and in vLLM's memory
QUESTIONS = [f"Where does {name} live" for name in ("Ada", "Tom", "Mia", "Ben", "Eva")]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Sampled without any ΔW; heads of 32, which vLLM's CPU kernels have."""
    experiment = write_experiment(tmp_path_factory.mktemp("adapters"), head_dim=32)
    Sampler(experiment, serve).run()
    return experiment


@pytest.fixture(scope="module")
def run(spoken: Experiment) -> Run:
    """A policy with ΔW ≠ 0, by which nothing was sampled."""
    return trained(spoken)


@pytest.fixture(scope="module")
def engine(spoken: Experiment, run: Run) -> Iterator[VllmLowRankEngine]:
    """That of the model that two arms share, with little room for adapters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vllm_lora.TOGETHER, "cpu", TOGETHER)
        patch.setattr(vllm_lora, "KEPT", KEPT)
        made = make_engine(with_changes(spoken, run, engine="vllm").pool[0], True)
        assert isinstance(made, VllmLowRankEngine)
        yield made
        folder = Path(made.folder.name)
        assert list(folder.iterdir())
        made.close()
        assert not folder.exists()


def asked(experiment: Experiment, run: Run, questions: Sequence[str]) -> list[Request]:
    """Requests of both arms of one model, of every question, mixed."""
    pool = with_changes(experiment, run, engine="vllm").pool
    return [
        request_for(Ask(arm, (Message("user", text),)), number, question)
        for number in range(2)
        for text in ("Where does Ada live", "What", "look up food")
        for question in questions
        for arm in (pool[0], pool[2])
    ]


def answers(engine: VllmLowRankEngine, requests: Sequence[Request]) -> dict[str, Generation]:
    for request in requests:
        engine.submit(request)
    found: dict[str, Generation] = {}
    while len(found) < len(requests):
        found |= {records.key: records for records in engine.step()}
    return found


def agree(slow: Slow, requests: Sequence[Request], found: dict[str, Generation]) -> None:
    """What was said has the log-probabilities of merged weights, and of no others."""
    others: list[float] = []
    for request in requests:
        records = found[request.key]
        assert records.logprobs is not None and records.output_tokens == len(records.logprobs)
        reply = request.messages, records.token_ids
        total = sum(records.logprobs)
        name = request.arm.name
        assert total == pytest.approx(slow.logprob(name, request.question, *reply), abs=NEAR)
        question = "What does Tom eat"
        others += [
            abs(total - slow.plain(name, *reply)),
            abs(total - slow.logprob(name, question, *reply)),
            abs(total - slow.logprob("ac".replace(name, ""), request.question, *reply)),
        ]
    assert sum(difference > 100 * NEAR for difference in others) > 0.8 * len(others)


def test_one_batch_of_more_adapters_than_a_step_holds(
    spoken: Experiment, run: Run, engine: VllmLowRankEngine
) -> None:
    requests = asked(spoken, run, QUESTIONS)
    adapters = {(request.arm.name, request.question) for request in requests}
    assert len(adapters) == 10 > KEPT > TOGETHER and len(requests) == 60
    slow = Slow(spoken, policy_of(run))
    agree(slow, requests, answers(engine, requests))
    assert len(list(Path(engine.folder.name).iterdir())) == 10  # all were in use


def test_an_adapter_that_was_thrown_away_comes_back(
    spoken: Experiment, run: Run, engine: VllmLowRankEngine
) -> None:
    """Some are on disk alone, some in vLLM's memory alone, some in neither."""
    slow = Slow(spoken, policy_of(run))
    questions = [question.replace("live", "work") for question in QUESTIONS]
    kept = []
    for question in (*questions, *reversed(questions)):
        requests = asked(spoken, run, [question])
        kept.append(("a", question) in engine.written)
        agree(slow, requests, answers(engine, requests))
        names = {folder.name for folder in Path(engine.folder.name).iterdir()}
        assert names == {str(engine.numbers[key]) for key in engine.written}
        assert len(names) <= KEPT + 1
    assert not any(kept[:5]) and {*kept[5:]} == {True, False}


def test_a_delta_of_zero_is_an_adapter_too(
    spoken: Experiment, run: Run, engine: VllmLowRankEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fitting = "What does Mia like", engine.adapter.fitting

    def changed(requests: Sequence[Request], shape: Shape) -> LowRank:
        low = fitting(requests, shape)
        return replace(low, scale=0.0) if requests[0].question == plain else low

    monkeypatch.setattr(engine.adapter, "fitting", changed)
    requests = asked(spoken, run, [plain, QUESTIONS[0]])
    found = answers(engine, requests)
    slow = Slow(spoken, policy_of(run))
    for request in requests:
        records = found[request.key]
        reply = request.messages, records.token_ids
        wanted = (
            slow.plain(request.arm.name, *reply)
            if request.question == plain
            else slow.logprob(request.arm.name, request.question, *reply)
        )
        assert records.logprobs is not None
        assert sum(records.logprobs) == pytest.approx(wanted, abs=NEAR)


def test_requests_that_are_dropped_do_no_harm(
    spoken: Experiment, run: Run, engine: VllmLowRankEngine
) -> None:
    requests = asked(spoken, run, QUESTIONS[:3])
    for request in requests:
        engine.submit(request)
    engine.step()
    engine.abort()
    assert not engine.step()
    agree(Slow(spoken, policy_of(run)), requests, answers(engine, requests))


def test_the_engine_is_no_part_of_identity(spoken: Experiment, run: Run) -> None:
    pools = [with_changes(spoken, run, engine=name).pool for name in ("transformers", "vllm")]
    for one, two in zip(*pools, strict=True):
        assert (one.fingerprint, one.id) == (two.fingerprint, two.id)
        assert one.engine_key != two.engine_key


def test_the_command_samples_with_it_once(
    spoken: Experiment,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = Shell(spoken.source.parent, capsys, monkeypatch)
    db = tmp_path / "said.duckdb"
    command = ["sample", "experiment.yaml", "--db", str(db), "--split", "test"]
    assert "--policy" in shell(*command, "--engine", "vllm", code=1)
    command += ["--policy", run.name]
    shell(*command, "--engine", "vllm")
    slow, rows = Slow(spoken, policy_of(run)), calls(db, "test")
    assert {row["arm"] for row in rows} == {"a", "b", "c"} and len(rows) > 30
    assert len({row["question"] for row in rows}) == 3
    for row in rows:
        wanted = slow.logprob(row["arm"], row["question"], row["messages"], row["token_ids"])
        assert sum(row["logprobs"]) == pytest.approx(wanted, abs=NEAR)
    before = facts(db)
    for engine in ("vllm", "transformers"):  # of either, the replies have the same keys
        assert "0 generations made" in shell(*command, "--engine", engine)
    assert facts(db) == before


def test_without_the_flag_no_logprobs_and_after_a_failure_nothing(
    spoken: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that vLLM cannot read ends the engine in words, and it never hangs after."""
    requests = asked(spoken, run, QUESTIONS[:2])
    engine = make_engine(requests[0].arm, False)
    assert isinstance(engine, VllmLowRankEngine)
    assert all(records.logprobs is None for records in answers(engine, requests[:3]).values())
    monkeypatch.setattr(vllm_lora, "save_file", lambda tensors, file: file.write_bytes(b"?"))
    with pytest.raises(EngineError, match="vLLM failed"):
        answers(engine, asked(spoken, run, QUESTIONS[3:]))
    for again in (engine.step, lambda: engine.submit(requests[0])):
        with pytest.raises(EngineError, match="vLLM failed"):
            again()
    engine.abort()
    folder = Path(engine.folder.name)
    engine.close()
    assert not folder.exists()


def test_what_vllm_cannot_serve_is_refused_before_it_loads(spoken: Experiment, run: Run) -> None:
    arm = with_changes(spoken, run, engine="vllm").pool[0]
    quantised = arm.model_config.model_copy(update={"quantization": "fp8"})
    with pytest.raises(EngineError, match="quantised or adapted"):
        make_engine(replace(arm, model_config=quantised), True)
    with pytest.raises(EngineError, match="rank up to 512"):
        vllm_lora._arguments(arm, 513)
    with pytest.raises(EngineError, match="not finite"):
        low = LowRank(torch.full((1, 4, 1), torch.nan), torch.zeros(1, 1, 4), 1.0)
        write_adapter(Path("nowhere"), low, range(1))
