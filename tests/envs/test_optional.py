"""Optional packages that are missing: the error names the extra that brings them."""

from __future__ import annotations

import importlib
import sys

import pytest

import hcache.envs.minari
import hcache.envs.torchrl  # noqa: F401
from hcache.errors import ConfigError


@pytest.mark.parametrize(
    ("package", "module", "way_out"),
    [
        ("gymnasium", "hcache.envs", r'pip install "hcache\[envs\]"'),
        ("minari", "hcache.envs.minari", r'pip install "hcache\[envs\]"'),
        ("h5py", "hcache.envs.minari", r'pip install "hcache\[envs\]"'),
        ("torchrl.data", "hcache.envs.torchrl", r'pip install "hcache\[torchrl\]"'),
    ],
)
def test_a_missing_package_has_a_way_out(
    monkeypatch: pytest.MonkeyPatch, package: str, module: str, way_out: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigError, match=way_out):
        importlib.import_module(module)
