"""Errors: each has a way out that exists, docs/errors.md has them all, exit codes hold."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from helpers.paths import ROOT

import hcache.commands.app as application
from hcache import errors
from hcache.commands import main
from hcache.config.schema import ExperimentConfig
from hcache.errors import ArmError, EngineError, HcacheError, together
from hcache.processes.signals import ENDING

KINDS: list[type[HcacheError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HcacheError)
]
COMMAND = re.compile(r"(?:`|: )hcache ([^`;]+)")


@pytest.fixture(scope="module")
def scripts() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("errors")


@pytest.fixture(scope="module")
def hints(scripts: ModuleType) -> list[str]:
    return sorted({hint for error in scripts.errors() for hint in error.hints})


def test_page_is_what_the_code_says(scripts: ModuleType) -> None:
    page = scripts.page()
    assert scripts.PAGE.read_text(encoding="utf-8") == page, "python scripts/errors.py"
    assert "\0" not in page, "an error that passes on another's message is no row of its own"


def test_every_error_has_a_way_out(scripts: ModuleType) -> None:
    raised = scripts.errors()
    assert len(raised) > 200 and {error.kind for error in raised} == {k.__name__ for k in KINDS}
    assert scripts.without_way_out(raised) == []


PACKAGE = """
NONE = ""
AGAIN = "Do it again."

def way_out(path):
    if path:
        return "Do it again."
    return ""

def gone(path, hint) -> DataError:
    return DataError("it is gone.", hint)

def read(path, hint):
    raise DataError("it is gone.", hint)

def sound(path, error):
    try:
        read(path, AGAIN)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint)
    raise gone(path, AGAIN)

def tried(path):
"""


@pytest.mark.parametrize(
    "place",
    [
        'raise DataError("it is gone.")',
        'raise DataError("it is gone.", "")',
        'raise DataError("it is gone.", hint=" ")',
        'raise DataError("it is gone.", f"")',
        'raise errors.DataError("it is gone.", NONE)',
        'raise DataError("it is gone.", AGAIN if path else "")',
        'hint = ""\n    raise DataError("it is gone.", hint)',
        'raise DataError("it is gone.", way_out(path))',
        'raise DataError("it is gone.", path)',
        'raise gone(path, "")',
        'read(path, "")',
        "read(path, NONE)",
    ],
)
def test_an_error_without_a_way_out_is_found(
    scripts: ModuleType, tmp_path: Path, place: str
) -> None:
    def lacking(code: str) -> list[str]:
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "module.py").write_text(f"{PACKAGE}    {code}\n")
        raised = scripts.Package(tmp_path / "made", {"DataError": []}).raised()
        return list(scripts.without_way_out(raised))

    assert lacking('raise DataError("it is gone.", AGAIN)') == []
    assert lacking(place) == ["made/module.py: it is gone."]


def test_no_kind_of_error_escapes(scripts: ModuleType) -> None:
    """Kinds are classes of hcache/errors.py, under their own names everywhere."""
    names = set(scripts.kinds())
    for path in sorted((ROOT / "hcache").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                assert names.isdisjoint(ast.unparse(base) for base in node.bases), path
            if isinstance(node, ast.ImportFrom) and node.module == "hcache.errors":
                assert all(name.asname is None for name in node.names), path


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that some words begin with, and the rest of them."""
    command: Any = typer.main.get_command(application.app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    """Options of a command and of those below it."""
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def test_commands_that_hints_name_exist(hints: list[str]) -> None:
    named = [words.split() for hint in hints for words in COMMAND.findall(hint)]
    assert len(named) > 10
    for words in named:
        command, rest = command_of(words)
        assert len(rest) < len(words), words
        asked = {word for word in rest if word.startswith("--")}
        assert asked <= options_of(command), words


def test_options_settings_files_and_extras_that_hints_name_exist(hints: list[str]) -> None:
    text = "\n".join(hints)
    options = options_of(typer.main.get_command(application.app))
    assert {*re.findall(r"(?<!\w)--[a-z][a-z-]*", text)} <= options
    for setting in re.findall(r"--set ([a-z][a-z_.]*)=", text):
        model: Any = ExperimentConfig
        for part in setting.split("."):
            model = model.model_fields[part].annotation
    for file in re.findall(r"\b(?:docs|data)/[\w/]+\.\w+", text):
        assert (ROOT / file).is_file(), file
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    for target in re.findall(r"`make (\w+)`", text):
        assert f"\n{target}:" in makefile, target
    for extra in re.findall(r"hcache\[(\w+)\]", text):
        assert f"\n{extra} = [" in project, extra


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code of a command, and what it says on standard error."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["hcache", *arguments])
        main()
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runs", "list", "--runs", "none"], 0, ""),
        (["sql", "select 1", "--db", "none.duckdb"], 1, "Fill one with: hcache sample"),
        (["train"], 2, "--help"),
        (["nothing"], 2, "--help"),
        (["sample", "x.yaml", "--budget", "-1"], 2, "--help"),
        ([], 2, ""),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    found, said = run(capsys, *arguments)
    assert (found, words in said) == (code, True), said


@pytest.mark.parametrize("error", [kind("it is gone.", "Get it back.") for kind in KINDS])
def test_every_kind_is_one_line_with_its_way_out_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: HcacheError
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(application, "app", fail)
    assert run(capsys) == (1, "error: it is gone. Get it back.\n")


def test_an_error_of_the_system_has_a_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(application, "app", (tmp_path / "none").read_text)
    code, said = run(capsys)
    assert code == 1 and said.count("\n") == 1
    assert f"{tmp_path}/none" in said and "Check the path, its permissions" in said


def test_exit_codes_are_documented_alike(scripts: ModuleType) -> None:
    codes = {0, 1, 2, *(128 + signal for signal in ENDING)}
    assert codes == set(application.EXIT_CODES)
    page = scripts.PAGE.read_text(encoding="utf-8")
    assert all(f"| {code} | {said} |" in page for code, said in application.EXIT_CODES.items())
    epilog = typer.main.get_command(application.app).epilog or ""
    assert all(f"{code}: {said}" in epilog for code, said in application.EXIT_CODES.items())
    assert {"bench", "check", "report", "runs repeat", "verify"} == set(scripts.results())
    assert all(f"| `hcache {name}` | {said} |" in page for name, said in scripts.results().items())


def test_errors_come_whole_out_of_a_worker_process() -> None:
    for kind in KINDS:
        error = pickle.loads(pickle.dumps(kind("it is gone.", "Get it back.")))
        assert type(error) is kind and (error.message, error.hint) == (
            "it is gone.",
            "Get it back.",
        )


def test_several_errors_in_one_keep_each_way_out() -> None:
    one, two = EngineError("one died.", "Start one."), ArmError("two is lost.", "Find two.")
    assert together([two]) is two
    both = together([one, two])
    assert str(both) == "one died. Start one. two is lost. Find two."
    assert both.hint == "Find two."
