"""The wording of a question, less all that does not change what is asked.

Two questions that differ only in case, spacing or punctuation are one question: whoever was trained
on one has seen the other. What carries meaning stays: a sign, a decimal point, an operator, a
factorial, an exponent, the brackets of a formula. "What is 3.5?" and "What is 35?" are two
questions.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = "#%&*/@\\_‰‱′·§"  # operators, units and names, which Unicode counts as punctuation
_QUOTES = '"`´„‚'  # of any other category than quotation marks
_MINUS = "−"

_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207f]+")  # 10³ is 10^3, not 103
_LOWERED = re.compile("[\u2080-\u208e\u2090-\u209c]+")

# Each alternative begins with its character and looks back over it: a search then skips from one
# such character to the next, which takes a fifth of the time.
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_LETTER = r"[^\W\d_]"
_HYPHEN = re.compile(
    rf"-(?<={_LETTER}{_LETTER}-)-*(?={_LETTER})|-(?<={_LETTER}-)-*(?={_LETTER}{_LETTER})"
    rf"| (?<={_LETTER}{_LETTER} )-+ (?={_LETTER}{_LETTER})"
)
_PUNCTUATION = re.compile(
    rf"""
    [,;?]
    | \.(?!\d) | \.(?<={_LETTER}\.)       # not the point of 3.5 or of .5
    | :(?!\d) | :(?<!\d:)                 # not the colon of 3:45
    | '(?!\() | '(?<!\w')                 # not the derivative f'(x)
    | !(?<![\d)\]]!)(?<!\b\w!)(?![=\w(])  # not 5!, n!, !=, !x
    """,
    re.VERBOSE,
)
_BRACKET = re.compile(r"[()\[\]{}]")
_FORMAL = re.compile(r"\d|[^\w\s()\[\]{}]|_")
_SPACE = re.compile(r" (?<!\d )| (?!\d)")


def normalised(question: str) -> str:
    """A question without case, spacing and punctuation, as far as these change nothing it asks.

    Letters stand next to each other, numbers are kept apart; hyphens go between words, and brackets
    where there is neither number nor symbol. A text that has nothing else keeps its punctuation.
    """
    text = _folded(question)
    plain = _THOUSANDS.sub("", text)
    plain = _PUNCTUATION.sub(" ", _HYPHEN.sub(" ", plain))
    if not _FORMAL.search(plain):
        plain = _BRACKET.sub(" ", plain)
    return _SPACE.sub("", " ".join(plain.split())) or text


def _folded(text: str) -> str:
    """Text without case, with one character for each of dash, quotation mark and space."""
    if text.isascii():
        folded = text.lower()
    else:
        text = _LOWERED.sub(r"_\g<0>", _RAISED.sub(r"^\g<0>", text))
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_TABLE).split())


class _Characters(dict[int, str]):
    """Stand-ins of characters, by code; filled in as characters are met."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


def _plain(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Pd" or char == _MINUS:
        return "-"
    if category in ("Pi", "Pf") or char in _QUOTES:
        return "'"
    if category == "Cf":  # no width
        return ""
    if category in ("Zs", "Zl", "Zp", "Cc"):
        return " "
    sentence = category == "Po" and char not in _SIGNS and not char.isascii()
    quoting = category in ("Ps", "Pe") and 0x3000 <= ord(char) <= 0x303F  # 「」 and their like
    return "?" if sentence or quoting else char


_TABLE = _Characters()
