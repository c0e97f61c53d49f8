"""The experiment file: YAML in, settings out, errors that name the place and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from hcache.config.prices import with_prices
from hcache.config.schema import ExperimentConfig, Section, TrainConfig
from hcache.config.yaml import load_yaml
from hcache.errors import ConfigError
from hcache.keys import well_formed
from hcache.plugins import did_you_mean

S = TypeVar("S", bound=Section)

SHOWN = 200  # characters of a value that an error repeats
_SECRET = re.compile(
    r"(^|[._])(api_?key|(hf|auth|access|bearer)_token|password|passwd|secret)$", re.IGNORECASE
)
_PASSWORD = re.compile(r"://[^\s/@:]*:[^\s/@]+@")  # of a URL
EXAMPLE = "data/demo/experiment.yaml is one to start from."


def parse_settings(settings: type[S], values: Mapping[str, Any], place: str) -> S:
    """Settings from names and values; `place` is where they stand, for errors.

    Raises:
        ConfigError: naming what is unknown or out of its limits, and what would be right.
    """
    try:
        return settings.model_validate(dict(values))
    except ValidationError as error:
        raise refused(error, settings, place) from error


def read_config(
    path: Path, overrides: Sequence[str] = (), algo: str | None = None
) -> ExperimentConfig:
    """Read and validate an experiment file, with `a.b.c=value` overrides applied.

    Prices that name an entry of the list `prices` are its numbers then. `algo` takes the place of
    `train.algo`, with its own settings in place of those of that. A file may say
    `base: OTHER.yaml`, a file beside it whose settings hold where it says nothing.

    Raises:
        ConfigError: naming the file, the place in it, what is wrong and what would be right.
    """
    raw = _read_mapping(path)
    if algo is not None:
        raw["train"] = _train_of(raw, algo, path)
    for override in overrides:
        _set(raw, override)
    raw.setdefault("name", path.stem)
    return parse_config(with_prices(raw, path), str(path))


def _train_of(raw: dict[str, Any], algo: str, path: Path) -> dict[str, Any]:
    """The section `train` for an algorithm."""
    try:
        train = TrainConfig.model_validate(raw.get("train", {}))
    except ValidationError as error:
        raise refused(error, TrainConfig, f"{path}: train") from error
    return train.of(algo).model_dump(mode="json")


def _read_mapping(path: Path) -> dict[str, Any]:
    """The settings of a file, over those of its base."""
    raw = read_yaml(path, hint=EXAMPLE)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or Path(base).name != base:
        raise ConfigError(
            f"{path}: base: {base!r} is no file beside it.", "Name one, like experiment.yaml"
        )
    below = read_yaml(path.parent / base, hint=EXAMPLE)
    if "base" in below:
        raise ConfigError(
            f"{path}: base: {base} has a base itself.",
            "One level is all there is: put the settings of that one into the other.",
        )
    return _merged(below, raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two mappings, the second over the first, section by section; a price is one with its unit.

    A null takes a setting of the first away (JSON Merge Patch, RFC 7396).
    """
    sections = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if key != "price" and isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    gone = {key for key, value in above.items() if value is None and key in below}
    whole = below | above | sections
    return {key: value for key, value in whole.items() if key not in gone}


def read_yaml(path: Path, hint: str, place: str = "") -> dict[str, Any]:
    """Mapping of a YAML file, in which no key may stand twice.

    `place` is the setting that names the file, and `hint` says what one looks like, for errors.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is no mapping.
    """
    name = f"{place}: {path}" if place else str(path)
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{name}: cannot read the file ({error.strerror}).", hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: not UTF-8 (byte {error.start}).", "Save it as UTF-8."
        ) from error
    except ValueError as error:  # NUL in its name
        raise ConfigError(f"{name}: cannot read the file ({error}).", hint) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: {_problem(error)}.", hint) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: no YAML mapping.", hint)
    return raw


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or "not YAML"


def parse_config(raw: dict[str, Any], source: str) -> ExperimentConfig:
    """Validate an experiment given as a mapping; `source` is what errors call it.

    Raises:
        ConfigError: naming the place, what is wrong and what would be right; a secret is refused.
    """
    for place in _secrets(raw):
        raise ConfigError(
            f"{source}: {place} holds a secret, which would stand in databases and manifests.",
            "Give it in the environment, such as HF_TOKEN, and take it out here.",
        )
    try:
        return ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        raise refused(error, ExperimentConfig, source) from error


def _secrets(value: object, place: str = "") -> Iterator[str]:
    """Places of texts that are secrets by their key, and of URLs with a password."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _secrets(part, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _secrets(part, f"{place}.{number}")
    elif isinstance(value, str) and (_SECRET.search(place) or _PASSWORD.search(value)):
        yield place


def _set(raw: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError(f"--set {override}: not of the form place=value.", "Like train.alpha=0.1")
    if well_formed(override) != override:
        raise ConfigError(f"--set {override}: not UTF-8.", "Give it in UTF-8.")
    *parents, last = place.split(".")
    node = raw
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"--set {override}: {parent} is a value, nothing is below it.",
                "Name a value, like train.alpha=0.1",
            )
        node = below
    try:
        node[last] = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {_short(override)}: the value is not YAML ({place}: {_problem(error)}).",
            "Put a text in quotes.",
        ) from error


def refused(error: ValidationError, model: type[BaseModel], source: str) -> ConfigError:
    """A validation error as ours, in one line: every place, what is wrong and what is known."""
    told = "; ".join(_describe_one(dict(item), model, source) for item in error.errors())
    return ConfigError(
        told.rstrip(".") + ".", "Correct it there; docs/experiment.md describes every setting."
    )


def _describe_one(item: dict[str, Any], model: type[BaseModel], source: str) -> str:
    place = ".".join(str(part) for part in item["loc"])
    where = f"{source}: {place}" if place else source
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"{where}: unknown setting{did_you_mean(str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return f"{where}: missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message} (it is {_short(repr(item['input']))})"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The settings known at a place of the configuration."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
            if isinstance(current, UnionType):  # with None: it may be left out
                current = get_args(current)[0]
        else:  # dict[str, Section]: the part is a free name
            current = (get_args(current) or (None,))[-1]
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
