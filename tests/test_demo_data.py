"""Check the demo's questions and models: regenerated, disjoint, unaltered, small, repeatable."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
from typing import Any

import pytest
from helpers.paths import DEMO

MODELS = DEMO / "models"
ROLES = ("reader", "calculator", "generalist")
MAX_BYTES = 12_000_000
EXPRESSION = re.compile(r"\d\d(?: [+-] \d\d)+")

sys.path.insert(0, str(DEMO))
questions: Any = importlib.import_module("questions")


def load_rows(split: str) -> list[dict[str, str]]:
    """The rows of one routing file."""
    text = (DEMO / "questions" / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def model_rows() -> list[dict[str, str]]:
    """A sample of what the models are trained on."""
    rng = random.Random(0)
    drawn = [
        questions.make_question(kind, rng, "models") for kind in questions.KINDS for _ in range(300)
    ]
    return [question.row() for question in drawn]


def rows_of(split: str) -> list[dict[str, str]]:
    """The rows of a routing file, or a sample of the models' own questions."""
    return model_rows() if split == "models" else load_rows(split)


def contents(row: dict[str, str]) -> set[str]:
    """The question, its table in sorted order, and every expression of two-digit numbers."""
    table, dot, _ = row["question"].rpartition(". ")
    facts = {", ".join(sorted(table.split(", ")))} if dot else set()
    return {row["question"], *facts, *EXPRESSION.findall(row["question"])}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_files_are_what_the_generator_makes(split: str) -> None:
    written = (DEMO / "questions" / f"{split}.jsonl").read_bytes()
    assert written == questions.file_text(split).encode()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_family_has_its_share(split: str) -> None:
    kinds = [row["kind"] for row in load_rows(split)]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        questions.KINDS, questions.COUNTS[split]
    )


def test_splits_share_no_question_table_or_expression() -> None:
    owners: dict[str, str] = {}
    for split in questions.SPLITS:
        for row in rows_of(split):
            for content in contents(row):
                assert owners.setdefault(content, split) == split


@pytest.mark.parametrize("split", ["models", "train", "valid", "test"])
def test_every_operation_belongs_to_the_split(split: str) -> None:
    for row in rows_of(split):
        for expression in EXPRESSION.findall(row["question"]):
            assert questions.expression_split(expression) == split


def test_the_pools_of_capitals_are_disjoint_and_the_models_see_every_country() -> None:
    pools = [set(questions.capital_pool(split)) for split in questions.SPLITS]
    assert sum(map(len, pools)) == len(set.union(*pools))
    assert {country for country, _ in pools[0]} == set(questions.CAPITALS)


def test_no_digit_comes_twice_in_a_table() -> None:
    """Otherwise what is to be copied would not be told by what was copied last."""
    for row in [row for split in questions.SPLITS for row in rows_of(split)]:
        table, dot, _ = row["question"].rpartition(". ")
        digits = [character for character in table if character.isdigit() and dot]
        assert len(digits) == len(set(digits))


def test_replies_lead_to_the_answer() -> None:
    for question in questions.routing_questions("test"):
        assert len(question.route) == len(question.replies)
        assert question.context(len(question.route)).endswith("\n" + question.answer)


def test_branch_tables_all_hold_the_same_mix_and_both_routes_are_as_frequent() -> None:
    found = questions.family_questions("branch", "test")
    for question in found:
        values = [value for _, value in question.table]
        assert sum("+" in value or "-" in value for value in values) == 2
        assert sum(value in questions.NAMES for value in values) == 2
    assert sum(question.route[1] == "reader" for question in found) * 2 == len(found)


def test_models_match_their_digests_and_are_small() -> None:
    training = import_training()
    recorded = json.loads((MODELS / "digests.json").read_text(encoding="utf-8"))
    assert recorded == training.digest_files(MODELS)
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


@pytest.mark.parametrize("role", ROLES)
def test_first_training_steps_give_the_recorded_losses(role: str) -> None:
    training = import_training()
    recorded = json.loads((MODELS / "first_steps.json").read_text(encoding="utf-8"))[role]
    _, losses = training.train(training.RECIPES[role], stop=training.FIRST_STEPS)
    assert losses == pytest.approx(recorded, rel=1e-3)


@pytest.mark.parametrize("role", ROLES)
def test_checkpoints_load_and_their_tokenizer_gives_text_back(role: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / role)
    for text in ("12 + 30", "Ann", "Paris", "Tom 47, Ann 12. How many? Tom\n12 + 30"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer.unk_token_id in tokenizer("an unheard-of word!")["input_ids"]
    message = [{"role": "user", "content": "How many? Tom"}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert rendered == "How many? Tom"


def import_training() -> Any:
    """The training script, where its libraries are installed."""
    for library in ("torch", "tokenizers", "transformers"):
        pytest.importorskip(library)
    return importlib.import_module("train_models")
