"""Generate the demo's questions: eight families, four disjoint splits, no dependency, seeded.

`python data/demo/questions.py [--out DIR]` writes the routing questions (train, valid, test) as
JSON lines. The split "models" is never written: the training script draws from it on the fly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

READER, CALCULATOR, GENERALIST = "reader", "calculator", "generalist"
SPLITS = ("models", "train", "valid", "test")
COUNTS = {"train": 50, "valid": 20, "test": 60}
SEED = "hcache-demo-2"

# Upper bounds, out of 100, of the content hash of each split.
HASH_BOUNDS = (("models", 80), ("train", 88), ("valid", 92), ("test", 100))

NAME_LIST = (
    "Amy Ann Ben Bob Cal Cid Dan Dot Eli Eve Fay Flo Gus Guy Hal Hope "
    "Ida Ivy Jim Kay Leo Mia Ned Ola Pam Ray Sue Tom Una Val Wes Zoe"
)
NAMES = NAME_LIST.split()

CAPITAL_LIST = (
    "France-Paris Germany-Berlin Italy-Rome Spain-Madrid Portugal-Lisbon Austria-Vienna "
    "Poland-Warsaw Hungary-Budapest Greece-Athens Norway-Oslo Sweden-Stockholm "
    "Finland-Helsinki Denmark-Copenhagen Iceland-Reykjavik Ireland-Dublin Belgium-Brussels "
    "Switzerland-Bern Romania-Bucharest Bulgaria-Sofia Serbia-Belgrade Croatia-Zagreb "
    "Slovenia-Ljubljana Slovakia-Bratislava Albania-Tirana Ukraine-Kyiv Belarus-Minsk "
    "Russia-Moscow Estonia-Tallinn Latvia-Riga Lithuania-Vilnius Turkey-Ankara Egypt-Cairo "
    "Libya-Tripoli Tunisia-Tunis Algeria-Algiers Morocco-Rabat Kenya-Nairobi Uganda-Kampala "
    "Rwanda-Kigali Ghana-Accra Nigeria-Abuja Senegal-Dakar Mali-Bamako Angola-Luanda "
    "Zambia-Lusaka Zimbabwe-Harare Namibia-Windhoek Mozambique-Maputo China-Beijing "
    "Japan-Tokyo Thailand-Bangkok Vietnam-Hanoi Nepal-Kathmandu Bangladesh-Dhaka "
    "Pakistan-Islamabad Iran-Tehran Iraq-Baghdad Lebanon-Beirut Canada-Ottawa Cuba-Havana "
    "Peru-Lima Chile-Santiago Ecuador-Quito Australia-Canberra"
)
CAPITALS = dict(pair.split("-") for pair in CAPITAL_LIST.split())

WORDINGS: dict[str, tuple[str, ...]] = {
    "read": ("How many?", "Which number?", "Look up:"),
    "compute": ("What is:", "Compute:", "Work out:"),
    "read-compute": ("What total?", "Add up the entry:", "What sum?"),
    "compute-read": ("Who lives at:", "Whose house is:", "Which person is at:"),
    "compute-compute": ("Run the chain:", "Go step by step:", "Reduce in turn:"),
    "read-compute-compute": ("What final balance?", "Settle the account:", "Close the row:"),
    "capitals": (
        "What is the capital of",
        "Name the capital of",
        "Tell me the capital city of",
        "Capital:",
        "Which city governs",
        "Where is the government of",
        "Seat of government of",
        "Which city is the capital of",
        "The capital of this country:",
        "Give the main city of",
        "Country to capital:",
        "State the capital of",
    ),
    "branch": ("Trace:", "Follow the entry:", "Resolve:"),
}
KINDS = tuple(WORDINGS)
TABLE_SIZE = 5
DIGITS = range(1, 10)


@dataclass(frozen=True)
class Question:
    """One question, with the sequence of models that solves it and the reply of each."""

    kind: str
    question: str
    route: tuple[str, ...]
    replies: tuple[str, ...]
    table: tuple[tuple[str, str], ...] = ()
    expressions: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The reply of the last model."""
        return self.replies[-1]

    @property
    def content(self) -> str:
        """What no other split may share: the table, the expressions, or country and wording."""
        if self.table:
            return ", ".join(sorted(f"{key} {value}" for key, value in self.table))
        return ", ".join(self.expressions) or self.question

    def context(self, hop: int) -> str:
        """What the model at `hop` is given: the question and every earlier reply."""
        return "\n".join((self.question, *self.replies[:hop]))

    def row(self) -> dict[str, str]:
        """The question as it stands in the routing files."""
        return {"question": self.question, "answer": self.answer, "kind": self.kind}


def hash_split(content: str) -> str:
    """The split that owns a table or a two-term expression, from the hash of its text."""
    bucket = int(hashlib.sha256(f"{SEED}|{content}".encode()).hexdigest(), 16) % 100
    return next(split for split, bound in HASH_BOUNDS if bucket < bound)


