r"""Containers and markers: where a reply says that its short answer stands.

In comes a reply; out comes the part that holds the answer. A container encloses it
(`<answer>…</answer>`, the "answer" of a JSON object, `\boxed{…}`), a marker announces it
("The answer is …", "Answer:", "答案："). Extractors of short answers, numbers and letters all read
them here. Nothing raises on any text, and time grows with its length alone.
"""

from __future__ import annotations

import json
import re
from itertools import zip_longest

_HALF_WIDTH = (
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys(map(ord, "‐‑‒–—―−﹣"), "-")
    | dict.fromkeys([0xA0, 0x202F, 0x3000, *range(0x2002, 0x200B)], " ")
)

_NAMES = re.compile("answer|choice|option", re.IGNORECASE)  # in every key of these
_TAG = re.compile(
    r"<(/?)(?:(?:(?:final|short)[ _-]?)?(?:answer|ans|solution|response)|choice)\b[^<>\n]{0,100}>"
    r"|\[(/?)(?:final[ _-])?answer\]",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"""(["'])(?:(?:(?:the|final|correct|short)[ _-]?)?answer(?:[ _-]?(?:letter|choice|option))?
      |(?:(?:final|correct|selected|chosen|best)[ _-]?)?choice
      |(?:final|correct|selected|chosen|best)[ _-]?option)\1\s*:\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_STRING = re.compile(r""""((?>(?:[^"\\]|\\.)*))"|'((?>(?:[^'\\\n]|\\.)*))'""", re.DOTALL)
# Backslashes that no JSON string holds, or that begin a command of LaTeX rather than an escape.
_LATEX = re.compile(
    r"""\\(?: (?=frac|bf|boxed|text|times|tfrac|theta|right|rho|neq|nu\b)
            | (?!["\\/bfnrt]|u[0-9a-fA-F]{4}) ) | (\\.)""",
    re.VERBOSE | re.DOTALL,
)
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_INNER_KEYS = ("answer", "value", "letter", "text")
_DEEPEST = 4  # containers in one another, lists and objects in a value

