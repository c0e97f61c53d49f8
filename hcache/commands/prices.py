"""`hcache prices`: what the tokens of each arm cost, and where that is from."""

from __future__ import annotations

from dataclasses import asdict

from hcache.commands.console import notes, print_rows, say
from hcache.commands.options import (
    Database,
    ExperimentFile,
    Format,
    OutputFormat,
    Overrides,
    Plugins,
)
from hcache.commands.targets import load_experiment


def prices(
    experiment: ExperimentFile,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    format: OutputFormat = Format.table,
) -> None:
    """Show the prices that costs are made of, for 1,000,000 tokens. Runs no model.

    With a database, also the mean cost of the calls that it holds. Cached tokens are in no cost.

    Example: `hcache prices data/demo/experiment.yaml`
    """
    from hcache.runs.prices import prices_of

    loaded = load_experiment(experiment, set_, db, plugin)
    found = prices_of(loaded)
    rows = [asdict(arm) for arm in found.arms]
    if format is not Format.table:
        print_rows(rows, format, whole=asdict(found))
        return
    for name in ("cached", "call"):
        if not any(row[name] is not None for row in rows):
            rows = [{key: value for key, value in row.items() if key != name} for row in rows]
    print_rows(rows, title=f"prices of {loaded.name}, for 1,000,000 tokens")
    say(f"cost: {found.cost}")
    for remark in found.remarks:
        say(f"WARNING: {remark}", "bold red", notes)
