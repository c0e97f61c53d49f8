"""Hostile values, and damage to texts, bytes and nested values."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Sequence
from random import Random
from typing import Any

TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "é",
    "😀",
    "\u202e",
    "\x1b]0;x\a",
    "\ufeff",
    "NaN",
    "null",
    "..",
    "/",
    "../x",
    "a/b",
    "a\\b",
    "-x",
    "=1+1",
    "{",
    "}",
    "[",
    "]",
    "[[[[",
    "\\",
    "%s",
    "{reply}",
    "{0}",
    "\\1",
    "\\g<9>",
    "(",
    ")",
    "*",
    "(?P<a>",
    "[a-",
    "x" * 5_000,
    "9" * 5_000,
    "[" * 5_000,
    "1e999999999",
    "-1e-999999999",
    "1/0",
    "0x" + "f" * 5_000,
    "١٢٣",
    "½",
    "--",
    ";",
    "' or 1=1 --",
    "\r",
    "\r\n",
    "\u2028",
    "<script>",
    "#### 1e400",
    "\\boxed{",
    '{"answer": "\\ud800"}',
    "<think>",
    "</think>",
    "Search[",
    "STOP",
    "a>b",
    "$" * 50,
    "1,2,3",
    "10^10^10",
    "2^99999999",
)

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**32,
    2**63,
    2**64,
    10**30,
    10**4_000,
    -(10**400),
    0.0,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"a": {}},
    {"name": "relay", "hops": 8},
    ["x"] * 50,
    "LONG",
    "DEEP",
    "HUGE",
    "TINY",
)

MARKS = {  # what stands for them in JSON, where Python could not write the value
    "LONG": "9" * 5_000,
    "DEEP": "[" * 3_000 + "]" * 3_000,
    "HUGE": "1e999999999",
    "TINY": "1.0E-999999999",
}

RAW = (  # as they stand in YAML or JSON, where they need not be quoted
    "2024-01-01",
    "2024-99-99",
    "2024-01-01T00:00:00Z",
    "0b2",
    "0o9",
    "0x" + "f" * 5_000,
    ".inf",
    "-.inf",
    ".nan",
    "NaN",
    "Infinity",
    "1e999",
    "1.0e+999999999",
    "9" * 5_000,
    "1:99:99",
    "~",
    "null",
    "!!python/object:os.system {}",
    "!!binary x",
    "!!binary aGk=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!int x",
    "!!float x",
    "!!timestamp x",
    "!!bool x",
    "!unknown x",
    "[1, 2",
    "{a: ",
    "[" * 3_000,
    "{a: " * 3_000,
    "- " * 3_000,
    "&a [*a, *a]",
    "*nothing",
    "? [a, b]\n: c",
    "[a, b]: c",
    "{a: b}: c",
    "1: 2",
    "null: 3",
    "<<: [*a]",
    "<<: 3",
    '"\\ud800"',
    '"\\0"',
    '"\\U00110000"',
    "'",
    '"',
    "|",
    ">",
    "%YAML 9.9",
    "---",
    "...",
    "@x",
    "`x",
    "\t",
    "é",
    "\ufeff",
    "=",
    "<<",
    "true",
    "yes",
)


def text(random: Random) -> str:
    """A hostile text."""
    return "".join(random.choices(TEXTS, k=random.choice((1, 1, 1, 2, 3))))


def value(random: Random, depth: int = 0) -> Any:
    """A hostile value as JSON has them, and some that it cannot say."""
    kind = random.random()
    if depth > 3 or kind < 0.4:
        return copy.deepcopy(random.choice(VALUES))
    if kind < 0.7:
        return text(random)
    if kind < 0.85:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind < 0.995:
        return {text(random): value(random, depth + 1) for _ in range(random.randrange(4))}
    deep: Any = 1
    for _ in range(random.choice((50, 200))):
        deep = [deep] if random.random() < 0.5 else {"a": deep}
    return deep


def as_json(tree: Any) -> str:
    """JSON of a nested value, with `MARKS` replaced."""
    said = json.dumps(tree)
    for mark, raw in MARKS.items():
        said = said.replace(f'"{mark}"', raw)
    return said


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a nested one."""
    below: Sequence[tuple[Any, Any]] = ()
    if isinstance(tree, dict):
        below = list(tree.items())
    elif isinstance(tree, list):
        below = list(enumerate(tree))
    return [path] * bool(path) + [
        deep for key, part in below for deep in places(part, (*path, key))
    ]


def damaged(tree: Any, random: Random) -> Any:
    """A nested value with one to three of its parts replaced, removed, renamed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = places(tree)
        if not paths:
            return value(random)
        *path, last = random.choice(paths)
        parent = tree
        for key in path:
            parent = parent[key]
        _damage(parent, last, random)
    return tree


def _damage(parent: Any, last: Any, random: Random) -> None:
    what = random.random()
    if what < 0.7:
        parent[last] = value(random)
    elif what < 0.8:
        del parent[last]
    elif isinstance(parent, dict):
        parent[text(random)] = parent.pop(last) if what < 0.9 else value(random)
    else:
        parent.append(value(random))


def garbled(said: str, random: Random, words: Sequence[str] = RAW) -> str:
    """A text with pieces cut out, doubled, moved, or replaced by hostile ones."""
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(said) + 1)
        end = min(len(said), start + random.choice((0, 1, 1, 5, 20)))
        piece = random.choice((random.choice(words), text(random), "", said[start:end] * 2))
        said = said[:start] + piece + said[end:]
    return said


def broken(data: bytes, random: Random) -> bytes:
    """Bytes that were cut, changed, packed, or written in another encoding."""
    for _ in range(random.choice((0, 1, 1, 2))):
        what = random.randrange(9)
        at = random.randrange(len(data) + 1)
        if what == 0:
            data = data[:at]
        elif what == 1:
            data = data[:at] + random.randbytes(random.choice((1, 4))) + data[at + 1 :]
        elif what == 2:
            data = data[:at] + random.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"\n")) + data[at:]
        elif what == 3:
            data = gzip.compress(data, 1)
        elif what == 4:
            data = b"\xef\xbb\xbf" + data
        elif what == 5:
            data = b"\xff\xfe" + data.decode("utf-8", "replace").encode("utf-16-le")
        elif what == 6:
            data = b"PAR1" + data + b"PAR1"
        elif what == 7:
            data = data[at:] + data[:at]
        else:
            data = data.replace(b"\n", random.choice((b"", b"\r", b"\r\n", b"\n\n")))
    return data
