r"""Letters: the one of multiple choice that a text chooses.

In comes text; out comes a letter from A to J, or "" where the text chooses none, or hedges between
several. Markup around letters is taken away first; containers and markers are those of
`containers`, and weaker ones of letters alone ("Hence B.") count where the clause ends behind the
letter. Nothing raises on any text, and time grows with its length alone.
"""

from __future__ import annotations

import re
from collections import deque

from hcache.data.containers import contained, half_width, markers, without_wrappers

_MARKUP = re.compile(
    r"</?(?:b|i|u|em|strong|span|p|div|code|mark|font|sub|sup|br|li|h[1-6])\b[^<>\n]{0,100}>"
    r"|[*`$“”„\"]|__|\\[()\[\],;:! ]|\\(?:left|right|displaystyle|bf|rm)\b",
    re.IGNORECASE,
)

# A letter that answers, rather than one that belongs to a word or to initials. "A dog", "I think"
# are an article and a pronoun unless a reason follows; so is every lower-case letter before a word.
_REASON = (
    r"(?:because|since|as|due|for|is|are|was|were|being|rather|instead|not|and|or|but|with|given)\b"
)
_APART = r"""
    (?! [A-Za-z0-9_+\#À-ɏ] | ['’-](?!d[ıiuü]r\b)[A-Za-z0-9] | \.[ ]?[A-Za-z]\. | \.[A-Za-z] )
"""
_NO_WORD = rf"(?! [ \t]+ (?!{_REASON}) [A-Za-z] )"
_CAPITAL = rf"""
    (?: [(\[{{] [ ]? (?P<round>[A-Ja-j]) [ ]? [)\]}}]
      | (?P<capital>[A-J]) {_APART} (?: (?<![AI]) | {_NO_WORD} ) )
"""
_LETTER = rf"(?: {_CAPITAL} | (?P<small>[a-j]) {_APART} {_NO_WORD} )"
_SKIPPED = r"""[\s:."'(\[{=>→_-]{0,8}"""
_ADVERB = r"""
    (?: (?:most[ ])? (?:likely|probably|definitely|certainly|clearly|simply|actually|indeed|thus
      |therefore|then|still|obviously|surely|just|also|hence|now|rather)\b [\s,]+ )?
"""
_NAMED = r"""
    (?: (?: the | die | la | le | el | il | o
          | (?-i:a) (?=[ ](?:letra|opç|alternativa|(?-i:[A-J])\b)) ) \s+ )?
    (?: (?: option | choice | answer | letter | letra | opción | opção | opzione | opcja | вариант )
        (?: \s*:\s* | \s+ | (?=[^A-Za-z]) )
      | (?: 选项 | 選項 | 選択肢 | 보기 ) \s* )?
"""
# Behind a letter: "B?", and the negations of languages that put the verb last.
_TAKEN_BACK = r"""
    (?! [)\]]? [ ]? (?: では | じゃ | が | は | 가 | 이 )? [ ]?
        (?: \? | ない | ありません | 아니 | 아닙 | नहीं | değil ) )
"""
_ANSWERS = re.compile(
    rf"""{_SKIPPED} (?i:{_ADVERB}) (?i:{_NAMED}) {_SKIPPED} {_LETTER} {_TAKEN_BACK}""", re.VERBOSE
)
_LABELLED = re.compile(
    r"""\b (?:correct|right|best) \s (?:option|choice|letter) \b
    (?: \s* : | \s+ (?:is|was|would\sbe|should\sbe|must\sbe) \b \s* :? )?""",
    re.VERBOSE | re.IGNORECASE,
)

