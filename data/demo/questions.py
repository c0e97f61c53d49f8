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
SEED = "hcache-demo-1"

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


def draw_many(draw: Callable[[], str], count: int) -> list[str]:
    """`count` different results of `draw`."""
    found: list[str] = []
    while len(found) < count:
        value = draw()
        if value not in found:
            found.append(value)
    return found


def render(kind: str, rng: random.Random, table: list[tuple[str, str]], key: str) -> str:
    """Table, wording and, last of all, what is to be looked up or computed."""
    facts = ", ".join(f"{name} {value}" for name, value in table)
    wording = rng.choice(WORDINGS[kind])
    return f"{facts}. {wording} {key}" if table else f"{wording} {key}"


def make_read(rng: random.Random, split: str, size: int = TABLE_SIZE) -> Question:
    """A name's number, from a table."""
    while True:
        numbers = rng.sample(range(10, 100), size)
        table = list(zip(rng.sample(NAMES, size), map(str, numbers), strict=True))
        if hash_split(", ".join(sorted(f"{key} {value}" for key, value in table))) == split:
            break
    key, value = rng.choice(table)
    return Question("read", render("read", rng, table, key), (READER,), (value,), tuple(table))


def make_compute(rng: random.Random, split: str) -> Question:
    """One sum or difference."""
    text = rng.choice(expression_pool(split))
    question = render("compute", rng, [], text)
    return Question("compute", question, (CALCULATOR,), (reduce_once(text),), (), (text,))


def make_read_compute(rng: random.Random, split: str) -> Question:
    """A name's sum or difference, from a table."""
    values = draw_many(lambda: rng.choice(expression_pool(split)), TABLE_SIZE)
    return from_expression_table("read-compute", rng, values)


def make_read_compute_compute(rng: random.Random, split: str) -> Question:
    """A name's three-term expression, from a table."""
    values = draw_many(lambda: draw_chain(rng, split), TABLE_SIZE)
    return from_expression_table("read-compute-compute", rng, values)


def from_expression_table(kind: str, rng: random.Random, values: list[str]) -> Question:
    """Read one of the expressions, then reduce it to a number."""
    table = list(zip(rng.sample(NAMES, len(values)), values, strict=True))
    key, value = rng.choice(table)
    replies = (value, *reductions(value))
    route = (READER, *[CALCULATOR] * (len(replies) - 1))
    return Question(kind, render(kind, rng, table, key), route, replies, tuple(table), (value,))


def reductions(expression: str) -> tuple[str, ...]:
    """The replies of a calculator that is asked until a number is left."""
    replies = [reduce_once(expression)]
    while not replies[-1].isdigit():
        replies.append(reduce_once(replies[-1]))
    return tuple(replies)


def make_compute_read(rng: random.Random, split: str) -> Question:
    """The name that stands behind a number, which has to be computed first."""
    text = rng.choice(expression_pool(split))
    number = reduce_once(text)
    while True:
        # Different last digits: one digit is then enough to find the key.
        last = [number[-1], *rng.sample(sorted(set("0123456789") - {number[-1]}), TABLE_SIZE - 1)]
        keys = [number, *(f"{rng.randint(1, 9)}{digit}" for digit in last[1:])]
        table = list(zip(keys, rng.sample(NAMES, TABLE_SIZE), strict=True))
        rng.shuffle(table)
        if hash_split(", ".join(sorted(f"{key} {name}" for key, name in table))) == split:
            break
    question = render("compute-read", rng, table, text)
    replies = (number, dict(table)[number])
    return Question("compute-read", question, (CALCULATOR, READER), replies, tuple(table), (text,))


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
    names = rng.sample(NAMES, 6)
    expressions = draw_many(lambda: rng.choice(expression_pool(split)), 2)
    numbers = [str(number) for number in rng.sample(range(10, 100), 2)]
    values = [*expressions, names[4], names[5], *numbers]
    table = list(zip(names, values, strict=True))
    asked = rng.randrange(4)
    key, value = table[asked]
    rng.shuffle(table)
    question = render("branch", rng, table, key)
    if asked < 2:
        route, replies, texts = (READER, CALCULATOR), (value, reduce_once(value)), (value,)
        return Question("branch", question, route, replies, tuple(table), texts)
    replies = (value, dict(table)[value])
    return Question("branch", question, (READER, READER), replies, tuple(table))


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