def apply_operation(left: int, sign: str, right: int) -> int:
    """The value of one sum or difference."""
    return left + right if sign == "+" else left - right


def reduce_once(expression: str) -> str:
    """Carry out the first operation and copy the rest: "12 + 30 + 15" becomes "42 + 15"."""
    left, sign, right, *rest = expression.split()
    return " ".join((str(apply_operation(int(left), sign, int(right))), *rest))


@cache
def expression_pool(split: str) -> tuple[str, ...]:
    """Every two-term expression of a split; operands and result have two digits."""
    pairs = ((a, sign, b) for a in range(10, 100) for sign in "+-" for b in range(10, 100))
    texts = (f"{a} {s} {b}" for a, s, b in pairs if 10 <= apply_operation(a, s, b) <= 99)
    return tuple(text for text in texts if hash_split(text) == split)


@cache
def expressions_from(split: str, left: str) -> tuple[str, ...]:
    """The split's two-term expressions that begin with the number `left`."""
    return tuple(text for text in expression_pool(split) if text.split()[0] == left)


def draw_chain(rng: random.Random, split: str) -> str:
    """A three-term expression whose two operations both belong to the split."""
    while True:
        first = rng.choice(expression_pool(split))
        if following := expressions_from(split, reduce_once(first)):
            return " ".join((first, *rng.choice(following).split()[1:]))


def expression_split(expression: str) -> str | None:
    """The split of an expression: that of all its operations, None if they differ."""
    terms = expression.split()
    owner = hash_split(" ".join(terms[:3]))
    if len(terms) == 3:
        return owner
    return owner if expression_split(reduce_once(expression)) == owner else None


def two_terms(rng: random.Random, left: int, right: int) -> str:
    """A sum, or a difference where the result is positive."""
    sign = rng.choice("+-") if left > right else "+"
    return f"{left} {sign} {right}"


def three_terms(rng: random.Random, first: int, second: int, third: int) -> str:
    """Two operations, of which every result is positive."""
    start = two_terms(rng, first, second)
    return f"{start} {two_terms(rng, int(reduce_once(start)), third).split(maxsplit=1)[1]}"


def write_value(rng: random.Random, digits: list[int]) -> str:
    """A number, or an expression of two or three terms."""
    if len(digits) == 1:
        return str(digits[0])
    return two_terms(rng, *digits) if len(digits) == 2 else three_terms(rng, *digits)


Table = list[tuple[str, str]]


def draw_table(split: str, draw: Callable[[], Table]) -> Table:
    """A table that belongs to the split, by the hash of its entries."""
    while True:
        table = draw()
        if hash_split(", ".join(sorted(f"{key} {value}" for key, value in table))) == split:
            return table


def draw_entries(rng: random.Random, size: int, terms: int) -> Table:
    """Names with numbers or expressions; no digit comes twice, so that each can be found."""
    digits = rng.sample(DIGITS, size * terms)
    groups = [digits[place * terms : (place + 1) * terms] for place in range(size)]
    values = [write_value(rng, group) for group in groups]
    return list(zip(rng.sample(NAMES, size), values, strict=True))


def render(kind: str, rng: random.Random, table: Table, key: str) -> str:
    """Table, wording and, last of all, what is to be looked up or computed."""
    facts = ", ".join(f"{name} {value}" for name, value in table)
    wording = rng.choice(WORDINGS[kind])
    return f"{facts}. {wording} {key}" if table else f"{wording} {key}"


def make_read(rng: random.Random, split: str, size: int = TABLE_SIZE) -> Question:
    """A name's number, from a table."""
    table = draw_table(split, lambda: draw_entries(rng, size, 1))
    key, value = rng.choice(table)
    return Question("read", render("read", rng, table, key), (READER,), (value,), tuple(table))


def make_compute(rng: random.Random, split: str) -> Question:
    """One sum or difference."""
    text = rng.choice(expression_pool(split))
    question = render("compute", rng, [], text)
    return Question("compute", question, (CALCULATOR,), (reduce_once(text),), (), (text,))


def make_read_compute(rng: random.Random, split: str) -> Question:
    """A name's sum or difference, from a table."""
    table = draw_table(split, lambda: draw_entries(rng, 4, 2))
    return from_expression_table("read-compute", rng, table)


def make_read_compute_compute(rng: random.Random, split: str) -> Question:
    """A name's three-term expression, from a table."""
    table = draw_table(split, lambda: draw_entries(rng, 3, 3))
    return from_expression_table("read-compute-compute", rng, table)


def from_expression_table(kind: str, rng: random.Random, table: Table) -> Question:
    """Read one of the expressions, then reduce it to a number."""
    key, value = rng.choice(table)
    replies = (value, *reductions(value))
    route = (READER, *[CALCULATOR] * (len(replies) - 1))
    return Question(kind, render(kind, rng, table, key), route, replies, tuple(table))


def reductions(expression: str) -> tuple[str, ...]:
    """The replies of a calculator that is asked until a number is left."""
    replies = [reduce_once(expression)]
    while not replies[-1].isdigit():
        replies.append(reduce_once(replies[-1]))
    return tuple(replies)


