"""The errors that a package raises, read from its syntax trees; nothing of it is run.

An error is made where the name of its class is called, with a message and a hint, the way out.
Texts are followed through local names, constants, arguments and functions; what stays open until
the error is raised becomes a name in capitals. Where a function only makes an error of what its
callers say, as `damaged(path, why, hint)` does, each of its calls is a place of its own.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PASSED = "\0"  # in place of a text that another error brings along
DEEPEST = 14  # steps that a text is followed
SHAPING = {"strip", "rstrip", "removeprefix", "removesuffix", "format"}  # leave a text what it is
NAMELESS = {"self", "config", "found", "loaded", "here", "decision"}  # whose `.name` is a name
CALLED = {  # names that a reader would not know, and what they are shown as
    **dict.fromkeys(("error", "exc", "e", "text", "strerror", "msg", "reasons"), "REASON"),
    **dict.fromkeys(("_problem", "_in_words", "difference", "told", "why"), "REASON"),
    **dict.fromkeys(("len", "sum", "start", "colno"), "N"),
    "cls": "CLASS",
    "type_name": "TYPE",
}
WORDS = re.compile("[a-z]{2}")
PLACE = re.compile(r"\{(\w+)\}")  # in a text for `format`


@dataclass(frozen=True)
class Scope:
    """A module and a function in it, with what that was given where the call is known."""

    module: Module
    function: ast.FunctionDef | None = None
    given: Mapping[str, tuple[ast.expr, Scope]] | None = None
    conditions: tuple[str, ...] = ()  # under which the place in it is reached, from outside in
    raising: str = ""  # name of the module behind all calls


@dataclass(frozen=True)
class Raised:
    """An error as a user meets it."""

    kind: str
    message: str
    hints: tuple[str, ...]  # of which it has one, by the case; none where it is of another error
    conditions: tuple[str, ...]  # under which it is raised, from outside in, in Python
    module: str


class Module:
    """A file of the package."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    def around(self, node: ast.AST) -> ast.FunctionDef | None:
        """The function that a node is in."""
        parent = self.parents.get(node)
        while parent is not None and not isinstance(parent, ast.FunctionDef):
            parent = self.parents.get(parent)
        return parent

    def condition(self, node: ast.AST) -> str:
        """The nearest condition under which a node is reached in its function, or ""."""
        child, parent = node, self.parents.get(node)
        while parent is not None:
            match parent:
                case ast.If(test=test, body=body):
                    return ast.unparse(_plain(test) if child in body else _not(test))
                case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
                    return ast.unparse(ast.BoolOp(ast.Or(), kinds))
                case ast.ExceptHandler(type=ast.expr() as caught):
                    return ast.unparse(caught)
                case ast.FunctionDef(body=body):
                    return _left_over(body[: body.index(child)]) if child in body else ""
            child, parent = parent, self.parents.get(parent)
        return ""

    @cached_property
    def constants(self) -> dict[str, list[ast.expr]]:
        """What names are set to at the top of the module."""
        return _set_in(
            [node for node in self.tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        )

    @cached_property
    def imports(self) -> dict[str, str]:
        """The module that a name comes from, as a path."""
        return {
            name.asname or name.name: f"{(node.module or '').replace('.', '/')}.py"
            for node in self.parents
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }


class Package:
    """All modules of a package, and the errors that they make."""

    def __init__(self, folder: Path, kinds: Mapping[str, Collection[str]]) -> None:
        """`kinds` are the classes of errors by name, each with the names of its bases."""
        self.kinds = kinds
        self.modules = {
            name: Module(path, name)
            for path in sorted(folder.rglob("*.py"))
            if (name := path.relative_to(folder.parent).as_posix())
        }
        self.functions: dict[str, list[Scope]] = defaultdict(list)
        self.calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        for module in self.modules.values():
            for node in module.parents:
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name].append(Scope(module, node))
                elif isinstance(node, ast.Call):
                    self.calls[_name(node.func)].append((module, node))

    def raised(self) -> Iterator[Raised]:
        """Every error by message and place, but for those that pass on another's message."""
        for kind in self.kinds:
            for module, call in self.calls[kind]:
                for scope in self._scopes(module, call):
                    yield from self._errors(kind, call, scope)

    def _errors(self, kind: str, call: ast.Call, scope: Scope) -> Iterator[Raised]:
        message = _argument(call, 0, "message") or _argument(call, 0, "problem")
        hint = _argument(call, 1, "hint")
        if message is None:
            return
        hints = [] if hint is None else self.texts(hint, scope)
        for text in self.texts(message, scope):
            if PASSED not in text:
                ways = tuple(dict.fromkeys(map(_tidy, hints)))
                yield Raised(kind, _tidy(text), ways, scope.conditions, scope.raising)

    def _scopes(self, module: Module, node: ast.AST, depth: int = 0) -> Iterator[Scope]:
        """The function around a node; of one that makes an error for its callers, each call."""
        own = tuple(filter(None, [module.condition(node)]))
        scope = Scope(module, module.around(node), None, own, module.name)
        callers = list(self._callers(scope)) if self._makes(scope.function) else []
        if not callers or depth > DEEPEST:
            yield scope
        for caller, call in callers:
            for outer in self._scopes(caller, call, depth + 1):
                given = {name: (value, outer) for name, value in _bound(scope, call).items()}
                conditions = (*outer.conditions, *own)
                yield Scope(module, scope.function, given, conditions, outer.raising)

    def _makes(self, function: ast.FunctionDef | None) -> bool:
        """Whether a function gives an error to its callers, who raise it."""
        if function is None or function.returns is None:
            return False
        return not self.kinds.keys().isdisjoint(re.findall(r"\w+", ast.unparse(function.returns)))

    def _callers(self, scope: Scope) -> Iterator[tuple[Module, ast.Call]]:
        """Calls of a function; of a private one, those of its module."""
        if (function := scope.function) is None:
            return
        for module, call in self.calls[function.name]:
            private = function.name.startswith("_") and module is not scope.module
            if not private and _fits(function, call):
                yield module, call

    # Texts

    def texts(self, node: ast.expr, scope: Scope, depth: int = 0) -> list[str]:
        """What an expression may be as a text."""
        if depth > DEEPEST:
            return [_open(node)]

        def of(part: ast.expr) -> list[str]:
            return self.texts(part, scope, depth + 1)

        match node:
            case ast.Constant(value=str() as text):
                return [text]
            case ast.JoinedStr(values=parts):
                options = [self._part(part, scope, depth + 1) for part in parts]
                return ["".join(chosen) for chosen in itertools.product(*options)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [one + two for one, two in itertools.product(of(left), of(right))]
            case ast.IfExp(body=one, orelse=two):
                return [*of(one), *of(two)]
            case (
                ast.Attribute(attr="message" | "hint")
                | ast.Call(args=[ast.Attribute(attr="message" | "hint")])  # folded, say
            ):
                return [PASSED]
            case ast.Name(id=name):
                return self._named(name, scope, depth + 1) or [_open(node)]
            case ast.Subscript(value=ast.Name(id=name)):
                return self._entries(name, scope, depth + 1) or [_open(node)]
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(value=whole, attr="partition"), args=[by])
            ):
                return [text.partition(of(by)[0])[0] for text in of(whole)]
            case ast.Call(func=ast.Attribute(value=ast.expr() as text, attr=attr)) if (
                attr in SHAPING
            ):
                return [PLACE.sub(lambda place: place[1].upper(), each) for each in of(text)]
            case ast.Call(func=ast.Name(id="str"), args=[value]):
                return of(value)
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.GeneratorExp(elt=elt)]):
                return of(elt) if self._is_text(elt) else [_open(node)]
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.List(elts=parts)]):
                return [PASSED] if any(PASSED in of(part) for part in parts) else [_open(node)]
            case ast.Call(func=ast.Name(id="next"), args=[ast.GeneratorExp() as each, *_]):
                return self._chosen(each, scope, depth + 1) or [_open(node)]
            case ast.Call(func=function) if _name(function) not in CALLED:
                return self._returned(_name(function), node, scope, depth + 1) or [_open(node)]
        return [_open(node)]

    def _part(self, part: ast.expr, scope: Scope, depth: int) -> list[str]:
        """A part of an f-string: what the caller gave, or one text, the longest that it may be."""
        if not isinstance(part, ast.FormattedValue):
            return self.texts(part, scope, depth)
        found = self.texts(part.value, scope, depth)
        if not any(isinstance(n, ast.Name) and n.id in (scope.given or {}) for n in ast.walk(part)):
            found = [max(found, key=len)]
        if not isinstance(part.value, ast.Name):
            found = [text if tells(text) else _open(part.value) for text in found]
        return [f"'{text}'" if part.conversion == ord("r") else text for text in found]

    def _named(self, name: str, scope: Scope, depth: int) -> list[str]:
        """What a name may be: an argument, a local name, a constant, an imported one."""
        if scope.given is not None and name in scope.given:
            value, outer = scope.given[name]
            found = self.texts(value, outer, depth)
            return found if any(map(tells, found)) else []
        if scope.function is not None:
            if name in _parameters(scope.function):
                return self._arguments(name, scope, depth)
            if local := _set_in(scope.function.body).get(name):
                return self._all(local, scope, depth)
        module = self.modules.get(scope.module.imports.get(name, ""), scope.module)
        return self._all(module.constants.get(name, []), Scope(module), depth)

    def _all(self, values: list[ast.expr], scope: Scope, depth: int) -> list[str]:
        """Texts of the values of a name, if they are texts."""
        found = [text for value in values for text in self.texts(value, scope, depth)]
        if any(map(_is_literal, values)):
            return found
        return list(filter(_said, found)) if any(map(self._is_text, values)) else []

    def _arguments(self, name: str, scope: Scope, depth: int) -> list[str]:
        """What callers say for a parameter: followed for hints, which are handed down."""
        if name != "hint" or scope.function is None:
            return []
        default = _defaults(scope.function).get(name)
        if scope.given is not None and default is not None:  # the call is known, and does not say
            return self.texts(default, Scope(scope.module), depth)
        found = []
        for module, call in self._callers(scope):
            value = _bound(scope, call).get(name)
            inside = Scope(scope.module) if value is None else Scope(module, module.around(call))
            if (value := value or default) is not None:
                found += self.texts(value, inside, depth)
        return found

    def _entries(self, name: str, scope: Scope, depth: int) -> list[str]:
        """Texts that a constant dictionary has as values."""
        values = [
            value
            for constant in scope.module.constants.get(name, [])
            for part in ast.walk(constant)
            if isinstance(part, ast.Dict)
            for value in part.values
        ]
        return self._all(values, Scope(scope.module), depth)

    def _chosen(self, each: ast.GeneratorExp, scope: Scope, depth: int) -> list[str]:
        """Texts of `next(text for other, text in CONSTANT if …)`."""
        match each:
            case ast.GeneratorExp(
                elt=ast.Name(id=name),
                generators=[ast.comprehension(ast.Tuple(elts=names), ast.Name(id=constant))],
            ):
                place = [ast.unparse(part) for part in names].index(name)
                rows = [
                    row.elts[place]
                    for value in scope.module.constants.get(constant, [])
                    if isinstance(value, ast.Tuple)
                    for row in value.elts
                    if isinstance(row, ast.Tuple)
                ]
                return self._all(rows, Scope(scope.module), depth)
        return []

    def _returned(self, name: str, call: ast.Call, scope: Scope, depth: int) -> list[str]:
        """What a function of the package returns, if that is text."""
        found = []
        for inside in self.functions[name]:
            function = inside.function
            assert function is not None
            private = name.startswith("_") and inside.module is not scope.module
            if private or not _fits(function, call):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    found += self._all([node.value], inside, depth)
        return list(filter(_said, found))

    def _is_text(self, node: ast.expr) -> bool:
        """Whether an expression is seen to be a text, and not any value that has a name."""
        match node:
            case ast.Call(func=ast.Attribute(attr="format" | "partition")):
                return True
            case ast.Call(func=ast.Attribute(value=ast.expr() as text, attr=attr)) if (
                attr in SHAPING
            ):
                return self._is_text(text)
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.GeneratorExp(elt=elt)]):
                return self._is_text(elt)
            case ast.Call(func=ast.Name(id=name)):
                return name == "next" or any(map(_gives_text, self.functions[name]))
            case ast.Subscript(value=ast.Call() as call):
                return self._is_text(call)
        return _is_literal(node)