# What announces a letter only if nothing but a reason follows it in its clause.
_NOUNS = (
    "antwort", "lösung", "antwoord", "réponse", "respuesta", "resposta", "risposta", "ответ",
    "cevap", "odpowiedź", "jawaban", "đáp án", "उत्तर", "الجواب", "الإجابة", "opción",
    "alternativa", "opção", "opzione", "вариант", "正解", "答案", "答え", "정답",
)  # fmt: skip
_NOUN = "|".join(_NOUNS).replace(" ", "[ ]")
_OPENS = rf"""
    ^ \W{{0,8}} (?: (?:the|my|our|final|correct|right|best|selected|chosen)\s{{1,3}} ){{0,3}}
      (?: correct | final | solution | choice | (?<=[a-z][ ])option | result
        | conclusion | selection | pick
        | verdict ) \s* :
    | \b (?: hence | thus | so | therefore | consequently | definitely | certainly )\b
    | \b answer (?: \s (?:is|was) )? \b
    | \b (?: option | choice | letter | pick | guess ) \b [^.:;!?\n]{{0,40}}?
      \b (?: is | was | be ) \b
    | \b it (?: ['’]s | \s (?:is|must\sbe|should\sbe|has\sto\sbe) ) \b
    | \b I (?: ['’](?:d|ll|m) | \s(?:would|will|am) )? \s
      (?: (?:go|going|went) \s (?:with|for) | choose | chose | pick | select | say | think | believe
        | guess | opt\sfor | vote\sfor | settle\son ) \b
    | (?: {_NOUN} ) (?: (?! (?-i: (?<![A-Za-z])[A-J](?![A-Za-z]) ) ) [^.:;!?。\n] ){{0,40}}?
    | 选择? | 選擇?
"""
_BECAUSE = r"""because|since|as|not|weil|da|denn|porque|pois|perché|car|parce|ponieważ|karena|vì"""
_END = rf"""
    [ ]? [)\]]? (?: [ \t]{{0,3}} $ | [.!。！।](?![A-Za-z0-9]|[ ][a-z])
      | ,?[ ](?:{_BECAUSE})\b | ,?[ ]?(?:因为|因為|由于)
      | [ ]? (?: ['’]?d[ıiuü]r\b | है | 입니다 | です | である | 选项 | 項 ) )
"""
_CONCLUDED = re.compile(
    rf"""(?i:{_OPENS}) [\s:,→>-]{{0,8}} (?i:{_ADVERB}) (?i:{_NAMED}) [\s:(]{{0,4}} {_CAPITAL}
    (?={_END})""",
    re.VERBOSE | re.MULTILINE,
)
_DENIES = re.compile(
    r"""\b(?: not | never | cannot | if | whether | unless | either | neither | nor | unlikely
      | wrong | incorrect | false
      | nicht | kein\w* | niet | geen | no | não | non | pas | nie | не | нет | không | bukan )\b
      | n['’]t\b | 不(?!过) | 非 | 别""",
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.,:;!?\n。，；：！？]")
_FOREIGN = re.compile(rf"(?:{_NOUN})((?>(?:(?!{_NOUN})[^.:;!?\n])*))\Z", re.IGNORECASE)
_LONGEST = 120  # characters before a letter in which a clause is looked for
_NOT = re.compile(
    rf"{_SKIPPED} not \s+ (?i:{_NAMED}) [(\[]?([A-J])\b[)\]]? (?:,?\s+(but|rather)\b)?", re.VERBOSE
)

# Other letters behind the one that answers.
_OR = r"(?i: \b(?:or|vs\.?|oder|ou|o|u|или|hoặc|atau|lub|veya)\b | / | 或 | 또는 )"
_AND = r"(?i: \b(?:and|und|et|y|e|и|dan|ve)\b | [&+、] | 和 )"
_NEXT = rf"""
    [(\[{{]? (?: [B-HJ] | [AIa-j] {_NO_WORD} ) (?![À-ɏ]) {_APART} [)\]}}]?
"""
_MORE = re.compile(
    rf"""
    [)\]}}]? \s{{0,3}} \(? (?P<split>[,;])? \s{{0,3}}
    (?: (?P<or> {_OR} \s* (?: [a-z]+,?\s+ ){{0,3}}? )
      | (?: {_AND} | (?<=[,;]) | (?<=[,;]\s) ) \s*
        (?: (?:maybe|perhaps|possibly|also|even|either|option|choice),?\s+ ){{0,3}} )
    (?P<rest> {_NEXT} (?: [ ]? (?: ,[ ]? )? (?: {_OR} | {_AND} | , ) [ ]? {_NEXT} )* )
    """,
    re.VERBOSE,
)
_JUDGES = re.compile(
    r"""\s+ (?: (?:both|all|just|clearly|also)\s+ )?
    (?: (?P<several> are | were | sind | sont | son | sono | são )
      | is | was | being | would | can | could | cannot | does | do | has | have | seems? | looks?
      | fails? | ist | est | es | è | é )\b ([^.,;!?\n]{0,60})""",
    re.VERBOSE,
)
_ABBREVIATED = re.compile(r"\.\s?[a-z]")  # "E. coli"
_NAMES_ANOTHER = re.compile(
    r"""[)\].:]? (?: (?! \bnot\b | \bthan\b | [(\[][A-J][)\]] ) [^.:;\n] ){0,80}?
    \bor\s+ (?:option\s+)? [(\[]? ([A-J]) [)\]]""",
    re.VERBOSE,
)

