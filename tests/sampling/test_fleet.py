"""Sampling with engines in worker processes: the same content, whoever ends meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import SPLITS, digest_of, load, settings, table, write_scripts
from helpers.fleets import ALL, processes, weighty
from helpers.paths import ROOT
from helpers.processes import runs

from hcache.engines import devices
from hcache.engines.devices import Device
from hcache.engines.fleet import Fleet
from hcache.engines.placement import GIB
from hcache.errors import ConfigError, EngineError
from hcache.experiment import Experiment
from hcache.sampling import Sampler, Tally, placing
from hcache.sampling.placing import placement_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one process samples."""
    folder = tmp_path_factory.mktemp("alone")
    write_scripts(folder, "ab")
    experiment = load(folder, weighty())
    assert placement_of(load(folder, weighty(), "sampling.workers=1")) is None
    Sampler(experiment).run()
    return digest_of(experiment.db)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scripts(tmp_path, "ab")
    return tmp_path


def fleet_of(experiment: Experiment) -> Fleet:
    placement = placement_of(experiment)
    assert placement is not None
    return Fleet(placement, experiment.pool)


def sample(experiment: Experiment, fleet: Fleet) -> Tally:
    return Sampler(experiment, fleet, workers=len(fleet.workers), swap=fleet.swap).run()


@pytest.mark.parametrize(("workers", "schedule"), [(2, "resident"), (3, "resident"), (2, "swap")])
def test_content_is_that_of_one_process(
    workers: int, schedule: str, folder: Path, expected: str
) -> None:
    experiment = load(folder, weighty(workers, schedule))
    fleet = fleet_of(experiment)
    tally = sample(experiment, fleet)
    assert sum(tally.generated.values()) == ALL and tally.complete == sum(SPLITS.values())
    assert digest_of(experiment.db) == expected
    found = processes(experiment)
    assert len(found) >= workers and os.getpid() not in found and not any(map(runs, found))
    assert fleet.deaths == 0


def test_a_worker_that_dies_is_replaced_and_nothing_is_made_twice(
    folder: Path, expected: str
) -> None:
    (folder / "dies").mkdir()
    for question in ("train0", "train2", "test0"):
        (folder / "dies" / question).write_text("1")
    experiment = load(folder, weighty(dies=str(folder / "dies")))
    fleet = fleet_of(experiment)
    tally = sample(experiment, fleet)
    assert fleet.deaths == 3
    assert sum(tally.generated.values()) == ALL == len(table(experiment.db, "generations"))
    assert digest_of(experiment.db) == expected


def test_a_worker_that_always_dies_is_an_error_and_what_was_finished_is_kept(
    folder: Path, expected: str
) -> None:
    (folder / "dies").mkdir()
    (folder / "dies" / "valid0").write_text("1000")
    raw = weighty(dies=str(folder / "dies"))
    with pytest.raises(EngineError, match=r"was ended by SIGKILL.*3 times") as raised:
        sample(load(folder, raw), fleet_of(load(folder, raw)))
    assert "what was finished is kept" in raised.value.hint
    before = len(table(folder / "small.duckdb", "generations"))
    (folder / "dies" / "valid0").unlink()
    experiment = load(folder, raw)
    tally = sample(experiment, fleet_of(experiment))
    assert sum(tally.generated.values()) == ALL - before
    assert digest_of(experiment.db) == expected


@pytest.mark.parametrize(
    ("error", "said"),
    [("memory", r"models\.a: its engine failed in a worker process \(MemoryError: no room\)"),
     ("engine", r"^no\.")],
)  # fmt: skip
def test_an_engine_that_fails_is_given_up_the_others_go_on(
    error: str, said: str, folder: Path
) -> None:
    raw = weighty()
    raw["models"]["a"]["engine_args"] = {"error": error}
    experiment = load(folder, raw)
    with pytest.raises(EngineError, match=said):
        sample(experiment, fleet_of(experiment))
    made = table(experiment.db, "generations")
    assert set(made["fingerprint"]) == {experiment.pool[1].fingerprint}
    assert len(made) == 2 * sum(SPLITS.values())  # b, and b after b


