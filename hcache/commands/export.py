"""`hcache export`: outcomes on their way out, without the questions unless these may go too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hcache.commands.console import say
from hcache.commands.options import Database, Plugins, named_option
from hcache.commands.targets import Target, database_of, is_experiment, load_experiment
from hcache.data.queries import known_split
from hcache.errors import StoreError
from hcache.exports import EXPORTERS, Selection
from hcache.exports.writing import check_free, write_out
from hcache.plugins import load_file, lookup, options_of
from hcache.store import Store


def export(
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write: .jsonl or .parquet; with hf the folder.", show_default=False
        ),
    ],
    target: Target = None,
    db: Database = None,
    experiment: Annotated[
        str | None, typer.Option(help="Which one, where the database holds several.")
    ] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="With questions, references and prompts.")
    ] = False,
    to: Annotated[str, typer.Option(help=f"One of: {', '.join(EXPORTERS)}.")] = "table",
    split: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated splits; otherwise all, and train alone for sft and preferences.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="An option of the format, NAME=VALUE. Repeatable."),
    ] = None,
    plugin: Plugins = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write the outcomes of an experiment for other programs: every trajectory with its replies,
    scores and cost as a table, or what docs/recorded.md lists.

    Questions, references and prompts stay out: their licence may forbid copies. Replies stand as
    they are, also where a model repeats what it was asked; the command says how many do.

    Example: `hcache export replies.parquet EXPERIMENT.yaml`
    """
    for file in plugin or ():
        load_file(file)
    exporter = EXPORTERS.find(to)
    options = options_of(exporter, dict(map(named_option, option or ())), f"format {to!r}")
    splits = tuple(known_split(name.strip()) for name in split.split(",")) if split else ()
    check_free(out, force)
    if experiment is None and target is not None and is_experiment(target):
        loaded = load_experiment(target, (), db)
        experiment, path = loaded.name, loaded.db
    else:
        path = database_of(target, db)
    with Store(path) as store:
        chosen = Selection(store, chosen_experiment(store, experiment), splits, questions)
        made = exporter(chosen, out, **options)
    write_out(out, made.content)
    say("; ".join([f"{made.said} in {out}", *made.notes]))


def chosen_experiment(store: Store, name: str | None) -> str:
    """The experiment of that name, or the only one.

    Raises:
        ConfigError: there is none of that name.
        StoreError: there are several to choose from, or none.
    """
    known = store.experiments()
    if not known:
        raise StoreError(
            f"{store.path} holds no experiment.", "Fill it with: hcache sample EXPERIMENT.yaml"
        )
    if name is not None:
        return lookup({experiment: experiment for experiment in known}, name, "experiment")
    if len(known) > 1:
        raise StoreError(
            f"{store.path} holds {len(known)} experiments.",
            f"Choose with --experiment: {', '.join(known)}.",
        )
    return known[0]