_JUDGED = r"(?:correct|right|best|answer|appropriate|accurate)"
_POSITIVE = re.compile(
    r"\b(?:correct|right|best|true|valid|answers?|possible|plausible|acceptable|likely|fits?|fine"
    r"|richtig|korrekt|correctas?|corretas?|correctes?|corrett[aei])\b"
)
_VERDICT = re.compile(
    rf"""
    (?: (?P<bare>[A-J]) (?<![A-Za-z0-9'’.].) | (?P<bracketed> \( [A-Ja-j] \) ) )
    (?: (?![A-Za-z0-9_'’-]) \s+
        (?: is | must\sbe | would\sbe | should\sbe | seems(?:\sto\sbe)? | appears\sto\sbe | ist | es
          | est | è | é ) \s+
        {_ADVERB} (?: (?:the|my|our|die|la|a) \s+ )? (?: (?:only|most|single|final) \s+ )?
        (?: {_JUDGED} | richtig | korrekt | correct[ao] | correcte | corret[ao] | corrett[ao]
          | giust[ao] | juiste? )\b
      | [ ]? (?: 选项 | 選項 )? [ ]? (?:是|为|為)? [ ]? (?: 正确 | 正確 | 对的 )
      | [ ]? (?:が|は|이|가) [ ]? (?: 正解 | 正しい | 정답 | 맞 ) )
    """,
    re.VERBOSE,
)
_AROUND = r"""[\s"'_()\[\]{}.:,!=]*"""
_ALONE = re.compile(
    rf"{_AROUND} (?i: (?:option|choice|letter|answer) [\s:]+ )? (?P<letter>[A-Ja-j]) {_AROUND}",
    re.VERBOSE,
)
_LEADING = re.compile(
    r"""
    ["'_\[\s]* (?i: (?:option|choice) \s+ )?
    (?: [(\[] (?P<both>[A-Ja-j]) [)\]]
      | (?P<capital>[A-J]) (?! \.\s?[A-Za-z]\. )
        (?= [)\].:] | [ ]-[ ][A-Za-z]{2} | ,?[ ](?:because|since)\b )
      | (?P<small>[a-j]) (?=\)) )
    """,
    re.VERBOSE,
)
_MARK = re.compile(
    r"[)\].:\s-]*(?:(?P<right>correct|right|✓|✔|✅)|incorrect|wrong|false|✗|❌)", re.I
)
_HEADING = re.compile(r"\W*\w[\w ]{2,30}:\W*")
_TRAILING = re.compile(r"(?s:(?!.*\([A-J]\).*\([A-J]\)).*)\((?P<letter>[A-J])\)\W*\Z")
_JOINED = re.compile(
    rf"(?: \}} | </\w+> | \] ) [\s$]* (?: {_OR} | {_AND} | , )+ [\s$]* (?: \\f?box | <\w | \[ )",
    re.VERBOSE,
)


def choice_letter(text: str) -> str:
    """The letter A to J that a text chooses, or "" where it chooses none or several.

    In order: the letter in the last container, if there is one; the letter behind the last marker
    or conclusion that a letter follows; a last line that is nothing but a letter; the one letter
    that is said to be correct; the one that opens lines, as in "(B) Paris" or "B. Paris".
    """
    content = contained(text)
    if content is not None and (letter := _contained_letter(_unmarked(content))) is not None:
        return "" if _another_container(text, letter) else letter
    plain = _unmarked(text)
    if (letter := _announced(plain)) is not None:
        return letter
    lines = [line for line in plain.splitlines() if line.strip()]
    if lines and (alone := _ALONE.fullmatch(lines[-1])):
        return _captured(alone)
    verdicts = [match for match in _VERDICT.finditer(plain) if not _denied(plain, match.start())]
    if verdicts:
        return _only([_captured(match) for match in verdicts])
    return _opening(lines)