def make_compute_read(rng: random.Random, split: str) -> Question:
    """The name that stands behind a number, which has to be computed first."""

    def draw() -> Table:
        keys = map(str, rng.sample(DIGITS, TABLE_SIZE))
        return list(zip(keys, rng.sample(NAMES, TABLE_SIZE), strict=True))

    table = draw_table(split, draw)
    number, name = rng.choice(table)
    text = rng.choice(expressions_of(int(number)))
    question = render("compute-read", rng, table, text)
    return Question("compute-read", question, (CALCULATOR, READER), (number, name), tuple(table))


@cache
def expressions_of(number: int) -> tuple[str, ...]:
    """The two-term expressions of digits that give a digit and do not contain it."""
    pairs = ((a, sign, b) for a in DIGITS for sign in "+-" for b in DIGITS)
    return tuple(
        f"{a} {sign} {b}"
        for a, sign, b in pairs
        if apply_operation(a, sign, b) == number and number not in (a, b)
    )


def make_compute_compute(rng: random.Random, split: str) -> Question:
    """A three-term expression, one operation at a time."""
    text = draw_chain(rng, split)
    replies = reductions(text)
    question = render("compute-compute", rng, [], text)
    return Question("compute-compute", question, (CALCULATOR, CALCULATOR), replies, (), (text,))


def make_branch(rng: random.Random, split: str) -> Question:
    """An entry that is an expression, or another name to read; only the table tells which.

    Every table holds two expressions, two pointers and the two numbers that they point to, so
    counting words does not tell which kind of entry is asked for.
    """
    table = draw_table(split, lambda: draw_branches(rng))
    asked = rng.randrange(4)
    key, value = table[asked]
    shown = rng.sample(table, len(table))
    question = render("branch", rng, shown, key)
    if asked < 2:
        route, replies = (READER, CALCULATOR), (value, reduce_once(value))
        return Question("branch", question, route, replies, tuple(shown))
    replies = (value, dict(table)[value])
    return Question("branch", question, (READER, READER), replies, tuple(shown))


def draw_branches(rng: random.Random) -> Table:
    """Two expressions, two pointers, and the two numbers that they point to."""
    names = rng.sample(NAMES, 6)
    digits = rng.sample(DIGITS, 6)
    expressions = [two_terms(rng, *digits[:2]), two_terms(rng, *digits[2:4])]
    values = [*expressions, names[4], names[5], str(digits[4]), str(digits[5])]
    return list(zip(names, values, strict=True))


@cache
def capital_pool(split: str) -> tuple[tuple[str, str], ...]:
    """The pairs of country and wording of a split, by the order of their hashes."""
    pairs = sorted((country, words) for country in CAPITALS for words in WORDINGS["capitals"])
    pairs.sort(key=lambda pair: hashlib.sha256(f"{SEED}|{pair[1]} {pair[0]}".encode()).digest())
    start = 0
    for name in ("test", "valid", "train"):
        if split == name:
            return tuple(pairs[start : start + COUNTS[name]])
        start += COUNTS[name]
    return tuple(pairs[start:])


def make_capitals(rng: random.Random, split: str) -> Question:
    """A country's capital, which no question states."""
    country, wording = rng.choice(capital_pool(split))
    return Question("capitals", f"{wording} {country}", (GENERALIST,), (CAPITALS[country],))


MAKERS: dict[str, Callable[[random.Random, str], Question]] = {
    "read": make_read,
    "compute": make_compute,
    "read-compute": make_read_compute,
    "compute-read": make_compute_read,
    "compute-compute": make_compute_compute,
    "read-compute-compute": make_read_compute_compute,
    "capitals": make_capitals,
    "branch": make_branch,
}


def make_question(kind: str, rng: random.Random, split: str) -> Question:
    """One question of a family and a split."""
    return MAKERS[kind](rng, split)


def family_questions(kind: str, split: str) -> list[Question]:
    """The routing questions of one family: no content twice, both kinds of branch equally often."""
    rng = random.Random(f"{SEED}|{split}|{kind}")
    found: list[Question] = []
    seen: set[str] = set()
    while len(found) < COUNTS[split]:
        question = make_question(kind, rng, split)
        wanted = (READER, CALCULATOR)[len(found) % 2]
        if question.content in seen or (kind == "branch" and question.route[1] != wanted):
            continue
        seen.add(question.content)
        found.append(question)
    return found


def routing_questions(split: str) -> Iterator[Question]:
    """The split's questions, the families in turn, so that any first part is balanced."""
    for group in zip(*(family_questions(kind, split) for kind in KINDS), strict=True):
        yield from group


def file_text(split: str) -> str:
    """The content of a split's file."""
    return "".join(json.dumps(question.row()) + "\n" for question in routing_questions(split))


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "questions")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for split in COUNTS:
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.write(file_text(split))


if __name__ == "__main__":
    main()
