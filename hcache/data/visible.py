"""Foreign text made safe to show: what would act on a terminal or a page is written out."""

from __future__ import annotations

import re

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


def visible(text: str) -> str:
    r"""The text with every character that would act on a terminal or page written out, as \x1b."""
    return _ACTING.sub(_written_out, text.replace("\r\n", "\n"))


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
