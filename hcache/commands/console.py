"""The one console: foreign text is shown as it is, never obeyed.

Questions, replies, paths and names come from others. Nothing in them is markup or an emoji code,
and control characters are shown instead of acting on the terminal. Styles stand apart from text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hcache.commands.options import Format
from hcache.data.visible import in_markdown, visible
from hcache.files import json_text

SECONDS_BETWEEN_LINES = 30.0
GAP = 2  # between columns
SHORTEST = 12  # characters that are left of a text that is cut
LONGEST = 40  # of a word that is not broken
WIDE = 160  # where output is not a terminal: files and pipes have no margin

_CSV_SPECIAL = re.compile('[,"\r\n]')
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with what a spreadsheet begins to compute
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class PlainConsole(Console):
    """A console to which all strings, those in tables and titles included, are plain text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """See `Console`."""
        return super().render_str(visible(text), **options)


console = PlainConsole(width=None if sys.stdout.isatty() else WIDE)
notes = PlainConsole(stderr=True)


def say(text: str, style: str = "", to: Console = console) -> None:
    """Print a paragraph; the terminal breaks its lines, so that it is copied in one piece."""
    to.print(text, style=style or None, soft_wrap=True)


def field(name: str, text: str, style: str = "bold") -> None:
    """Print a name in that style, and a text behind it."""
    console.print(Text(visible(name), style), Text(visible(text)))


def print_json(value: Any) -> None:
    """Print a value for programs."""
    typer.echo(json_text(value))


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    format: Format = Format.table,
    *,
    whole: Any = None,
    columns: Sequence[str] = (),
    title: str | None = None,
    elide: bool = False,
) -> None:
    """Print rows in one of the formats; JSON is `whole` instead where that says more.

    `columns` are needed where there may be no row to tell them, or some of a row are left out.
    """
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    if format is Format.json:
        print_json(rows if whole is None else whole)
    elif format is Format.csv:
        typer.echo(csv_text(names, rows), nl=False)
    elif format is Format.markdown:
        typer.echo(markdown_text(names, rows), nl=False)
    else:
        whole_rows = [{name: row.get(name) for name in names} for row in rows]
        console.print(table_of(whole_rows, title, elide))


def markdown_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table of Markdown, in which foreign text is no markup; numbers to four digits."""
    marks = ["---:" if _is_numeric(row.get(name) for row in rows) else "---" for name in columns]
    lines = [list(map(in_markdown, columns)), marks]
    lines += ([in_markdown(_cell(row.get(name))) for name in columns] for row in rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, the one place where it is made: nested values as JSON, nothing for none.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, unless it is a
    number. A row of one nothing is quoted, since readers skip empty lines.
    """
    lines: list[list[str]] = [[_unlike_a_formula(name) for name in columns]]
    lines += ([_csv_cell(row.get(name)) for name in columns] for row in rows)
    return "".join((",".join(cells) or '""' * len(cells)) + "\n" for cells in lines)


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = json_text(value, None) if isinstance(value, dict | list | tuple) else str(value)
    if isinstance(value, str):
        text = _unlike_a_formula(text)
    if text and not _CSV_SPECIAL.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _unlike_a_formula(text: str) -> str:
    formula = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def table_of(
    rows: Sequence[Mapping[str, Any]], title: str | None = None, elide: bool = False
) -> RenderableType:
    """Rows for people: numbers to four digits, to the right.

    As wide as the console at most. Texts are broken between words, or with `elide` kept in one line
    and cut; where that does not help, each row is a block with a line for each column.
    """
    names = list(rows[0]) if rows else []
    numeric = [_is_numeric(row[name] for row in rows) for name in names]
    cells = [[visible(_cell(row[name])) for name in names] for row in rows]
    if elide:
        cells = [[cell.replace("\n", "↵") for cell in line] for line in cells]
    columns = [[name, *column] for name, *column in zip(names, *cells, strict=True)]
    widths = _widths(columns, [elide and not fixed for fixed in numeric], console.width)
    if widths is None:
        return _blocks(names, cells, title)
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.title_justify = "left"
    for name, fixed, width in zip(names, numeric, widths, strict=True):
        table.add_column(
            name,
            justify="right" if fixed else "left",
            width=width,
            no_wrap=elide,
            overflow="ellipsis" if elide else "fold",
        )
    for line in cells:
        table.add_row(*line)
    return table


def _widths(columns: Sequence[Sequence[str]], cut: Sequence[bool], room: int) -> list[int] | None:
    """Widths of columns, each given by its header and cells; None where they do not fit."""
    spare = room - GAP * len(columns)
    full = [max(map(_width, column)) for column in columns]
    if sum(full) <= spare:
        return full
    if any(cut):
        least = [
            max(_width(c[0]), min(w, SHORTEST if s else w))
            for c, w, s in zip(columns, full, cut, strict=True)
        ]
    else:
        least = [max(_longest_word(text) for text in column) for column in columns]
    if sum(least) > spare:
        return None
    for _ in range(spare - sum(least)):  # to whichever lacks most
        neediest = max(range(len(full)), key=lambda index: full[index] - least[index])
        least[neediest] += 1
    return least


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _longest_word(text: str) -> int:
    """Columns that a text needs: an estimate with its interval is a word."""
    words = re.findall(r"(?:\S+ )?\[[^\[\]\n]*\]|\S+", text)
    return min(LONGEST, max(map(cell_len, words), default=0))


def _blocks(names: Sequence[str], cells: Iterable[Sequence[str]], title: str | None) -> Group:
    """Rows as blocks, a line for each column."""
    parts: list[RenderableType] = [Text(title, "italic")] if title else []
    for number, line in enumerate(cells, 1):
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for name, cell in zip(names, line, strict=True):
            block.add_row(name, cell)
        parts += [Rule(f"{number}", align="left"), block]
    return Group(*parts)


def progress(*columns: str | ProgressColumn) -> Progress:
    """Bars on standard error; a string is a format of the `task` that it shows.

    A file or a pipe gets a line for each bar now and then instead.
    """
    kind = _Bars if notes.is_terminal else _Lines
    return kind(
        *(_PlainColumn(each) if isinstance(each, str) else each for each in columns), console=notes
    )


class _Bars(Progress):
    """Progress that a signal may interrupt while it starts: it is stopped then, as far as it is."""

    def start(self) -> None:
        """See `Progress`."""
        try:
            super().start()
        except BaseException:
            with suppress(IndexError):  # rich takes off a hook that may not be there yet
                self.stop()
            self.console.show_cursor(True)
            raise


class _Lines(_Bars):
    """Progress for files and pipes, which hold no bar that moves."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        told = [column for column in columns if not isinstance(column, BarColumn)]
        super().__init__(*told, console=console, auto_refresh=False)
        self._due = monotonic() + SECONDS_BETWEEN_LINES

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """See `Progress`."""
        super().update(task_id, **fields)
        if monotonic() >= self._due:
            self._due = monotonic() + SECONDS_BETWEEN_LINES
            self.console.print(self.make_tasks_table(self.tasks))


class _PlainColumn(TextColumn):
    """A column of plain text."""

    def render(self, task: Task) -> Text:
        """See `TextColumn`."""
        return Text(visible(self.text_format.format(task=task)), self.style)


def _is_numeric(values: Iterable[object]) -> bool:
    return all(isinstance(value, (int, float, type(None))) for value in values)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
