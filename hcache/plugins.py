"""The registry of everything that can be added, from inside the package and from outside.

There is a `Registry` for each kind of thing: metrics, extractors, readers, workflows, engines,
encoders, policies, trainers, trackers. It is defined next to the type of its entries, and all are
used alike:

    from hcache.data.metrics import METRICS

    @METRICS.register("brevity")
    def brevity(answer, references): ...

Entries come from three places: modules of the package; installed distributions, which name them as
entry points in the registry's group (`hcache.metrics`, …); and single files, which an experiment
names under `plugins` or the command line with `--plugin`. What shapes replies or scores carries the
digest of its source into the identity of what it makes.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from hcache.errors import ConfigError
from hcache.keys import digest, digest_file

T = TypeVar("T")
C = TypeVar("C", bound=Any)
PACKAGE = __name__.split(".", maxsplit=1)[0]
FILE_PREFIX = f"{PACKAGE}_plugin_"  # of the module that a plug-in file becomes


@dataclass(frozen=True)
class Source:
    """Origin of an entry that is not of the package itself."""

    name: str  # of the file or the top-level package
    digest: str  # of its code


_files: dict[str, Source] = {}  # plug-in files that were loaded, by module
_registries: list[Registry[Any]] = []


class Registry(Mapping[str, T]):
    """Entries of one kind by name; entry points are loaded when their entry is first asked for."""

    def __init__(self, kind: str, group: str) -> None:
        """`kind` is what an entry is called in messages, `group` the group of its entry points."""
        self.kind, self.group = kind, group
        self.entries: dict[str, T] = {}
        _registries.append(self)

    def register(self, name: str) -> Callable[[C], C]:
        """A decorator that adds an entry under `name`.

        Raises:
            ConfigError: the name is taken, or is no name.
        """
        self._check(name)

        def add(entry: C) -> C:
            if name in self.entries and self.entries[name] is not entry:
                raise ConfigError(
                    f"the {self.kind} {name!r} is there twice.", "Rename one of the two."
                )
            self.entries[name] = entry
            return entry

        return add

    def find(self, name: object, place: str = "") -> T:
        """The entry of that name; `place` is where the name stands, for the message.

        Raises:
            ConfigError: there is none, with the nearest one, all there are, and where others
                come from; or its entry point cannot be loaded.
        """
        hint = (
            f"Others come with an installed package (entry point group {self.group}) or a file: "
            "`plugins:` in the experiment, or --plugin FILE."
        )
        return lookup(self, name, self.kind, place, hint)

    def source(self, name: str) -> Source | None:
        """The source of an entry; None for one of the package itself.

        Raises:
            ConfigError: as `find` does.
        """
        return source_of(self.find(name))

    def _check(self, name: str) -> None:
        """Refuse a name that could not stand in the name of a file, as that of a trainer does."""
        try:
            plain_name(name)
        except ValueError as error:
            raise ConfigError(f"{self.kind}: {error}.", "Rename it in the plug-in.") from error

    def __getitem__(self, name: str) -> T:
        if name not in self.entries and name in (points := _entry_points(self.group)):
            self._check(name)
            self.entries.setdefault(name, _load(points[name]))
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in _entry_points(self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.entries, *_entry_points(self.group)}))

    def __len__(self) -> int:
        return len({*self.entries, *_entry_points(self.group)})


def load_package(name: str, path: Iterable[str]) -> None:
    """Import every module of a package of ours, so that its entries are registered."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{name}.{module.name}")


