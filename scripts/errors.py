"""Writes docs/errors.md: every error that hcache raises, with its way out, from the code.

python scripts/errors.py
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import typer.main
from raised import Package, Raised, tells

import hcache.errors
from hcache.commands.app import EXIT_CODES, app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

Every error that hcache raises on purpose (written by `scripts/errors.py` from the places that raise
them). On the terminal it is one line: `error:`, what is wrong and where, then the way out, which is
what to do or to type next. From Python, `message` and `hint` of the exception are the two.

Search for the words that are the same each time: what is filled in stands here in capitals, as in
`PATH is missing.` The cause is said in Python: the condition under which an error is raised, or the
exception that it comes from, a line for each place. Several ways out are for several cases; the
line on the terminal has the one that fits.
"""
REASONS = """## What stands for REASON

Words of the system, of Python, DuckDB, vLLM or another library, and these of hcache. The way out is
in them, or follows the message that they stand in.
"""
USAGE = """
With 2, the usage is printed and what is wrong with the command line; `hcache COMMAND --help` says
what it takes. A traceback is none of these: it is a fault in hcache.

Commands whose exit code is a result as well:
"""
LONGEST = 90  # characters of a cause


@dataclass
class Entry:
    """A row of the page."""

    message: str
    hints: dict[str, None] = field(default_factory=dict)
    causes: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)


def kinds() -> dict[str, list[str]]:
    """The classes of errors by name, each with the names of those above it."""
    found = [kind for kind in vars(hcache.errors).values() if inspect.isclass(kind)]
    ours = [kind for kind in found if issubclass(kind, hcache.errors.HcacheError)]
    return {kind.__name__: [b.__name__ for b in kind.__mro__[1:] if b in ours] for kind in ours}


@cache
def errors() -> tuple[Raised, ...]:
    """Every error of the package."""
    return tuple(Package(ROOT / "hcache", kinds()).raised())


def without_way_out(raised: Iterable[Raised]) -> list[str]:
    """Errors that in some case do not say what to do, by module and message."""
    return [
        f"{each.module}: {each.message}"
        for each in raised
        if not each.hints or not all(map(tells, each.hints))
    ]


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, _exit_codes(), *_sections(errors()), REASONS, _reasons()])


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group with their whole names, those of groups in it as well."""
    for name, each in getattr(group, "commands", {}).items():
        yield f"{above}{name}", each
        yield from commands(each, f"{above}{name} ")


def results() -> dict[str, str]:
    """What the exit code of a command says besides errors, by command, as its help has it."""
    found: dict[str, str] = {}
    for name, each in sorted(commands(typer.main.get_command(app))):
        text = " ".join((each.help or "").split())
        if said := re.search(r"[^.]*exit code[^.]*\.", text):
            found[name] = said[0].strip()
    return found


def _exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(EXIT_CODES.items())]
    told = [f"| `hcache {name}` | {text} |" for name, text in results().items()]
    head = "## Exit codes\n\n| code | of every command |\n|---|---|"
    return "\n".join([head, *rows, USAGE, "| command | |", "|---|---|", *told, ""])


def _sections(raised: Sequence[Raised]) -> Iterator[str]:
    """A section for each class, with a table for each part of the program."""
    for kind in kinds():
        parts: dict[str, dict[str, Entry]] = defaultdict(dict)
        for each in raised:
            if each.kind != kind:
                continue
            entry = parts[_part(each.module)].setdefault(each.message, Entry(each.message))
            entry.hints |= dict.fromkeys(each.hints)
            entry.modules[each.module] = None
            if each.conditions:
                cause = shorten(", ".join(each.conditions), LONGEST, placeholder=" …")
                entry.causes[cause] = None
        doc = inspect.getdoc(getattr(hcache.errors, kind)) or ""
        yield f"## {kind}\n\n{doc.splitlines()[0]} Exit code 1.\n"
        for part in sorted(parts):
            yield f"### {part}\n"
            yield _table(parts[part].values())


def _part(module: str) -> str:
    return module.split("/")[1].removesuffix(".py")


def _table(entries: Iterable[Entry]) -> str:
    rows = [
        f"| {_code([entry.message])} | {_code(entry.causes)} | {_plain(entry.hints)} | "
        f"{_code(sorted(entry.modules))} |"
        for entry in sorted(entries, key=lambda entry: entry.message.lower())
    ]
    head = "| message | cause | way out | in |"
    return "\n".join([head, "|---|---|---|---|", *rows, ""])


def _reasons() -> str:
    found: dict[str, set[str]] = defaultdict(set)
    for each in Package(ROOT / "hcache", {"ValueError": [], "MarkedYAMLError": []}).raised():
        if _part(each.module) in {"artefacts", "config", "data", "engines", "runs", "workflows"}:
            found[each.message].add(each.module)
    rows = [
        f"| {_code([message])} | {_code(sorted(modules))} |"
        for message, modules in sorted(found.items(), key=lambda item: item[0].lower())
    ]
    return "\n".join(["| reason | in |", "|---|---|", *rows, ""])


def _code(texts: Iterable[str]) -> str:
    """Texts as code in a cell of a table."""
    return "<br>".join(f"`` {t} ``" if "`" in t else f"`{t}`" for t in texts).replace("|", "\\|")


def _plain(texts: Iterable[str]) -> str:
    """Texts as text in a cell of a table, each a line."""
    return "<br>".join(text.replace("<", "&lt;").replace("|", "\\|") for text in texts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