def _name(node: ast.expr) -> str:
    """The last name of an expression such as `a.b`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_literal(node: ast.expr) -> bool:
    """Whether an expression is a text written there."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, str)
        case ast.IfExp(body=one, orelse=two):
            return _is_literal(one) or _is_literal(two)
        case ast.BinOp(left=left, op=ast.Add()):
            return _is_literal(left)
        case ast.Call(func=ast.Attribute(value=ast.expr() as text, attr=attr)) if attr in SHAPING:
            return _is_literal(text)
    return isinstance(node, ast.JoinedStr)


def _left_over(before: list[ast.stmt]) -> str:
    """What holds behind some statements, by the last of them that may return."""
    for statement in reversed(before):
        if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Return):
            return ast.unparse(_not(statement.test))
    return ""


def _plain(test: ast.expr) -> ast.expr:
    """A condition without the name that its value is given."""
    return test.value if isinstance(test, ast.NamedExpr) else test


def _not(test: ast.expr) -> ast.expr:
    """The opposite of a condition."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), _plain(test))


def _gives_text(scope: Scope) -> bool:
    """Whether a function says that it returns a text."""
    assert scope.function is not None
    return scope.function.returns is not None and _name(scope.function.returns) == "str"


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    """An argument of a call, by place or by name."""
    if len(call.args) > place:
        return call.args[place]
    return next((each.value for each in call.keywords if each.arg == name), None)


def _parameters(function: ast.FunctionDef) -> list[str]:
    """Parameters of a function, without the object that it is a method of."""
    names = [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _defaults(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Default values of a function's parameters."""
    names, values = function.args.args, function.args.defaults
    pairs = zip((each.arg for each in names[len(names) - len(values) :]), values, strict=True)
    named = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {**dict(pairs), **{each.arg: value for each, value in named if value is not None}}