def test_an_arm_that_is_refused_is_given_up_its_engine_goes_on(folder: Path) -> None:
    raw = weighty()
    raw["models"]["a"]["engine_args"] = {"refuses": "train"}
    experiment = load(folder, raw)
    with pytest.raises(EngineError, match=r"arms\.a: it will not\. Ask another\.$"):
        sample(experiment, fleet_of(experiment))
    assert len(table(experiment.db, "generations")) >= 2 * sum(SPLITS.values())


def test_a_request_without_a_reply_is_missing_all_else_goes_on(folder: Path) -> None:
    raw = weighty()
    raw["models"]["a"]["engine_args"] = {"silent": "train0"}
    experiment = load(folder, raw)
    with pytest.raises(EngineError, match=r"^no reply\. Ask another\.$"):
        sample(experiment, fleet_of(experiment))
    made = Counter(table(experiment.db, "trajectories")["query_id"])
    (lost,) = [query for query in experiment.queries() if "train0" in query.question]
    each = experiment.workflow.trajectories(2)
    assert made[lost.id] < each
    assert {made[query.id] for query in experiment.queries() if query != lost} == {each}


# Memory


@pytest.fixture
def two_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two GPUs of 10 GiB each, as far as planning goes, and the ledgers of what is taken."""
    ledgers = folder / "ledgers"
    ledgers.mkdir()
    gpus = tuple(Device(n, str(n), 10 * GIB, 9 * GIB) for n in range(2))
    for gpu in gpus:
        (ledgers / gpu.name).write_text(str(gpu.memory))
    monkeypatch.setattr(placing, "has_gpu", lambda: True)
    monkeypatch.setattr(placing, "find_gpus", lambda asked: gpus[:asked])
    yield ledgers


@pytest.mark.parametrize(
    ("workers", "gib", "posts", "swap"),
    [
        (2, (1, 1), {("0", "ab"), ("1", "ab")}, False),  # replicas
        (2, (6, 6), {("0", "a"), ("1", "b")}, False),  # each its own
        (1, (2, 2), {("0", "ab")}, False),  # two models share one device
        (1, (6, 6), {("0", "a"), ("0", "b")}, True),  # one at a time
        (2, (12, 1), {("0,1", "a"), ("0", "b"), ("1", "b")}, None),  # one over both
    ],
)
def test_workers_keep_to_the_memory_there_is(
    workers: int,
    gib: tuple[int, int],
    posts: set[tuple[str, str]],
    swap: bool | None,
    folder: Path,
    two_gpus: Path,
    expected: str,
) -> None:
    raw = weighty(workers, budget=str(two_gpus))
    for model, size in zip(raw["models"].values(), gib, strict=True):
        model["engine_args"] = model["engine_args"] | {"bytes": size * GIB}
    experiment = load(folder, raw)
    fleet = fleet_of(experiment)
    found = {
        (",".join(device.name for device in worker.post.group),
         "".join(sorted(seat.model for seat in worker.post.seats)))
        for worker in fleet.workers
    }  # fmt: skip
    assert found == posts
    assert swap is None or fleet.swap is swap
    sample(experiment, fleet)
    assert digest_of(experiment.db) == expected


def test_a_model_too_large_for_all_devices_is_an_error_before_anything_is_loaded(
    folder: Path, two_gpus: Path
) -> None:
    experiment = load(folder, weighty(bytes=20 * GIB, budget=str(two_gpus)))
    with pytest.raises(ConfigError, match=r"models\.[ab]: needs 22\.0 GiB"):
        placement_of(experiment)


def test_engines_of_one_process_share_its_gpu(
    folder: Path, two_gpus: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    experiment = load(folder, weighty(bytes=2 * GIB, budget=str(two_gpus)))
    Sampler(experiment).run()
    assert digest_of(experiment.db) == expected
    shares = [float(line.split()[1]) for line in (two_gpus / "0.taken").read_text().splitlines()]
    assert len(shares) == 2 and 0.88 < sum(shares) <= 0.9


def test_models_that_load_nothing_need_no_worker(folder: Path, two_gpus: Path) -> None:
    raw = settings("ab", sampling={"workers": 2})
    assert placement_of(load(folder, raw)) is None


def test_half_the_cores_work_unless_memory_is_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "own_cores", lambda: list(range(16)))
    monkeypatch.setattr(placing, "free_memory", lambda: 100 * GIB)
    raw = weighty()
    raw["sampling"] = {}
    for gib, workers in ((1, 8), (10, 8), (20, 4), (40, 2), (60, 0)):
        for model in raw["models"].values():
            model["engine_args"] = {"bytes": gib * GIB}
        placement = placement_of(load(folder, raw))
        assert (len(placement.posts) if placement else 0) == workers


def test_a_run_with_nothing_to_make_needs_no_place(
    folder: Path, two_gpus: Path, capsys: Any
) -> None:
    from hcache.commands.sampling import sample as command

    def run(gib: int) -> None:
        load(folder, weighty(1, bytes=gib * GIB, budget=str(two_gpus)))
        command(folder / "experiment.yaml", folder / "small.duckdb", split="train,valid,test")

    with pytest.raises(ConfigError, match=r"needs 22\.0 GiB"):
        run(20)
    assert not list(two_gpus.glob("*.taken"))
    run(1)
    run(20)
    assert "0 generations made" in capsys.readouterr().out


# Ends


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from hcache.engines.fleet import Fleet
from hcache.experiment import Experiment
from hcache.processes.signals import ending_signals
from hcache.sampling import Sampler
from hcache.sampling.placing import placement_of

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    experiment = Experiment.load(folder / "experiment.yaml", (), folder / "small.duckdb")
    fleet = Fleet(placement_of(experiment), experiment.pool)
    def tell(tally):
        pids = [str(worker.host.pid) for worker in fleet.workers if worker.host]
        print(sum(tally.generated.values()), *pids, flush=True)
    with ending_signals() as request:
        try:
            Sampler(experiment, fleet, workers=2, on_progress=tell).run()
        except KeyboardInterrupt:
            sys.exit(request.exit_code)
"""


