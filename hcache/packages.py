"""Installed distributions and their versions, asked without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hcache.errors import ConfigError


def installed_version(package: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(package: str, extra: str) -> ConfigError:
    """Error that says which of hcache's extras brings an optional package."""
    return ConfigError(
        f"this needs the Python package {package}, which is not installed.",
        f'Install it with: pip install "hcache[{extra}]"',
    )