_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\d++(?:[.,]\d++)*|(?<=\s)[A-Za-z](?![A-Za-z'’]))")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|sf|it)|mbox|hbox)\s*\{([^{}]*)\}"
)
_SPACED_MINUS = re.compile(r"^[-−–]\s+(?=[\d.\\])")  # in a box never the bullet of a list

_NO_WORDS = re.compile(r"```\w*|\\[\[\]()]|\$\$|\\(?:begin|end)\{[a-z*]+\}")
_REMARK = re.compile(
    r"[*_>\s]*(?:note|confidence|explanation|let me know|i hope)\b|\(.*\)\.?\Z", re.IGNORECASE
)
_ANSWER = re.compile("[aA](?i:ns)(?i:wer)?")  # its two sides are looked at apart, which is fast
_THE = re.compile(r"\b(?:the|my|our|final|correct|right|best)\s{1,3}\Z", re.IGNORECASE)
_COLON = re.compile(r"""["'`*_)\]\s]{0,6}[:=]""")
_DASH = re.compile(r"[*_]{0,3} -[ ]")
_LINE_START = re.compile(r"(?:\A|\n)[ \t>#*_-]*\Z")
_VERB = re.compile(
    r"""
    \b (?: (?!\bnot\b|n['’]t\b|\bcannot\b|\bnever\b)
        (?: "[^"\n]{1,200}" | "(?![^"\n]{1,200}") | [^.:;!?\n'’"] | ['’](?=\w) ) ){0,60}?
    \b (?: is | was | (?<!can\s)(?<!could\s)(?<!might\s)(?<!may\s) be ) \b \s* :?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NOUNS = (
    "antwort", "antwoord", "réponse", "reponse", "respuesta", "resposta", "risposta", "ответ",
    "cevap", "odpowiedź", "đáp án", "答案", "答え", "正解", "正答", "정답", "الجواب", "الإجابة",
    "الاجابة", "उत्तर", "lösung", "solución", "soluzione", "solução", "jawaban", "svaret",
)  # fmt: skip
_FOREIGN = re.compile(
    rf"""
    (?: {"|".join(noun.replace(" ", r"[ ]") for noun in _NOUNS)} ) ["'`*_)\]]{{0,4}}
    (?: [^.:;!?\n]{{0,40}}? [ ]? (?: : | \s-\s
          | \b (?: ist | lautet | wäre | is | est | serait | es | sería | é | è | seria | это
              | to(?:\ jest)? | adalah | là | är ) \b
          | (?:هو|هي) \b )
      | [^.:;!?\nA-Za-z0-9]{{0,8}}? (?: 是 | 为 | 為 | は | 은 | 는 )
    )
    \s* :?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def half_width(text: str) -> str:
    """The text with ASCII for full-width forms, every dash and every space; as long as before."""
    return text if text.isascii() else text.translate(_HALF_WIDTH)


def contained(text: str) -> str | None:
    """The content of the last container, or of the innermost one in it; None without any."""
    content = None
    for _ in range(_DEEPEST):
        inner = _last(text)
        if inner is None:
            break
        content = text = inner
    return content


def markers(text: str) -> list[int]:
    """Ends of the markers, in order."""
    plain = half_width(text)
    ends = [end for match in _ANSWER.finditer(plain) if (end := _announced(plain, match))]
    lower = plain.lower()
    if any(noun in lower for noun in _NOUNS):
        ends += [match.end() for match in _FOREIGN.finditer(plain)]
    return sorted(ends)


def _announced(plain: str, answer: re.Match[str]) -> int:
    """End of the marker that holds this "answer"; 0 if there is none."""
    start, end = answer.span()
    if start and (plain[start - 1].isalnum() or plain[start - 1] == "_"):
        return 0
    after = _COLON.match(plain, end)
    if not after and _LINE_START.search(plain[max(0, start - 12) : start]):
        after = _DASH.match(plain, end)
    if not after and _THE.search(plain[max(0, start - 12) : start]):
        after = _VERB.match(plain, end)
    return after.end() if after else 0


def said_lines(text: str) -> list[str]:
    """The lines that are not blank, without fences and the like, and without closing remarks."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    lines = [line for line in lines if not _NO_WORDS.fullmatch(line)] or lines
    while len(lines) > 1 and _REMARK.match(lines[-1]):
        lines.pop()
    return lines


def unwrapped(text: str) -> str:
    r"""The text without a \text{…}, \mathrm{…} or the like that holds all of it."""
    whole = _WRAPPED.fullmatch(text.strip())
    return whole[1].strip() if whole else text.strip()


def without_wrappers(text: str) -> str:
    r"""The text with the content of each \text{…}, \mathrm{…} or the like in its place."""
    return _WRAPPED.sub(r"\1", text) if "\\" in text else text


def _last(text: str) -> str | None:
    found: list[tuple[int, str]] = []
    if _TAG.search(text):
        found += _tagged(text)
    if _NAMES.search(text):
        found += _valued(text)
    if "\\boxed" in text or "\\fbox" in text:
        found += _boxed(text)
    return max(found)[1] if found else None


def _tagged(text: str) -> list[tuple[int, str]]:
    """End and content of the last tag: a closed one if there is any; stop strings cut the close."""
    opened: list[tuple[int, str]] = []
    closed: list[tuple[int, str]] = []
    tags = list(_TAG.finditer(text))
    for tag, following in zip_longest(tags, tags[1:]):
        end = following.start() if following else len(text)
        content = text[tag.end() : end].strip()
        if _closes(tag) or not content:
            continue
        (closed if following and _closes(following) else opened).append((end, content))
    return closed[-1:] or opened[-1:]


def _closes(tag: re.Match[str]) -> bool:
    return bool(tag[1] or tag[2])


def _valued(text: str) -> list[tuple[int, str]]:
    """End and content of the last answer in JSON, or in what looks like it."""
    keys = list(_KEY.finditer(text))
    if not keys:
        return []
    at = keys[-1].end()
    if string := _STRING.match(text, at):
        return [(string.end(), _unescaped(string[1] or string[2] or "").strip())]
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return []
    content = _flat(value)
    return [] if content is None else [(end, content.strip())]


def _unescaped(raw: str) -> str:
    doubled = _LATEX.sub(lambda match: match[1] or r"\\", raw)
    try:
        value = json.loads(f'"{doubled}"', strict=False)
    except ValueError:
        return raw
    return value if isinstance(value, str) else raw


def _flat(value: object, depth: int = 0) -> str | None:
    """A JSON value as text: of a list the items, of an object the value that answers."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case list() if depth < _DEEPEST:
            items = [_flat(item, depth + 1) for item in value]
            return ", ".join(item for item in items if item is not None)
        case dict() if depth < _DEEPEST:
            lower = {str(key).lower(): inner for key, inner in value.items()}
            keys = [key for key in _INNER_KEYS if key in lower] or list(lower)[:1]
            return _flat(lower[keys[0]], depth + 1) if keys else None
        case _:
            return None


def _boxed(text: str) -> list[tuple[int, str]]:
    r"""End and content of the last \boxed{…} whose braces balance."""
    boxes: list[tuple[int, int]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{" or (brace[0].endswith("{") and len(brace[0]) > 2):
            opened.append(brace)
        elif brace[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{":
                boxes.append((opening.end(), brace.start()))
    boxes += [match.span(1) for match in _BARE_BOX.finditer(text)]
    if not boxes:
        return []
    start, end = max(boxes)
    return [(end, _SPACED_MINUS.sub("-", unwrapped(text[start:end])))]
