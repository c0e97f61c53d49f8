"""Questions about people in a register, and what the two tiny models know of it.

A question asks for the city, the animal or the food of a person, in one of four wordings. Standard
library only, seeded; `python data/roles/people.py` writes `questions/*.jsonl`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 20260
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
NAMES_OF = {"train": slice(0, 24), "valid": slice(24, 32), "test": slice(32, 52)}


def register() -> dict[tuple[str, str], str]:
    """The value of every person and kind."""
    rng = random.Random(SEED)
    return {(name, kind): rng.choice(VALUES[kind]) for name in PEOPLE for kind in KINDS}


def shuffled_names() -> list[str]:
    """The names in the order in which splits take them."""
    return random.Random(SEED + 1).sample(PEOPLE, len(PEOPLE))


def rows(split: str) -> list[dict[str, str]]:
    """The questions of a split: every wording for each of its names, which no other split has."""
    facts = register()
    return [
        {"question": wording.format(name), "answer": facts[name, kind], "kind": kind}
        for name in shuffled_names()[NAMES_OF[split]]
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
