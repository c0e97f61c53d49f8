r"""Numbers in words, and in the decimal commas of other languages, as figures.

In comes text; out comes the same text with "3.14" for the "3,14" of a German sentence, "1200000"
for "1.2 million", "-12" for "minus 12" and "25" for "twenty-five" or "二十五". Nothing raises on
any text, and time grows with its length alone.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Words that English lacks, of languages that write decimals behind a comma.
_COMMA_LANGUAGE = re.compile(
    r"""
    \b (?: das | der | sind | ist | antwort | ergebnis | lösung | insgesamt | euro | réponse | est
      | résultat | les | respuesta | resultado | resposta | risposta | risultato | cevap
      | odpowiedź | wynik | antwoord | svar | vastaus | jawaban ) \b
    | [а-яё]{3} | đáp\ án
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CURRENCY = r"(?:€|eur\b|euros?\b|pesos?\b|reais\b|рубл|zł|₺|tl\b|kr\b|kronor\b|rupiah\b|đồng\b)"
_POINT_GROUP = re.compile(
    rf"(?<![\d.,])([1-9]\d{{0,2}})\.(\d{{3}})(?=[ \xa0]?{_CURRENCY})"
    rf"|(?<=€)([1-9]\d{{0,2}})\.(\d{{3}})(?![\d.,])",
    re.IGNORECASE,
)
# A comma before three digits separates thousands, one in brackets the items of a pair.
_DECIMAL_COMMA = re.compile(r"(?<![\d.,(\[])(\d++),(?!\d{3}(?!\d))(?=\d++(?![.,]\d))")
_ZERO_COMMA = re.compile(r"(?<![\d.,(\[/^])(?<!\\\{)(-?0),(?=\d++(?![.,]\d|[)\]]))")

_SCALES = {
    "k": 1000, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "dozen": 12, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4,
    "亿": 10**8, "億": 10**8,
}  # fmt: skip
_SCALED = re.compile(
    r"""
    (?<![\w.,/^]) (\d{1,15}+(?>(?:\.\d{1,15}+)?))
    (?: (k)\b | [ ]?(hundred|thousand|million|billion|trillion|dozen)s?\b
      | [ ]?([百千万萬亿億])(?![克米瓦]) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MINUS = re.compile(
    r"(?:^|(?<=\bis\s)|(?<=\bwas\s)|(?<=[=:(]\s))(?:minus|negative)\s+(?=[$\d.\\])", re.IGNORECASE
)

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SIZES = (
    {word: size for size, word in enumerate(_UNITS)}
    | {word: 10 * size for size, word in enumerate(_TENS, 2)}
    | {digit: size for size, digit in enumerate("零一二三四五六七八九")}
    | {"〇": 0, "两": 2, "兩": 2}
)
_SMALL = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS[1:10])}))?|(?:{'|'.join(_UNITS[::-1])}))"
)
_BELOW_1000 = rf"(?:{_SMALL} hundred(?: (?:and )?{_SMALL})?|{_SMALL})"
_SPELLED = re.compile(
    rf"(minus |negative )?({_BELOW_1000}"
    rf"(?: (?:thousand|million|billion)(?:,? (?:and )?{_BELOW_1000})?)*)\b",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"(负|負)?([零〇一二两兩三四五六七八九十百千万萬亿億]+)")


def with_points(text: str) -> str:
    """The text with decimal points for the commas that only a decimal can have.

    A comma is one where the number begins with "0,", and where words tell a language that has no
    decimal point; there "12.500 Euro" are thousands too.
    """
    if "," in text:
        text = _ZERO_COMMA.sub(r"\1.", text)
    if _COMMA_LANGUAGE.search(text):
        text = _POINT_GROUP.sub(lambda match: "".join(part or "" for part in match.groups()), text)
        text = _DECIMAL_COMMA.sub(r"\1.", text)
    return text


def in_figures(line: str) -> str:
    """The line with plain figures for "1.2 million", "3k" and "minus 12"."""
    return _MINUS.sub("-", _SCALED.sub(_multiplied, line))


def spelled_out(text: str) -> str:
    """The text with figures for the number in words that it begins with, as it is without any."""
    text = text.strip(" \t*$_")
    if match := _SPELLED.match(text):
        words = re.findall(r"[a-z]+", match[2].lower())
        return ("-" if match[1] else "") + str(_size(words)) + text[match.end() :]
    if match := _CHINESE.match(text):
        return ("-" if match[1] else "") + str(_size(list(match[2]))) + text[match.end() :]
    return text


def _multiplied(match: re.Match[str]) -> str:
    scale = (match[2] or match[3] or match[4]).lower()
    return str(Fraction(match[1]) * _SCALES[scale])


def _size(words: list[str]) -> int:
    """The number that words or Chinese digits say, the greatest scale last to be closed."""
    total = below = last = 0  # below: less than the last scale of thousands, last: one digit
    for word in words:
        scale = 10 if word == "十" else _SCALES.get(word, 0)
        if scale >= 10**4 or word in ("thousand",):
            total, below, last = total + (below + last) * scale, 0, 0
        elif scale:
            below, last = below + (last or 1) * scale, 0
        elif word in _SIZES:
            last += _SIZES[word]
    return total + below + last