def _announced(plain: str) -> str | None:
    """The letter behind the last marker or conclusion that a letter follows; None without any."""
    found: dict[int, re.Match[str]] = {}
    denied: dict[int, str] = {}
    for end in {*markers(plain), *(match.end() for match in _LABELLED.finditer(plain))}:
        no = _NOT.match(plain, end)
        if no:
            denied[no.end()] = no[1]
        foreign = _FOREIGN.search(plain, max(0, end - _LONGEST), end)
        if foreign and _DENIES.search(foreign[1]):
            continue
        if (not no or no[2]) and (match := _ANSWERS.match(plain, no.end() if no else end)):
            found[match.end()] = match
    for match in _CONCLUDED.finditer(plain):
        if not _denied(plain, match.end() - 1):
            found.setdefault(match.end(), match)
    for end in sorted(found, reverse=True):
        letter = _standing(plain, found[end])
        if letter is not None:
            taken_back = any(other == letter for place, other in denied.items() if place > end)
            return "" if taken_back else letter
    return None


def _standing(plain: str, match: re.Match[str]) -> str | None:
    """The letter of a match if it alone is the answer; "" if another is, too; None if neither is.

    "B, C is wrong" and "B; A and C are wrong" leave B, "B or C" and "B, C is right, too" nothing;
    in "C and D are wrong" no letter is one that answers.
    """
    letter = _captured(match)
    another = _NAMES_ANOTHER.match(plain, match.end())
    if another and another[1] != letter:
        return ""
    more = _MORE.match(plain, match.end())
    if not more or set(re.findall(r"\b[A-Ja-j]\b", more["rest"].upper())) <= {letter}:
        return letter
    if more["or"]:
        return ""
    if _ABBREVIATED.match(plain, more.end()):
        return letter
    judged = _JUDGES.match(plain, more.end())
    if not judged or (_POSITIVE.search(judged[2]) and not _DENIES.search(judged[2])):
        return ""
    return None if judged["several"] and not more["split"] else letter


def _denied(plain: str, at: int) -> bool:
    """True if the clause denies, or only supposes, what stands at that place in it."""
    return bool(_DENIES.search(_CLAUSE.split(plain[max(0, at - _LONGEST) : at])[-1]))


def _contained_letter(content: str) -> str | None:
    if alone := _ALONE.fullmatch(content):
        return _captured(alone)
    match = _LEADING.match(content) or _ANSWERS.match(content) or _TRAILING.match(content)
    return _standing(content, match) if match else None


def _another_container(text: str, letter: str) -> bool:
    """True if the last container is joined, as by "and", to one with another letter."""
    between = deque(_JOINED.finditer(text), maxlen=1)
    before = contained(text[: between[0].start() + 1]) if between else None
    return before is not None and _contained_letter(_unmarked(before)) not in (None, letter)


def _opening(lines: list[str]) -> str:
    """The letter that opens lines: the only one, the only one judged right, or one explained."""
    opened = [
        (line, match)
        for line in lines
        if (match := _ALONE.fullmatch(line) or _LEADING.match(line))
        and (_ALONE.fullmatch(line) or _standing(line, match))
    ]
    letters = [_captured(match) for _, match in opened]
    if len(set(letters)) < 2:
        return _only(letters)
    marks = [mark for line, match in opened if (mark := _MARK.match(line, match.end()))]
    if len(marks) == len(opened):
        pairs = zip(letters, marks, strict=True)
        return _only([letter for letter, mark in pairs if mark["right"]])
    explained = opened[0][0] == lines[0] and _HEADING.fullmatch(lines[1])
    return letters[0] if explained and lines.count(lines[1]) == 1 else ""


def _unmarked(text: str) -> str:
    """The text without markup around letters, and with ASCII for full-width forms."""
    return _MARKUP.sub("", without_wrappers(half_width(text)))


def _only(letters: list[str]) -> str:
    return letters[0] if len(set(letters)) == 1 else ""


def _captured(match: re.Match[str]) -> str:
    found = next(letter for letter in match.groupdict().values() if letter)
    return found.strip("()[] ").upper()
