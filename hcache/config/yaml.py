"""YAML that says what JSON can say: texts, numbers, lists, and mappings with texts as keys.

Dates, sets, tags of Python and numbers that no machine holds are refused with their line, and so
are files that would grow beyond all measure when their aliases are written out: that is counted
before anything is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from hcache.keys import well_formed

MOST_CHARACTERS = 1 << 20  # of a file
MOST_VALUES = 100_000  # of a file, every alias written out
DEEPEST = 50  # lists and mappings within one another
INTEGERS = range(-(1 << 63), 1 << 64)  # what 64 bits hold, with a sign or without

_JSON = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
_TAG = "tag:yaml.org,2002:"


def load_yaml(text: str) -> Any:
    """The value of a YAML text, in types that JSON has.

    Raises:
        YAMLError: it is none, or says what JSON cannot; with the place, where there is one.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.MarkedYAMLError(
            problem=f"more than {MOST_CHARACTERS:,} characters are no file of settings"
        )
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise _too_deep(None) from error
    except ValueError as error:  # an escaped character that Unicode has not
        raise yaml.MarkedYAMLError(problem=f"{error}") from error
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values in a node and their depth, with all aliases written out; each node is met once."""
    if id(node) in known:
        if (measured := known[id(node)]) is None:
            raise _defect(node, "an alias stands within what it is an alias of")
        return measured
    known[id(node)] = None
    parts = [_measure(part, known) for part in _parts(node)]
    size, depth = 1 + sum(size for size, _ in parts), 1 + max((d for _, d in parts), default=0)
    if size > MOST_VALUES:
        raise _defect(node, f"more than {MOST_VALUES:,} values, each alias written out")
    if depth > DEEPEST:
        raise _too_deep(node)
    known[id(node)] = size, depth
    return size, depth


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _defect(node: yaml.Node | None, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(
        problem=problem, problem_mark=None if node is None else node.start_mark
    )


def _too_deep(node: yaml.Node | None) -> yaml.MarkedYAMLError:
    return _defect(node, f"more than {DEEPEST} lists and mappings within one another")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which takes the last of equal keys silently; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`."""
        seen = set()
        for key, _ in node.value:
            if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                what = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _defect(key, f"a key is a text, not {what[:50]}; put it in quotes")
            if key.value in seen:
                raise _defect(key, f"{key.value!r} stands twice in one section; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """See `yaml.SafeLoader`; of types that JSON has not, there is nothing."""
        kind = node.tag.removeprefix(_TAG)
        if kind not in _JSON:
            hint = "; put it in quotes" if isinstance(node, yaml.ScalarNode) else ""
            raise _defect(node, f"a {kind} is nothing that JSON has{hint}")
        return super().construct_object(node, deep)


def _checked(kind: str, fault: Callable[[Any], str]) -> None:
    """Let the loader take only such scalars of a kind as have no fault."""
    inherited = yaml.SafeLoader.yaml_constructors[_TAG + kind]

    def construct(loader: _Loader, node: yaml.Node) -> Any:
        try:
            value = inherited(loader, node)
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise _defect(node, f"{str(node.value)[:50]!r} cannot be read as {kind}") from error
        if isinstance(value, str):
            value = value if value.isascii() else _paired(value)
        if problem := fault(value):
            raise _defect(node, problem)
        return value

    _Loader.add_constructor(_TAG + kind, construct)


def _paired(text: str) -> str:
    """A text with surrogates joined that are halves of one pair, as JSON escapes them."""
    joined = well_formed(text)
    return text if "\ufffd" in joined and "\ufffd" not in text else joined


def _fault_of_text(text: str) -> str:
    if "\0" in text:
        return "a text with a NUL character"
    if well_formed(text) != text:
        return r"a text with half a surrogate pair (\ud800 to \udfff)"
    return ""


_Loader.add_implicit_resolver(  # numbers of JSON that YAML 1.1 takes for texts, such as 1e-3
    f"{_TAG}float",
    re.compile(r"[-+]?[0-9]{1,15}(\.[0-9]*)?[eE][-+]?[0-9]{1,3}$"),  # shorter than a key is
    list("-+0123456789"),
)
_checked("bool", lambda value: "")
_checked("int", lambda value: "" if value in INTEGERS else "a number of more than 64 bits")
_checked("float", lambda value: "" if math.isfinite(value) else "a number that is not finite")
_checked("str", _fault_of_text)
