"""Sampling with engines in actors of a Ray cluster: the same content, whoever ends meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import SPLITS, digest_of, load, settings, table, write_scripts
from helpers.fleets import ALL, processes, weighty
from helpers.paths import ROOT
from helpers.processes import descendants, runs

from hcache.engines import fleet as fleets
from hcache.engines import ray_cluster
from hcache.engines.fleet import Fleet
from hcache.engines.placement import GIB
from hcache.errors import ConfigError, EngineError
from hcache.experiment import Experiment
from hcache.sampling import Sampler, Tally
from hcache.sampling.placing import Serving, planned_placement, serving
from hcache.store.spool import shards_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each, which `workers: ray` finds."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        patch.setenv("PYTHONPATH", paths)
        args = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
        made = Cluster(initialize_head=True, head_node_args=args)
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def gpus(cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A node with two GPUs of 10 GiB joins; the ledgers of what is taken of them."""
    ledgers, bin = folder / "ledgers", folder / "bin"
    for made in (ledgers, bin):
        made.mkdir()
    for gpu in range(2):
        (ledgers / str(gpu)).write_text(str(10 * GIB))
    (bin / "nvidia-smi").write_text(SMI)
    (bin / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    node = cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=100 << 20)
    yield ledgers
    cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one process samples."""
    folder = tmp_path_factory.mktemp("alone")
    write_scripts(folder, "ab")
    experiment = load(folder, weighty("ray"))
    Sampler(experiment).run()
    return digest_of(experiment.db)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scripts(tmp_path, "ab")
    return tmp_path


def served(experiment: Experiment) -> tuple[Serving, Fleet]:
    found = serving(experiment)
    assert found.fleet is not None
    return found, found.fleet


def sample(experiment: Experiment, found: Serving, **how: Any) -> Tally:
    assert found.fleet is not None
    with closing(found.fleet):
        how |= {"workers": found.workers, "swap": found.swap}
        return Sampler(experiment, found.factory, **how).run()


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(runs, pids))


def test_content_is_that_of_one_process(cluster: Any, folder: Path, expected: str) -> None:
    experiment = load(folder, weighty("ray", slow=0.05))
    found, fleet = served(experiment)
    assert len(fleet.workers) == 2
    tally = sample(experiment, found)
    assert sum(tally.generated.values()) == ALL and tally.complete == sum(SPLITS.values())
    assert digest_of(experiment.db) == expected
    made = processes(experiment)
    assert os.getpid() not in made and gone([*made])
    assert fleet.deaths == 0 and not shards_path(experiment.db).exists()


def test_an_actor_that_is_killed_is_asked_for_anew_and_nothing_is_made_twice(
    cluster: Any, folder: Path, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load(folder, weighty("ray", slow=0.05))
    found, fleet = served(experiment)
    killed: set[int] = set()

    def kill(tally: Tally) -> None:
        for worker in fleet.workers:
            host = worker.host
            if worker.answered and not killed and host is not None and host.pid is not None:
                killed.add(host.pid)
                os.kill(host.pid, signal.SIGKILL)

    tally = sample(experiment, found, on_progress=kill)
    assert killed and fleet.deaths == 1
    assert sum(tally.generated.values()) == ALL == len(table(experiment.db, "generations"))
    assert digest_of(experiment.db) == expected
    assert capsys.readouterr().out == ""  # Ray has notices of its own


def test_an_actor_that_always_dies_is_an_error_and_what_was_finished_is_kept(
    cluster: Any, folder: Path, expected: str
) -> None:
    (folder / "dies").mkdir()
    (folder / "dies" / "valid0").write_text("1000")
    raw = weighty("ray", dies=str(folder / "dies"))
    experiment = load(folder, raw)
    found, _ = served(experiment)
    with pytest.raises(EngineError, match=r"was killed, perhaps for want of memory, 3 times"):
        sample(experiment, found)
    (folder / "dies" / "valid0").unlink()
    before = len(table(experiment.db, "generations"))
    tally = sample(experiment, serving(experiment))
    assert 0 < sum(tally.generated.values()) <= ALL - before
    assert digest_of(experiment.db) == expected
    assert not shards_path(experiment.db).exists()


def test_an_engine_out_of_memory_is_given_up_the_others_go_on(cluster: Any, folder: Path) -> None:
    raw = weighty("ray")
    raw["models"]["a"]["engine_args"] = {"error": "memory"}
    experiment = load(folder, raw)
    found, _ = served(experiment)
    with pytest.raises(
        EngineError, match=r"models\.a: its engine failed.*\(MemoryError: no room\)"
    ):
        sample(experiment, found)
    assert len(table(experiment.db, "generations")) == 2 * sum(SPLITS.values())


def test_a_node_that_goes_takes_nothing_with_it(cluster: Any, folder: Path, expected: str) -> None:
    """A third node joins, and goes with its actor while that answers, for which it takes long."""
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    experiment = load(folder, weighty("ray", slow=2))
    found, fleet = served(experiment)
    (there,) = [w for w in fleet.workers if w.post.group[0].node == node.node_id]
    went: list[int] = []

    def take_away(tally: Tally) -> None:
        if there.owed and there.host is not None and there.host.pid and not went:
            went.append(there.host.pid)
            cluster.remove_node(node, allow_graceful=False)

    tally = sample(experiment, found, on_progress=take_away)
    assert went and fleet.deaths >= 1 and gone(went)
    assert sum(tally.generated.values()) == ALL and digest_of(experiment.db) == expected


def test_those_that_have_a_place_answer_for_one_that_has_none(
    cluster: Any, folder: Path, expected: str
) -> None:
    """Somebody else has one of the two cores for as long as the run lasts."""
    experiment = load(folder, weighty("ray"))
    found, fleet = served(experiment)
    taken = _occupy()
    tally = sample(experiment, found)
    assert sum(tally.generated.values()) == ALL and digest_of(experiment.db) == expected
    assert len(processes(experiment)) == 1 and fleet.deaths == 0
    del taken


def _occupy() -> Any:
    """An actor of somebody else with a core of its own."""
    import ray

    class Other:
        def there(self) -> bool:
            return True

    actor = ray.remote(num_cpus=1)(Other).remote()
    assert ray.get(actor.there.remote())
    return actor


def test_a_model_without_a_place_is_given_up_in_time(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "PLACE_SECONDS", 1.0)
    experiment = load(folder, weighty("ray"))
    found, _ = served(experiment)
    taken = [_occupy(), _occupy()]
    with pytest.raises(EngineError, match=r"models\.a: no worker of it could be placed for 1 s"):
        sample(experiment, found)
    del taken


# GPUs


SMI = """#!/bin/sh
echo "0, GPU-0, 10240, 9216"
echo "1, GPU-1, 10240, 9216"
"""


@pytest.mark.parametrize(
    ("gib", "on"), [((1, 1), {("1", "ab")}), ((12, 1), {("2", "a"), ("1", "b")})]
)
def test_actors_ask_for_the_gpus_that_their_models_are_split_over(
    gib: tuple[int, int], on: set[tuple[str, str]], gpus: Path, folder: Path, expected: str
) -> None:
    """Models of a worker share its GPUs; where they do not fit, they take turns."""
    raw = weighty("ray", budget=str(gpus))
    for model, size in zip(raw["models"].values(), gib, strict=True):
        model["engine_args"] = model["engine_args"] | {"bytes": size * GIB}
    experiment = load(folder, raw)
    found, fleet = served(experiment)
    places = {
        (str(len(w.post.group)), "".join(sorted(seat.model for seat in w.post.seats)))
        for w in fleet.workers
    }
    assert places == on
    sample(experiment, found)
    assert digest_of(experiment.db) == expected


def test_a_model_split_over_more_gpus_than_a_node_has_is_refused(gpus: Path, folder: Path) -> None:
    experiment = load(folder, weighty("ray", tensor_parallel_size=4))
    with pytest.raises(ConfigError, match=r"split over 4 devices; 2 can be used on one node"):
        planned_placement(experiment)


# Without a cluster


def test_ray_that_is_not_installed_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    experiment = load(folder, weighty("ray"))
    with pytest.raises(ConfigError, match=r"package ray, which is not.*hcache\[ray\]"):
        sample_alone(experiment)


@pytest.mark.parametrize("setting", ["ray", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_said_at_once_and_planned_later(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from hcache.commands.sampling import plan

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    experiment = load(folder, weighty(setting))
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 cannot be reached \(.*refused"):
        sample_alone(experiment)
    plan(folder / "experiment.yaml", folder / "small.duckdb")
    assert "planned once their cluster answers" in " ".join(capsys.readouterr().out.split())


def test_models_that_load_nothing_need_no_cluster(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    experiment = load(folder, settings("ab", sampling={"workers": "ray"}))
    assert planned_placement(experiment) == (None, "")
    assert sample_alone(experiment).complete == sum(SPLITS.values())


def test_a_run_with_nothing_to_make_needs_no_cluster(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    Sampler(load(folder, weighty("ray"))).run()
    assert not sample_alone(load(folder, weighty("ray"))).generated


@pytest.mark.parametrize(
    "workers", ["rays", "ray://", "ray://host", "ray://a:b", "0", "1025", "-1"]
)
def test_what_is_neither_a_number_nor_ray_is_refused(workers: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no number from 1 to 1024, ray or ray://HOST:PORT"):
        load(folder, weighty(workers))


def sample_alone(experiment: Experiment) -> Tally:
    return Sampler(experiment, serving(experiment).factory).run()


def test_without_a_cluster_one_is_started_here_and_ends_with_the_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    load(folder, weighty("ray", slow=0.5))
    with driver(folder, 1) as (process, pids):
        below = [pid for pid in descendants(process.pid) if not is_agent(pid)]
        assert {*pids} < {*below} and len(below) >= len(
            pids
        ) + 2  # a raylet, and the cluster's head
        process.send_signal(signal.SIGKILL)
        assert gone(below)


def is_agent(pid: int) -> bool:
    """Whether it is an agent of a node, which Ray lets live a minute longer."""
    return "Agent" in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_node_that_has_just_died_is_no_node(cluster: Any) -> None:
    """A cluster takes seconds to notice; the node is asked what GPUs it has, and cannot say."""
    node = cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=100 << 20)
    cluster.remove_node(node, allow_graceful=False)
    with closing(ray_cluster.Cluster("ray")) as found:
        assert [each.cpus for each in found.nodes] == [1, 1]
        assert found.gpus == []


# Ends


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from hcache.experiment import Experiment
from hcache.processes.signals import end_now, ending_signals
from hcache.sampling import Sampler
from hcache.sampling.placing import serving

if __name__ == "__main__":
    folder, code = Path(sys.argv[1]), 0
    experiment = Experiment.load(folder / "experiment.yaml", (), folder / "small.duckdb")
    with ending_signals() as request:
        found = serving(experiment)
        def tell(tally):
            workers = found.fleet.workers if found.fleet else ()  # without one, run() says why
            pids = [str(worker.host.pid) for worker in workers if worker.ready]
            print(sum(tally.generated.values()), *pids, flush=True)
        try:
            sampler = Sampler(experiment, found.factory, workers=found.workers, on_progress=tell)
            sampler.run()
        except KeyboardInterrupt:
            code = request.exit_code
        end_now(code)
"""


@contextmanager
def driver(folder: Path, made: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that samples, once so many generations are made, with its actors."""
    (folder / "driver.py").write_text(DRIVER.format(tests=str(ROOT / "tests")))
    command = [sys.executable, str(folder / "driver.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids: list[int] = []
        for line in process.stdout:
            count, *pids = map(int, line.split())
            if count >= made:
                break
        try:
            yield process, pids
        finally:
            process.kill()


@pytest.mark.parametrize(("ending", "code"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_no_actor_outlives_the_driver_and_nothing_is_lost(
    ending: str, code: int, cluster: Any, folder: Path, expected: str
) -> None:
    raw = weighty("ray", slow=0.2)
    load(folder, raw)
    with driver(folder, 10) as (process, pids):
        assert pids and all(map(runs, pids))
        process.send_signal(signal.Signals[ending])
        assert process.wait(30) == code
        assert gone(pids)
    experiment = load(folder, raw)
    tally = sample(experiment, serving(experiment))
    assert sum(tally.generated.values()) <= ALL - 10
    assert len(table(experiment.db, "generations")) == ALL
    assert digest_of(experiment.db) == expected
    assert not list(shards_path(experiment.db).glob("*"))
