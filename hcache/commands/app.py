"""The application: its commands in order, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from functools import partial
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from hcache import __version__
from hcache.commands import (
    bench,
    check,
    demo,
    doctor,
    export,
    importing,
    inspect,
    logged,
    merge,
    prices,
    report,
    reproducing,
    routers,
    runs,
    sampling,
    status,
)
from hcache.commands.console import notes, say
from hcache.data.visible import one_line, tell_of_warnings
from hcache.errors import HcacheError
from hcache.processes.signals import ENDING, EndRequest, end_now, ending_signals

INTERRUPTED = 130  # what typer exits with after any KeyboardInterrupt
EXIT_CODES = {
    0: "all went well",
    1: "an error, which is said in one line with the way out",
    2: "no command, or an option or argument that it does not take, or lacks",
    **{128 + signal: f"ended by {signal.name}" for signal in ENDING},
}

app = typer.Typer(
    name="hcache",
    help="Sample every model sequence once, then train and evaluate routers by replay.",
    epilog="Exit codes: "
    + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items())
    + ". docs/errors.md has every error with its way out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hcache {__version__}")
        raise typer.Exit


@app.callback()
def _version(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(sampling.plan)
app.command()(prices.prices)
app.command()(sampling.sample)
app.command()(sampling.rescore)
app.command()(status.status)
app.command("import")(importing.import_)
app.command()(merge.merge)
app.command()(routers.train)
app.command()(bench.bench)
app.command("eval")(routers.evaluate)
app.command()(logged.logged)
app.command()(report.report)
app.command()(reproducing.reproduce)
app.command()(routers.route)
app.command()(inspect.show)
app.command()(inspect.sql)
app.command()(check.check)
app.command()(check.verify)
app.command()(check.digest)
app.command()(export.export)
app.add_typer(runs.app, name="runs")
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):  # what an encoding lacks is written out
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    tell_of_warnings(partial(say, to=notes))
    with ending_signals() as request:
        try:
            app()
        except HcacheError as error:
            _fail(error)
        except OSError as error:  # a file or folder that cannot be read or written
            _fail(HcacheError(f"{error}.", "Check the path, its permissions and its disk."))
        except KeyboardInterrupt:
            _stop(request)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _stop(request)
            raise


def _stop(request: EndRequest) -> NoReturn:
    say(f"stopped by {request.name}; run the same command again to go on.", to=notes)
    end_now(request.exit_code)


def _fail(error: HcacheError) -> NoReturn:
    notes.print(Text("error:", "bold red"), one_line(f"{error}"), soft_wrap=True)
    sys.exit(1)
