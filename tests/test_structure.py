"""The structure that is promised: imports point one way, light commands load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "hcache"

LAYERS = [
    {"errors"},
    {"files", "keys"},
    {"queries", "metrics", "hub"},
    {"answers", "readers"},
    {"config"},
    {"arms"},
    {"workflows"},
    {"engines"},
    {"store"},
    {"experiment", "scoring"},
    {"sampling"},
    {"tree", "reading"},
    {"features", "policies", "statistics", "fronts"},
    {"replay", "baselines", "live"},
    {"lowrank"},
    {"trainers", "runs"},
    {"evaluation", "training", "routing"},
    {"leaderboard", "evaluating", "benching"},
    {"reporting"},
    {"doctor"},
    {"commands"},
]
"""Parts of the package from the ground up: each imports only from layers before it, or its own."""


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hcache":
            names = (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
            found |= set(names)
    return found


def files() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    level = {name: place for place, layer in enumerate(LAYERS) for name in layer}
    own = part(file)
    assert own in level, f"{own} has no layer yet: give it one"
    wrong = {name for name in imported_parts(file) if name != own and level[name] >= level[own]}
    assert not wrong, f"{file.name} imports {wrong}, which stand above it"


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_only_its_workflow_and_its_trainers_know_haps() -> None:
    knowing = {file.relative_to(PACKAGE) for file in files() if "haps" in file.read_text().lower()}
    assert knowing <= {
        Path("workflows") / "teacher_student.py",
        *(Path("trainers") / f"{name}.py" for name in ("joint", "joint_live", "pair")),
        *(Path("trainers") / f"{name}.py" for name in ("sft", "language")),  # its warm-up
    }


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("hcache.commands", {"torch", "vllm", "sklearn", "transformers", "matplotlib", "jinja2"}),
        ("hcache.sampling", {"torch", "vllm", "sklearn", "transformers"}),
        ("hcache.runs.training, hcache.runs.evaluating", {"vllm", "transformers"}),
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
