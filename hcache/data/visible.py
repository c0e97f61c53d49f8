"""Foreign text made safe to show: what would act on a terminal or a page is written out."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import TextIO

# What moves the cursor, changes colours or the order of letters, is not seen, or cannot be written.
# What joins letters or emoji (U+200C, U+200D), chooses a glyph (variation selectors) or is seen
# itself (the number signs of Arabic) reorders nothing, and scripts need it.
_ACTING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\xad\u180e\u200b\u2060-\u2065\ufeff"  # no width: hyphens, spaces, operators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction
    "\u2028\u2029\u206a-\u206f\ufff0-\ufffb\ufffe\uffff"  # separators, annotations, no characters
    "\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters without a glyph
    "\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # of layout
    "\U000e0000-\U000e00ff"  # tags: a second text that is not seen
    "\ud800-\udfff"  # halves of surrogate pairs
    "]"
)

_MARKUP = re.compile(r"([\\`*_\[\]|~$])")


def visible(text: str) -> str:
    r"""The text with every character that would act on a terminal or page written out, as \x1b."""
    return _ACTING.sub(_written_out, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    r"""The text as `visible` has it on one line: line feeds are written out too, as \n."""
    return visible(text).replace("\n", r"\n")


def in_markdown(text: str) -> str:
    """The text on one line as Markdown shows it: nothing in it is markup, HTML or a new cell."""
    line = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\1", line)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def tell_of_warnings(tell: Callable[[str], object]) -> None:
    """Hand what is logged without a handler, and Python's warnings, to `tell`, safe to show.

    Both would reach standard error as they are, through progress bars that are drawn there.
    """

    def told(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        tell(visible(warnings.formatwarning(message, category, filename, lineno, "").rstrip()))

    logging.lastResort = _Told(tell)
    warnings.showwarning = told


class _Told(logging.Handler):
    """The handler of last resort, which writes nothing itself."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """See `Handler`."""
        try:
            self.tell(visible(self.format(record)))
        except Exception:  # a message that does not take its arguments
            self.handleError(record)
