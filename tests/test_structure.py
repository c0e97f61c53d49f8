"""The structure that is promised: the floor plan of the README, and what each floor may import.

The tree in the README lists the parts of the package from the ground up. A part imports only from
parts above it in the list, that is from lower floors, or from itself.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "hcache"
MOST_LINES = 400
MOST_MODULES = 8  # at the top of the package, `__init__` and `__main__` apart
OPENING = re.compile(r"(What|Whether|Where|Which|Who|How|That|Those)\b")
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def floors() -> list[str]:
    """The parts of the package in the order of the README's tree."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme[readme.index("\nhcache/\n") :]
    return [
        name.removesuffix(".py").removesuffix("/")
        for name in re.findall(r"^ {4}(\S+)  ", tree[: tree.index("\n```")], re.MULTILINE)
    ]


def name_of(file: Path) -> str:
    """The module that a file is, without the package's own name."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): file for file in FILES}


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (name[7:] for name in names if name.startswith("hcache."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hcache":
            module = (node.module or "")[7:]
            below = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            found = [name for name in below if name in MODULES]
            yield from found
            if len(found) < len(below):
                yield module


def by_file(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


@by_file([file for file in FILES if file != PACKAGE / "__init__.py"])
def test_imports_point_down(file: Path) -> None:
    order = floors()
    own = name_of(file).split(".")[0]
    assert own in order, f"{own} has no floor yet: give it a line in the README's tree"
    lower = {own, *order[: order.index(own)]}
    wrong = {name for name in imports(file) if name and name.split(".")[0] not in lower}
    assert not wrong, f"{file.name} imports {sorted(wrong)} from higher floors"


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: {*imports(file)} - {name} for name, file in MODULES.items()}
    while free := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    # What is left is in circles, or imports something that is.
    inner = {name for name in graph if any(name in needs for needs in graph.values())}
    assert not inner, sorted(inner)


@by_file(FILES)
def test_nothing_is_imported_by_string(file: Path) -> None:
    if name_of(file) in ("", "plugins"):  # names on first use; the registry
        return
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    words = {getattr(node, "id", getattr(node, "attr", None)) for node in nodes}
    assert not words & {"import_module", "__import__", "importlib"}


@by_file(FILES)
def test_files_are_short_and_say_what_they_are_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    assert ast.get_docstring(ast.parse(text))


@by_file(FILES)
def test_docstrings_open_with_a_noun_or_a_verb(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
    assert [text for text in texts if OPENING.match(text)] == []


def test_few_modules_stand_beside_the_packages() -> None:
    assert len([*PACKAGE.glob("[!_]*.py")]) <= MOST_MODULES


@by_file([*PACKAGE.glob("trainers/*.py")])
def test_trainers_know_trees_and_policies_only(file: Path) -> None:
    loading = ("store", "experiment", "engines", "live", "models.arms", "data", "sampling")
    feeding = ("replay.loading", "replay.assembly", "replay.features")
    wrong = {name for name in imports(file) if name.startswith(loading + feeding)}
    assert not wrong


@by_file([file for file in FILES if "store" not in file.parts])
def test_sql_stands_in_the_store(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("sql", "execute"):
            assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), node.lineno
        assert getattr(node, "attr", "") != "connection", "ask the Store"
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            text = ast.unparse(node.value)
            assert not re.match(r"f?['\"](\\n)*(select|with|insert|update) ", text), node.lineno


def test_only_its_workflow_and_joint_training_know_haps() -> None:
    knowing = {
        name_of(file)
        for file in FILES
        if re.search(r"(?<!per)haps", file.read_text(encoding="utf-8").lower())
    }
    warm_up = {"trainers.sft", "trainers.language"}
    rest = knowing - warm_up - {"workflows.teacher_student"}
    assert all(name.startswith("joint.") for name in rest), rest


def test_tests_mirror_the_package() -> None:
    packages = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    folders = {file.parent.name for file in TESTS if file.name.startswith("test_")} - {"tests"}
    assert folders == packages


@by_file(TESTS)
def test_tests_import_no_tests(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(part.startswith("test_") for name in modules for part in name.split("."))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("hcache.commands", {"torch", "vllm", "sklearn", "transformers", "matplotlib", "jinja2"}),
        ("hcache.sampling, hcache.engines", {"torch", "vllm", "sklearn", "transformers"}),
        ("hcache.runs.training, hcache.runs.evaluating", {"vllm", "transformers", "tensorboard"}),
        ("hcache.trainers", {"vllm", "transformers", "duckdb", "polars"}),
        ("hcache.policies, hcache.evaluation.evaluator", {"duckdb", "polars"}),
    ],
)
def test_heavy_imports_are_lazy(modules: str, heavy: set[str]) -> None:
    script = f"import sys, {modules}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""


def test_exported_names() -> None:
    import hcache

    for name in hcache.__all__:
        assert getattr(hcache, name).__doc__
    with pytest.raises(AttributeError):
        hcache.nothing  # noqa: B018


@by_file(FILES)
def test_no_group_of_a_pattern_is_possessive(file: Path) -> None:
    """One that fails half-way loses its match before Python 3.11.5; atomic groups do not."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"\)(?:[*+?]|\{+\d*,?\d*\}+)\+", node.value), node.lineno
