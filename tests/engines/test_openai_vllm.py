"""A real vLLM server says what vLLM in process says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import load
from helpers.paths import ROOT
from helpers.servers import free_port

from hcache.checking import check_database
from hcache.engines.vllm import CPU_ONLY, QUIET
from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.sampling import Sampler
from hcache.sampling.tally import Tally
from hcache.store import Store

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]

MODEL = ROOT / "data" / "demo" / "models" / "calculator"
WINDOW = 256
SECONDS = 300  # for the server to start, on a busy machine
SAID = """
select a.name, g.messages_id, g.sample, g.text, g.token_ids, g.prompt_tokens, g.output_tokens,
       g.finish_reason, g.prompt_key
from generations g join arms a using (fingerprint) order by all
"""
TREE = "select query_id, replica, sequence, output from trajectories order by all"


class Server:
    """A server of one of the demo's models, under the name `calc`."""

    def __init__(self, log: Path) -> None:
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL),
            "--served-model-name", "calc", "--dtype", "float32", "--max-model-len", str(WINDOW),
            "--enforce-eager", "--block-size", "32", "--host", "127.0.0.1",
            "--port", str(self.port), "--generation-config", "vllm",
        ]  # fmt: skip
        environment = os.environ | QUIET | CPU_ONLY | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        _wait(f"http://127.0.0.1:{self.port}/health", self.process, self.log)

    def kill(self) -> None:
        """End it and the process of its engine at once, as if their machine had gone."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log.txt")
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(started: Server) -> str:
    """Its base URL."""
    return started.url


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def experiment_of(folder: Path, name: str, model: dict[str, Any], questions: int) -> Experiment:
    """Two arms and two hops."""
    source = {"path": str(ROOT / "data" / "demo" / "questions" / "test.jsonl"), "limit": questions}
    raw = {
        "name": name,
        "db": f"{name}.duckdb",
        "workflow": {"name": "relay", "hops": 2, "separator": "\n"},
        "models": {"m": {"dtype": "float32", "max_model_len": WINDOW, **model}},
        "arms": {
            "short": {"model": "m", "max_tokens": 2},
            "long": {"model": "m", "max_tokens": 16},
        },
        "data": {"demo": {"sources": {"test": source}}},
    }
    return load(folder, raw)


def sampled(folder: Path, name: str, model: dict[str, Any], questions: int = 6) -> Path:
    """A database that was sampled."""
    experiment = experiment_of(folder, name, model, questions)
    tally = Sampler(experiment, splits=["test"]).run()
    assert tally.complete == questions and not tally.missing
    assert not check_database(experiment.db).faults
    return experiment.db


def remote(url: str, **further: Any) -> dict[str, Any]:
    server = {"endpoints": [url], "retries": 1}
    return {"path": "calc", "engine": "openai", "server": server, **further}


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store(db) as store:
        return store.sql(sql).rows()


def test_replies_equal_those_of_the_engine_in_process(server: str, tmp_path: Path) -> None:
    ids = {"return_token_ids": True, "skip_special_tokens": False}
    there = sampled(tmp_path, "there", remote(server, engine_args=ids))
    here = sampled(tmp_path, "here", {"path": str(MODEL)})
    assert len(rows(here, SAID)) > 12
    assert rows(there, SAID) == rows(here, SAID)
    assert rows(there, TREE) == rows(here, TREE)


def test_counts_alone_are_enough(server: str, tmp_path: Path) -> None:
    db = sampled(tmp_path, "plain", remote(server))
    said = rows(db, "select token_ids, output_tokens, prompt_tokens, text from generations")
    assert all(ids == [] and out > 0 and prompt > 0 for ids, out, prompt, _ in said)
    facts = rows(db, "select facts from provenance")
    assert all('"model":"calc"' in fact for (fact,) in facts)


def test_a_prompt_beyond_the_window_is_an_outcome(server: str, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(
        '{"question": "' + "What is: 1 + 2 " * 200 + '", "answer": "3"}\n'
        '{"question": "What is: 1 + 2", "answer": "3"}\n'
    )
    raw = {
        "name": "long", "db": "long.duckdb", "workflow": {"name": "relay", "hops": 1},
        "models": {"m": remote(server)}, "arms": {"a": {"model": "m", "max_tokens": 4}},
        "data": {"d": {"sources": {"test": {"path": "long.jsonl"}}}},
    }  # fmt: skip
    experiment = load(tmp_path, raw)
    assert Sampler(experiment, splits=["test"]).run().complete == 2
    assert sorted(rows(experiment.db, "select finish_reason, prompt_tokens > 0 from generations"))[
        -1
    ] == ("too_long", False)


def test_killed_in_the_middle_nothing_is_lost_or_asked_twice(
    started: Server, tmp_path: Path
) -> None:
    """What was finished is kept; with the server back, the same run makes the rest alone."""
    settings = remote(
        started.url, engine_args={"return_token_ids": True, "skip_special_tokens": False}
    )
    settings["server"]["concurrency"] = 2

    def kill_soon(tally: Tally) -> None:
        if sum(tally.generated.values()) >= 10:
            started.kill()

    experiment = experiment_of(tmp_path, "there", settings, 12)
    with pytest.raises(EngineError, match=r"models\.m"):
        Sampler(experiment, splits=["test"], on_progress=kill_soon).run()
    kept = rows(experiment.db, "select count(*) from generations")[0][0]
    assert kept >= 10
    started.start()
    tally = Sampler(experiment, splits=["test"]).run()
    here = sampled(tmp_path, "here", {"path": str(MODEL)}, questions=12)
    assert rows(experiment.db, SAID) == rows(here, SAID)
    assert rows(experiment.db, TREE) == rows(here, TREE)
    assert sum(tally.generated.values()) == len(rows(here, SAID)) - kept > 0
    assert not check_database(experiment.db).faults
