"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hcache.config.sampling import known_workers
from hcache.data.metrics import allow_code_execution
from hcache.errors import ConfigError


class Format(StrEnum):
    """Forms in which a command prints what it has found."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


ExperimentFile = Annotated[
    Path, typer.Argument(help="The experiment's YAML file.", show_default=False)
]
Database = Annotated[
    Path | None, typer.Option("--db", help="Database, in place of the experiment's.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value, as in `--set train.alpha=0.1`. Repeatable."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with metrics, trainers, … of yours. Repeatable."),
]
With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", help="An experiment of another workflow on the same questions. Repeatable."
    ),
]


def _workers(text: str) -> str:
    try:
        return str(known_workers(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error


Workers = Annotated[
    str | None,
    typer.Option(
        parser=_workers,
        metavar="N",
        help="GPUs, or shares of the cores, to run models on; all GPUs or half the cores if not "
        "said. `ray` or `ray://HOST:PORT`: those of a Ray cluster.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution",
        help="Run the code that models wrote, in a sandbox, for the metric pass@1.",
    ),
]
OutputFormat = Annotated[
    Format, typer.Option("--format", help="Form of the output; JSON has all there is to say.")
]
Wide = Annotated[bool, typer.Option("--wide", help="Every figure with its interval, hops and AIQ.")]
TrackerName = Annotated[
    str,
    typer.Option(
        "--tracker",
        help="Where metrics are shown: tensorboard, trackio, wandb, mlflow or none.",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed, in place of train.seed.")]


def permit_code(allowed: bool) -> None:
    """Let this process run what models wrote, where the command line says so."""
    if allowed:
        allow_code_execution()


def named_option(text: str) -> tuple[str, str]:
    """Name and value of an option of a format.

    Raises:
        ConfigError: the text is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option {text}: not of the form NAME=VALUE.", "Like query=prompt")
    return name.strip(), value
