"""What all tests share: hypothesis settings, a cache of their own, and one sampled experiment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.experiments import load, settings, write_scripts
from hypothesis import settings as profile

from hcache.experiment import Experiment
from hcache.sampling import Sampler

profile.register_profile("local", deadline=None)
profile.register_profile("ci", deadline=None, derandomize=True)
profile.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of weights are remembered in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Ctrl-C and SIGHUP act, even in the background or under nohup, where they would be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread for torch, where a test has imported it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A scripted experiment of two arms and two hops, sampled; tests only read it."""
    folder = tmp_path_factory.mktemp("sampled")
    write_scripts(folder, "ab")
    experiment = load(folder, settings("ab"))
    Sampler(experiment).run()
    return experiment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the scripts of arms a, b and c."""
    write_scripts(tmp_path, "abc")
    return tmp_path
