r"""Numerals: the numbers of one line of text, each with its exact value.

In comes text; out comes a number in plain notation ("-1080", "3.5", "1/2", "1e3"), of which
`value` is the exact value. Read are the separators of thousands of LaTeX and of many countries,
fractions, mixed numbers, powers, powers of ten, and numbers beside a currency sign, a percent sign
or a unit. Not read are numbers inside something else: times, dates, versions, names such as H2O,
and expressions that hold a root, a constant or a variable. Nothing raises on any text, and time
grows with its length alone.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

from hcache.data.containers import half_width, without_wrappers

Numerals = list[tuple[int, int, str | None]]
"""Start, end and plain notation of numbers; of an expression as a whole, None."""

_MOST_DIGITS = 1000  # of a number that is worked out; longer ones are taken as they stand

# Plain notation for other spellings
_FRACTIONS = {
    chr(code): "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", chr(code)).split("⁄"))
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "∙": "*", "⁄": "/", "٬": ",", "٫": ".", "’": "'"} | _FRACTIONS
)
_RAISED = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LATEX = re.compile(
    r"""
    (?P<nothing> \\(?: ! | (?:left|right|displaystyle|textstyle|bf|rm)(?![A-Za-z])
      | pmod\s*\{[^{}]*\} ) )
  | (?P<space> \\[,;:\ ()\[\]] | ~ )
  | (?P<times> \\(?:times|cdot)(?![A-Za-z]) )
  | (?P<frac> \\[dtc]frac(?![A-Za-z]) )
  | (?P<degree> \^\s*\{?\s*\\circ\s*\}? | \\degree(?![A-Za-z]) )
  | \\(?P<sign> [%$] )
    """,
    re.VERBOSE,
)
_PLAIN_FOR = {"nothing": "", "space": " ", "times": "*", "frac": "\\frac", "degree": "°"}
_BRACED_POWER = re.compile(r"\^\s*\{\s*(-?\d+)\s*\}")
_BARE_NUMERATOR = re.compile(r"\\frac\s*(\d)")
_BARE_DENOMINATOR = re.compile(r"\\frac(\{[^{}]*\})\s*(\d)")
_BRACED_COMMA = re.compile(r"\{([,\s])\}(\d{3}(?!\d))?")

# Possessive wherever digits repeat, and groups atomic: that keeps time linear. No group is
# possessive: before Python 3.11.5 one that fails half-way loses what it had matched (gh-106052 of
# github.com/python/cpython).
_GROUPED = re.compile(
    r"""
    (?<![\d.,]) (?:
        \d{1,3} (?P<mark>[,'_ ]) \d{3} (?!\d) (?> (?: (?P=mark) \d{3} (?!\d) )* )
            (?: (?<=\d) (?P<comma>,) (?=\d) (?<![,]\d\d\d,) (?! \d{3} (?!\d) ) )?
      | \d{1,2} (?> (?: ,\d\d (?!\d) )+ ) ,\d{3} (?!\d)
      | \d{1,3} (?> (?: \.\d{3} (?!\d) ){2,} ) (?! \.?\d )
      | (?P<points> \d{1,3} (?> (?: \.\d{3} (?!\d) )+ ) ) (?P<decimals> ,\d++ )
    )
    """,
    re.VERBOSE,
)

_UNIT = r"""
    (?: [ ]?% | [ ]?°[CF]? | [ ]?[$€£¥₹] | [ ]*+
        (?: [kcdmnµμ]?m | [kmµμ]?g | m?[lL] | [mµμn]?s | h | mi | ft | in | yd | lbs? | oz | mph
          | km/h | [kMG]?Hz | [kM]?Pa | [kM]?[JWNV] | kWh | (?:square|sq|cubic)[ ][a-z]{1,12}
          | hours? | hrs? | min(?:ute)?s? | seconds? | days? | weeks? | months? | years? | units?
          | dollars? | cents? | euros? | degrees? | percent | met(?:er|re)s? | inch(?:es)? | feet
        )
        (?: \^-?\d )? (?: / [A-Za-z]{1,5} (?: \^-?\d )? )?
    )
"""
_NUMERAL = r"""
    (?P<sign> (?<![A-Za-z0-9_)\]}%°]) - (?=[$€£¥₹]?[\d.\\]) | (?<=[=({]) [ ]? -[ ] (?=[\d.\\]) )?
    [$€£¥₹]? [ ]? (?<![A-Za-z_\d])
    (?:
        (?> (?: (?P<whole>\d++) [ ]? )? ) \\frac
        \{ \s*+ (?P<top> -?(?:\d++(?:\.\d++)?|\.\d++) ) \s*+ \} \s*+
        \{ \s*+ (?P<bottom> -?(?:\d++(?:\.\d++)?|\.\d++) ) \s*+ \}
      | (?: (?P<mixed>\d++) [ ]++ )? (?<![\d.,/])
        (?P<over> \d++(?:\.\d++)? ) / (?P<under> \d++(?:\.\d++)? )
        (?! \d | [.,:/]\d )
      | (?P<plain> \d++(?:\.\d++)? | (?<![A-Za-z\d])\.\d++ ) (?! [.:/]\d )
        (?: (?P<e> [eE][-+]?\d{1,3} (?![A-Za-z_\d]) )
          | [ ]?+ [*x] [ ]?+ 10 [ ]?+ \^ (?P<ten> -?\d++ ) (?!\.\d)
          | [ ]?+ \^ (?P<power> -?\d++ ) (?!\.\d)
        )?
    )
"""
_TOKEN = re.compile(
    rf"""
    (?P<other> \d++ (?> (?: :\d++ )+ ) | \d++ (?> (?: \.\d++ ){{2,}} )
      | \d++ /\d++ (?> (?: /\d++ )+ )
      | \d{{4}}-\d\d?-\d\d? (?!\d) )
  | (?P<number> {_NUMERAL} )
  | (?P<symbol> \\(?: frac|binom|sqrt|root|pi|ln|log|exp|sin|cos|tan|cot|sec|csc|arc[a-z]+|sum|int
                    | prod|lim|infty|alpha|beta|gamma|delta|theta|lambda|sigma|phi|varphi|omega|pm
                    ) (?![A-Za-z])
      | [√∛π∞±] | (?<![A-Za-z]) (?:sqrt|pi|ln|log|sin|cos|tan) (?![A-Za-z])
      # A variable: a letter with a power or beside an operator; k, m, s, … are units.
      | (?<![A-Za-z\\]) (?: [a-jln-rt-zA-LN-Z] (?=\^)
          | [b-fijn-rt-z] (?= [-+*/][\d\\(A-Za-z] | [ ][+*][ ][\d\\(A-Za-z] )
          | (?<=\d) [b-fijn-rt-z] (?= [ ][-+*][ ][\d\\(A-Za-z] )
          | (?<=[-+*/(^]) [b-fijn-rt-z] (?![A-Za-z0-9_'])
          | (?<=\d[ ][-+*][ ]) [b-fijn-rt-z] (?![A-Za-z0-9_'])
          | (?<=[\d{{]) [A-Za-z] (?=\}})
        )
    )
  | (?P<word> [A-Za-z_][A-Za-z0-9_]*+ (?: \^-?\d++ | (?<=\d) (?> (?: \.\d++ )+ ) )? | \\[A-Za-z]++ )
  | (?P<operator> [-+*/] )
  | (?P<raise> \^ )
  | (?P<open> \( )
  | (?P<close> \) )
  | (?P<blank> [\s{{}}]++ )
  | (?P<gap> . )
    """,
    re.VERBOSE,
)
_WHOLE = re.compile(rf"\s* \$? (?: {_NUMERAL} ) (?: {_UNIT} )? \.? \s* \$? \s*", re.VERBOSE)
_LOOSE = re.compile(r"^\s*~|\d_\d")  # about, a name of a programming language
_SIGN = re.compile(r"^\+(?=[\d.])|^(-)[ ]+(?=[\d.\\])")
DIGIT = re.compile(rf"[\d{''.join(_FRACTIONS)}]")
UNIT = re.compile(rf"{_UNIT} (?![A-Za-z0-9^_])", re.VERBOSE)


def value(number: str) -> Fraction:
    """The exact value of a number in plain notation."""
    over, _, under = number.partition("/")
    # By way of Decimal: int() refuses the thousands of digits that a looping model may write.
    return Fraction(Decimal(over)) / Fraction(Decimal(under or "1"))


def whole_number(text: str) -> str:
    """The number that a text is as a whole, with its unit or sign of currency if any, or ""."""
    if _LOOSE.search(text):
        return ""
    match = _WHOLE.fullmatch(_SIGN.sub(r"\1", plain(text).strip()))
    return (_number(match) or "") if match else ""


def plain(line: str) -> str:
    """The line in fewer spellings: plain digits, separators, powers and spaces."""
    if not line.isascii():
        line = half_width(line).translate(_SIGNS)
        line = _RAISED.sub(lambda match: "^" + match[0].translate(_LOWERED), line)
    if "\\" in line or "~" in line:
        line = _LATEX.sub(_spelling, without_wrappers(line))
        line = _BARE_DENOMINATOR.sub(r"\\frac\1{\2}", _BARE_NUMERATOR.sub(r"\\frac{\1}", line))
    if "{" in line:
        line = _BRACED_POWER.sub(r"^\1", line)
        line = _BRACED_COMMA.sub(lambda m: m[1] + m[2] if m[2] else ".", line)
    return _GROUPED.sub(_ungrouped, line)


def _spelling(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    return match["sign"] if kind == "sign" else _PLAIN_FOR[kind]


def _ungrouped(match: re.Match[str]) -> str:
    if match["points"]:
        return match["points"].replace(".", "") + "." + match["decimals"][1:]
    return re.sub(r"\D", "", match[0]) + ("." if match["comma"] else "")


def numerals(line: str) -> Numerals:
    """The numbers of a line in plain spelling."""
    found: Numerals = []
    run: Numerals = []  # numbers joined by operators and brackets
    symbolic = product = spaced = False
    last = "gap"
    for token in _TOKEN.finditer(line):
        kind = token.lastgroup or "gap"
        kind = "number" if token["number"] is not None else kind
        if kind == "blank":
            spaced = spaced or token[0].isspace()
            if "{" in token[0] and last == "number":  # the next argument of a command
                last = "operator"
            continue
        if not _joins(last, kind, spaced):
            found += _ended(run, symbolic)
            run, symbolic, product = [], False, False
        glued = last in ("number", "close") and not spaced
        product = product or (kind == "open" and glued)
        symbolic = symbolic or kind == "symbol" or (last == "raise" and kind in ("number", "open"))
        symbolic = symbolic or (kind == "number" and product) or (last, kind) == ("close", "raise")
        if kind == "number":
            run.append((token.start(), token.end(), _number(token)))
        last, spaced = kind, False
    return found + _ended(run, symbolic)


def _joins(last: str, kind: str, spaced: bool) -> bool:
    """True where a token goes on with the expression before it."""
    match kind:
        case "operator" | "raise" | "close":
            return last not in ("gap", "word", "other")
        case "symbol":
            return last not in ("gap", "word", "other")
        case "number":
            return last in ("operator", "raise", "open", "symbol")
        case "open":
            return last in ("operator", "raise", "open", "symbol") or (
                last in ("number", "close") and not spaced
            )
        case _:
            return False


def _ended(run: Numerals, symbolic: bool) -> Numerals:
    return [(run[0][0], run[-1][1], None)] if symbolic and run else run


def _number(match: re.Match[str]) -> str | None:
    """The numeral in plain notation; None where it has no value, or none that can be said."""
    sign = "-" if match["sign"] else ""
    if match["top"]:
        return _fraction(sign, match["whole"], match["top"], match["bottom"])
    if match["over"]:
        return _fraction(sign, match["mixed"], match["over"], match["under"])
    plain = sign + match["plain"]
    if match["ten"]:
        return f"{plain}e{match['ten']}" if len(match["ten"]) <= 4 else None
    if match["power"]:
        return _power(sign, match["plain"], match["power"])
    return plain + (match["e"] or "")


def _fraction(sign: str, whole: str | None, over: str, under: str) -> str | None:
    if not value(under):
        return None
    if not whole and (over + under).isdigit():
        return f"{sign}{over}/{under}"
    if len(over) + len(under) + len(whole or "") > _MOST_DIGITS:
        return None
    part = value(over) / value(under)
    if whole and not 0 < part < 1:  # a product, or two numbers
        return None
    return sign + str(value(whole or "0") + part) if part >= 0 else _negated(sign, part)


def _negated(sign: str, part: Fraction) -> str:
    return str(-part if sign else part)


def _power(sign: str, base: str, exponent: str) -> str | None:
    digits = exponent.lstrip("-")
    if len(digits) > 4 or len(base) * int(digits) > _MOST_DIGITS:
        return None
    number = value(base)
    if not number and exponent.startswith("-"):
        return None
    return sign + str(number ** int(exponent))