@contextmanager
def driver(folder: Path, made: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that samples, once so many generations are made, with its workers."""
    (folder / "driver.py").write_text(DRIVER.format(tests=str(ROOT / "tests")))
    command = [sys.executable, str(folder / "driver.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            count, *pids = map(int, line.split())
            if count >= made:
                break
        try:
            yield process, pids
        finally:
            process.kill()


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(runs, pids))


@pytest.mark.parametrize(
    ("ending", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGKILL", -9)]
)
@pytest.mark.parametrize("made", [1, 20])
def test_no_worker_outlives_the_driver_and_nothing_is_lost(
    ending: str, code: int, made: int, folder: Path, expected: str
) -> None:
    raw = weighty(slow=0.05)
    load(folder, raw)
    with driver(folder, made) as (process, pids):
        assert pids and all(map(runs, pids))
        process.send_signal(signal.Signals[ending])
        assert process.wait(30) == code
        assert gone(pids)
    experiment = load(folder, raw)
    tally = sample(experiment, fleet_of(experiment))
    assert sum(tally.generated.values()) <= ALL - made
    assert digest_of(experiment.db) == expected


def test_workers_that_are_killed_again_and_again_lose_nothing(folder: Path, expected: str) -> None:
    """Whenever a worker has answered something, one is killed from outside."""
    experiment = load(folder, weighty(slow=0.02))
    fleet = fleet_of(experiment)
    killed: set[int] = set()

    def kill(tally: Tally) -> None:
        for worker in fleet.workers:
            process = worker.host
            if process and worker.answered > 4 * len(killed) and len(killed) < 5:
                assert process.pid is not None
                if process.pid not in killed:
                    killed.add(process.pid)
                    os.kill(process.pid, signal.SIGKILL)

    Sampler(experiment, fleet, workers=2, on_progress=kill).run()
    assert killed and fleet.deaths >= 1
    assert digest_of(experiment.db) == expected


def test_the_plan_shows_the_workers(folder: Path, two_gpus: Path, capsys: Any) -> None:
    from hcache.commands.sampling import plan

    load(folder, weighty(bytes=GIB))
    plan(folder / "experiment.yaml", folder / "small.duckdb", workers="1")
    said = capsys.readouterr().out
    assert "workers" in said and "GPU 0" in said and "GPU 1" not in said
