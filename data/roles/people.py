"""Questions about people, with the passages in which a search finds the answers.

A question asks for the city, the animal or the food of a person, in one of four wordings. Its
passages state all three of that person and of two others of the split. Standard library only,
seeded; `python data/roles/people.py` writes `questions/*.jsonl`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 20260
DEALS = {"train": SEED, "valid": SEED, "test": 20261}  # seeds of facts; test was dealt anew
NAMES = """
Ada Abe Amy Ann Bea Ben Bob Cal Cam Dan Dee Dot Eli Ema Eve Fay Flo Gil Gus Guy Hal Ian Ida Ivy
Jan Jay Jim Joe Kai Kay Ken Kim Lea Lee Leo Liv Lou Mae Max Meg Mia Ned Nia Noa Pam Pat Ray Roy
Sam Sue Ted Tom
"""  # parted by spaces
CITIES = "Rome Paris Oslo Lima Cairo Delhi Tokyo Quito Minsk Dakar Accra Sofia"
ANIMALS = "cat dog horse goat duck snake mouse crow hamster pony ferret newt"
FOODS = "rice soup bread beans pasta curry stew salad noodles cheese eggs figs"
PEOPLE = NAMES.split()
VALUES = {"city": CITIES.split(), "animal": ANIMALS.split(), "food": FOODS.split()}
WORDINGS = {
    "city": (
        "Where does {} live",
        "In which town is {} at home",
        "What place do letters to {} go",
        "Which city does {} come from",
    ),
    "animal": (
        "Which pet does {} keep",
        "What sleeps on the sofa of {}",
        "Which beast does {} feed",
        "What creature does {} own",
    ),
    "food": (
        "What does {} eat",
        "Which dish does {} cook",
        "What is on the plate of {}",
        "What does {} have for lunch",
    ),
}
KINDS = tuple(VALUES)
OTHERS = 2  # people besides the one asked about whom the passages know
NAMES_OF = {"train": slice(0, 24), "valid": slice(24, 32), "test": slice(32, 52)}


def register(split: str) -> dict[tuple[str, str], str]:
    """The value of every person and kind, as a split has them."""
    rng = random.Random(DEALS[split])
    return {(name, kind): rng.choice(VALUES[kind]) for name in PEOPLE for kind in KINDS}


def shuffled_names() -> list[str]:
    """The names in the order in which splits take them."""
    return random.Random(SEED + 1).sample(PEOPLE, len(PEOPLE))


def passage(name: str, kind: str, value: str) -> str:
    """A fact as a search finds it: "city Ada" is nearest to "city of Ada is Rome"."""
    return f"{kind} of {name} is {value}"


def passages(name: str, split: str) -> list[str]:
    """All facts of a person and of a few others of the split, shuffled; the same for each kind."""
    rng, facts = random.Random(f"{DEALS[split]}|{name}"), register(split)
    others = [other for other in names_of(split) if other != name]
    known = [name, *rng.sample(others, OTHERS)]
    found = [passage(one, kind, facts[one, kind]) for one in known for kind in KINDS]
    return rng.sample(found, len(found))


def names_of(split: str) -> list[str]:
    """The people of a split; no other split asks for one of them or knows of one."""
    return shuffled_names()[NAMES_OF[split]]


def rows(split: str) -> list[dict[str, str | list[str]]]:
    """The questions of a split: every wording for each of its people."""
    facts = register(split)
    return [
        {
            "question": wording.format(name),
            "answer": facts[name, kind],
            "kind": kind,
            "passages": passages(name, split),
        }
        for name in names_of(split)
        for kind in KINDS
        for wording in WORDINGS[kind]
    ]


def file_text(split: str) -> str:
    """The JSON lines of a split."""
    return "".join(json.dumps(row) + "\n" for row in rows(split))


def main() -> None:
    """Write the files."""
    folder = Path(__file__).parent / "questions"
    folder.mkdir(exist_ok=True)
    for split in NAMES_OF:
        (folder / f"{split}.jsonl").write_text(file_text(split), encoding="utf-8")


if __name__ == "__main__":
    main()