def load_file(path: Path) -> None:
    """Run a plug-in file, once in a process.

    Raises:
        ConfigError: it cannot be read, fails, or has changed since it was loaded.
    """
    path = path.resolve()
    try:
        source = Source(str(path), digest_file(path))
    except OSError as error:
        raise ConfigError(
            f"plug-in {path}: cannot be read ({error.strerror}).",
            "Correct the path in `plugins:` or --plugin.",
        ) from error
    if source in _files.values():
        return
    if any(source.name == known.name for known in _files.values()):
        raise ConfigError(
            f"plug-in {path} has changed since this process loaded it.", "Start the process anew."
        )
    name = f"{FILE_PREFIX}{path.stem}_{digest([source.name, source.digest])[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"plug-in {path}: is not a Python file.", "Give a file whose name ends in .py."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as pickle and dataclasses expect
    _files[name] = source
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever foreign code raises
        del sys.modules[name], _files[name]
        raise ConfigError(
            f"plug-in {path}: {_in_words(error)}.", "Mend the file, or leave it out."
        ) from error


def loaded_files() -> list[Path]:
    """The plug-in files that this process has loaded, in that order."""
    return [Path(source.name) for source in _files.values()]


def sources() -> list[Source]:
    """The sources of all entries from outside the package that this process has loaded."""
    entries = [entry for registry in _registries for entry in registry.entries.values()]
    found = {source for entry in entries if (source := source_of(entry)) is not None}
    return sorted(found, key=lambda source: source.name)


def source_of(entry: object) -> Source | None:
    """The source of a class or function; None for one of the package itself."""
    module = getattr(entry, "__module__", None) or type(entry).__module__
    top = module.split(".", maxsplit=1)[0]
    if top == PACKAGE:
        return None
    return _files.get(module) or _source_of_package(top)


def plain_name(name: str) -> str:
    """A name as it is, if it can stand in a table, in a file's name and on one line.

    Raises:
        ValueError: it is blank, long, a path, has characters that are not shown, or looks like
            another name, but for blanks at its ends or how its accents are encoded.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise ValueError(f"{name[:100]!r} is no name; use letters, digits, _ and -")
    if ".." in name or "/" in name or "\\" in name or name == ".":
        raise ValueError(f"{name!r} is a path, no name; use letters, digits, _ and -")
    if name != unicodedata.normalize("NFC", name).strip():
        raise ValueError(
            f"{name!r} looks like another name; leave out blanks at its ends, and write it in "
            "Unicode's composed form (NFC)"
        )
    return name


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest one, and all there are."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(names)}"


def lookup(
    known: Mapping[str, T],
    name: object,
    what: str,
    place: str = "",
    hint: str = "Choose one of these.",
) -> T:
    """An entry of a mapping by its name; `place` is where the name stands.

    Raises:
        ConfigError: for an unknown name, with the nearest one and all there are.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    where = f"{place}: " if place else ""
    message = f"{where}unknown {what} {name!r}{did_you_mean(str(name), sorted(known))}"
    raise ConfigError(f"{message}.", hint)


def options_of(
    function: Callable[..., object], given: Mapping[str, str], name: str
) -> dict[str, object]:
    """Options as the keyword-only parameters of a function take them; `name` is what it is called.

    Raises:
        ConfigError: it has none of that name, or the text is none of its type.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    found: dict[str, object] = {}
    for option, text in given.items():
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}.", f"Its options: {', '.join(known) or 'none'}."
            )
        try:
            found[option] = type(known[option])(text)
        except ValueError as error:
            raise ConfigError(
                f"{name}: option {option!r} is {text!r}.",
                f"Give a {type(known[option]).__name__}, such as {known[option]!r}.",
            ) from error
    return found


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever foreign code raises
        package = point.dist.name if point.dist else point.module
        raise ConfigError(
            f"{point.group}: {point.name} of the package {package} cannot be loaded: "
            f"{_in_words(error)}.",
            "Mend the package, or uninstall it.",
        ) from error


@cache
def _source_of_package(top: str) -> Source:
    """A top-level package or module with the digest of all its Python files."""
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:  # typed at a prompt: nothing to take a digest of
        return Source(top, "")
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    contents = [[each.relative_to(path.parent).as_posix(), digest_file(each)] for each in files]
    return Source(top, digest(contents))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")