def _bound(scope: Scope, call: ast.Call) -> dict[str, ast.expr]:
    """The arguments of a call of a function, by the name of the parameter."""
    assert scope.function is not None
    given = dict(zip(_parameters(scope.function), call.args, strict=False))
    return given | {each.arg: each.value for each in call.keywords if each.arg is not None}


def _fits(function: ast.FunctionDef, call: ast.Call) -> bool:
    """Whether a call may be one of a function, and not of another of that name."""
    names = _parameters(function)
    given = {*names[: len(call.args)], *(each.arg for each in call.keywords)}
    needed = {*names} - _defaults(function).keys()
    return len(call.args) <= len(names) and needed <= given <= {*names}


def _set_in(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """What each name is set to in some statements and those within them."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in itertools.chain.from_iterable(map(ast.walk, body)):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                found[name].append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name].append(value)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                found[name].append(value)  # what is said in addition
    return found


def tells(text: str) -> bool:
    """Whether a text has words of its own, and is not all filled in."""
    return PASSED in text or WORDS.search(text) is not None


def _said(text: str) -> bool:
    """Whether a text is seen in the code: it has words, or is seen to have nothing."""
    return tells(text) or not text.strip()


def _open(node: ast.expr) -> str:
    """A name in capitals for a value that is not known before an error is raised."""
    match node:
        case ast.Name(id=name):
            return CALLED.get(name, name.upper())
        case ast.Attribute(value=ast.Call(func=ast.Name(id="type"))):
            return "TYPE"
        case ast.Attribute(value=base, attr="name" | "__name__") if _name(base) not in NAMELESS:
            return _open(base)
        case ast.Attribute(attr=attr):
            return CALLED.get(attr, attr.upper())
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key.upper()
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CALLED:
            return CALLED[name]
        case ast.Call(func=ast.Name() | ast.Attribute(attr="join" | "quote"), args=[first, *_]):
            return _open(first)
        case ast.Subscript(value=first) | ast.Call(func=ast.Attribute(value=first)):
            return _open(first)
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(body=first) | ast.BinOp(left=first):
            return _open(first)
        case ast.List(elts=[first, *_]) | ast.GeneratorExp(elt=first) | ast.Starred(value=first):
            return _open(first)
    return "…"


def _tidy(text: str) -> str:
    return " ".join(text.split())
