r"""Letters: the one of multiple choice that a text chooses.

In comes text; out comes a letter from A to J, or "" where the text chooses none, or hedges between
several. Markup around letters is taken away first; containers and markers are those of
`containers`. Nothing raises on any text, and time grows with its length alone.
"""

from __future__ import annotations

import re

from hcache.data.containers import contained, half_width, markers, without_wrappers

_MARKUP = re.compile(
    r"</?(?:b|i|u|em|strong|span|p|div|code|mark|font|sub|sup|br|li|h[1-6])\b[^<>\n]{0,100}>"
    r"|[*`$“”\"]|__|\\[()\[\],;:! ]|\\(?:left|right|displaystyle|bf|rm)\b",
    re.IGNORECASE,
)

# A letter that answers, rather than one that belongs to a word or to initials. "A dog", "I think"
# are an article and a pronoun unless a reason follows; so is every lower-case letter before a word.
_REASON = r"(?:because|since|as|due|for|is|are|was|rather|instead|not|and|or|but|with|given)\b"
_LETTER = rf"""
    (?: [(\[{{] [ ]? (?P<round>[A-Ja-j]) [ ]? [)\]}}]
      | (?P<capital>[A-J]) (?! [A-Za-z0-9_+\#] | ['’-][A-Za-z0-9] | \.[ ]?[A-Za-z]\. | \.[A-Za-z] )
        (?: (?<![AI]) | (?! [ \t]+ (?!{_REASON}) [A-Za-z] ) )
      | (?P<small>[a-j]) (?! [A-Za-z0-9_+\#] | ['’-][A-Za-z0-9] | \.[ ]?[A-Za-z]\. | \.[A-Za-z] )
        (?! [ \t]+ (?!{_REASON}) [A-Za-z] )
    )
"""
_SKIPPED = r"""[\s:."'(\[{=>→_-]{0,8}"""
_ADVERB = r"""
    (?: (?:most[ ])? (?:likely|probably|definitely|certainly|clearly|simply|actually|indeed|thus
      |therefore|then|still|obviously|surely|just|also|hence|now)\b [\s,]+ )?
"""
_NAMED = r"""
    (?: (?: the | die | la | le | el | il | o | a (?=\s+(?:letra|opç|[A-J]\b)) ) \s+ )?
    (?: (?: option | choice | letter | letra | opción | opção | opzione | opcja | вариант )
        (?: \s*:\s* | \s+ | (?=[^A-Za-z]) )
      | (?: 选项 | 選項 | 選択肢 | 보기 ) \s* )?
"""
_ANSWERS = re.compile(
    rf"""{_SKIPPED} (?i:{_ADVERB}) (?i:{_NAMED}) {_SKIPPED} {_LETTER}""", re.VERBOSE
)
_HEDGE = re.compile(
    r"""
    [)\]}]? \s*
    (?: [,/&;、+] | \b(?:or|and|vs\.?|oder|und|ou|et|o|u|y|e|или|и)\b | 或 | 和 | 또는 ) \s*
    (?: [,]?\s* (?:or|and|maybe|perhaps|possibly|both|also|even|either|option|choice|,)\s+ ){0,3}
    [(\[{]? ([A-HJa-hj]) (?![A-Za-z0-9_'’]) [)\]}]?
    (?! \s+ (?: (?:is|are|was|were|being|would\sbe|seems) \s+
        (?:clearly\s+|also\s+|both\s+)?
        (?:wrong|incorrect|not|false|ruled|eliminated|out|invalid) ) )
    """,
    re.VERBOSE,
)
_LABELLED = re.compile(
    r"""\b (?: (?:correct|right|best) \s (?:option|choice|letter) \b
      | answer \b (?! \s* \. ) )
    (?: \s* : | \s+ (?:is|was|would\sbe|should\sbe|must\sbe) \b \s* :? )?""",
    re.VERBOSE | re.IGNORECASE,
)
_VERDICT = re.compile(
    rf"""
    (?: (?P<bare>[A-J]) (?<![A-Za-z0-9'’.].) (?<!\b[Ii]f\s.) (?<!\bnot\s.) (?<!hether\s.)
        (?<!either\s.)
      | (?P<bracketed> \( [A-Ja-j] \) )
    ) (?![A-Za-z0-9_'’-])
    \s+ (?: is | must\sbe | would\sbe | should\sbe | seems(?:\sto\sbe)? | appears\sto\sbe ) \s+
    {_ADVERB} (?:the\s+)? (?:only\s+|most\s+|single\s+)?
    (?: correct | right | best | answer | appropriate | accurate )\b
    """,
    re.VERBOSE,
)
_JUDGED = ("correct", "right", "best", "answer", "appropriate", "accurate")
_AROUND = r"""[\s"'_()\[\]{}.:,!=]*"""
_ALONE = re.compile(
    rf"{_AROUND} (?i: (?:option|choice|letter|answer) [\s:]+ )? (?P<letter>[A-Ja-j]) {_AROUND}",
    re.VERBOSE,
)
_LEADING = re.compile(
    r"""
    ["'_\[\s]* (?i: (?:option|choice) \s+ )?
    (?: [(\[] (?P<both>[A-Ja-j]) [)\]]
      | (?P<capital>[A-J]) (?! \.\s?[A-Za-z]\. ) (?= [)\].:] ) | (?P<small>[a-j]) (?=\)) )
    """,
    re.VERBOSE,
)


def choice_letter(text: str) -> str:
    """The letter A to J that a text chooses, or "" where it chooses none or several.

    In order: the letter in the last container, if there is one; the letter after the last marker
    that a letter follows; a last line that is nothing but a letter; the one letter that is said to
    be correct; the one letter that opens lines, as in "(B) Paris" or "B. Paris".
    """
    content = contained(text)
    if content is not None and (letter := _contained_letter(_unmarked(content))):
        return letter
    plain = _unmarked(text)
    lower = plain.lower()
    judged = any(word in lower for word in _JUDGED)
    labels = [match.end() for match in _LABELLED.finditer(plain)] if judged else []
    for end in sorted([*markers(plain), *labels], reverse=True):
        if match := _ANSWERS.match(plain, end):
            return "" if _HEDGE.match(plain, match.end()) else _captured(match)
    lines = [line for line in plain.splitlines() if line.strip()]
    if lines and (alone := _ALONE.fullmatch(lines[-1])):
        return _captured(alone)
    verdicts = list(_VERDICT.finditer(plain)) if judged else []
    if verdicts:
        return _only({_captured(match) for match in verdicts})
    openings = (_ALONE.fullmatch(line) or _leading(line) for line in lines)
    return _only({_captured(match) for match in openings if match})


def _contained_letter(content: str) -> str:
    alone = _ALONE.fullmatch(content)
    match = alone or _leading(content) or _ANSWERS.match(content)
    if not match or (not alone and _HEDGE.match(content, match.end())):
        return ""
    return _captured(match)


def _leading(line: str) -> re.Match[str] | None:
    match = _LEADING.match(line)
    return None if match and _HEDGE.match(line, match.end()) else match


def _unmarked(text: str) -> str:
    """The text without markup around letters, and with ASCII for full-width forms."""
    return _MARKUP.sub("", without_wrappers(half_width(text)))


def _only(letters: set[str]) -> str:
    return letters.pop() if len(letters) == 1 else ""


def _captured(match: re.Match[str]) -> str:
    found = next(letter for letter in match.groupdict().values() if letter)
    return found.strip("()[] ").upper()
