"""Queries, and the one place where they are split.

A query is a question with its reference answers. Its id is its content. Questions are one question
for splitting where they differ in case, spacing and punctuation only (`wording.py`), and none of
these stands in two splits. What belongs to a question is all that the models read with it: the
options of a multiple choice and the context before it. Passages that a tool searches do not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hcache.data.wording import normalised
from hcache.errors import DataError
from hcache.keys import KEY_DIGITS, digest, digest_text
from hcache.plugins import lookup

SPLITS = ("train", "valid", "test")
OPTIONAL = ("item", "instruction", "examples", "tests")  # in the id of a query that has them
SHOWN = 20  # places of an error that are named one by one


@dataclass(frozen=True, slots=True)  # a million are in memory at once
class Query:
    """A question as the models read it, and what counts as its answer."""

    question: str
    references: tuple[str, ...]
    dataset: str = ""
    kind: str = ""  # question type or family within the data set, for tables per kind
    passages: tuple[str, ...] = ()  # texts that a tool may search, if not part of the question
    item: str = ""  # its own name in a source that gives one; alike questions then stay apart
    instruction: str = ""  # what its data set asks of every answer; last but for the arm's own
    examples: str = ""  # worked questions of its data set, first in every prompt
    tests: str = ""  # a program that runs to its end if the code in its line {answer} is right
    place: str = field(default="", compare=False, repr=False)  # where it was read

    _id: str = field(default="", init=False, compare=False, repr=False)
    _wording: str = field(default="", init=False, compare=False, repr=False)

    @property
    def id(self) -> str:
        """Key of the content: data set, question, references; of the other fields, those set."""
        if not self._id:
            content: list[object] = [self.dataset, self.question, list(self.references)]
            content += [list(self.passages)] if self.passages else []
            others = {name: getattr(self, name) for name in OPTIONAL if getattr(self, name)}
            key = digest([*content, others] if others else content)
            object.__setattr__(self, "_id", key)
        return self._id

    def under(self, key: str) -> Query:
        """The same query under the id that it is stored with, be it that of its content or not."""
        query = replace(self)
        object.__setattr__(query, "_id", key)
        return query

    @property
    def wording(self) -> str:
        """Key of what is asked, see `wording_key`."""
        if not self._wording:
            object.__setattr__(self, "_wording", wording_key(self.question))
        return self._wording


def wording_key(question: str) -> str:
    """Key of a question, equal for all that differ in case, spacing and punctuation only."""
    return digest_text(normalised(question))


def split_by_hash(queries: Iterable[Query], names: Sequence[str]) -> dict[str, list[Query]]:
    """Deal queries by the value of a hash of their wording, each by itself, in the order given.

    The range of the hash has an equal interval for each split, so a question's split depends on
    nothing but the question: others that come later move none. Shares are equal on average only:
    n questions dealt into two splits are n/2 each, give or take sqrt(n)/2, and of a few a split
    may get none.
    """
    dealt: dict[str, list[Query]] = {name: [] for name in names}
    for query in queries:
        value = int(digest_text("split:" + query.wording), 16)
        dealt[names[value * len(names) >> 4 * KEY_DIGITS]].append(query)
    return dealt


def shuffled(queries: Iterable[Query], seed: int) -> list[Query]:
    """Queries in a random order, which depends on nothing but the seed and what they are."""
    ordered = sorted(queries, key=lambda query: query.id)
    random.Random(seed).shuffle(ordered)
    return ordered


REPEATED = "repeated"
CONFLICTING = "repeated with another answer"
ACROSS = "in another split too"


class Dropped(NamedTuple):
    """A place where questions were left out, and the reason."""

    dataset: str
    split: str
    reason: str


def without_duplicates(
    splits: Mapping[str, Iterable[Query]], drop: Collection[str] = ()
) -> tuple[dict[str, list[Query]], Counter[Dropped]]:
    """Splits without questions that stand twice, and how many were dropped.

    A question repeated in its split with the same answer is read once, in its first place; one
    whose wording differs there is kept. One that has another answer there, or stands in another
    split, is dropped if its data set is in `drop`: the first place stays, and of splits test before
    validation before training, so that what is evaluated on is not learned from.

    Raises:
        DataError: listing all that may not be dropped, with the fix.
    """
    dropped: Counter[Dropped] = Counter()
    clashes: list[tuple[Query, str]] = []
    kept: dict[str, list[Query]] = {split: [] for split in splits}
    taken: dict[str, tuple[str, Query]] = {}  # split and query by wording
    for split in sorted(splits, key=SPLITS.index, reverse=True):
        by_question: dict[tuple[str, str], Query] = {}
        for query in splits[split]:
            wording = query.wording
            reason, first = _duplicate(query, wording, split, by_question, taken)
            if first is None:
                by_question[query.question, query.item] = query
                taken.setdefault(wording, (split, query))
                kept[split].append(query)
            elif reason == REPEATED or query.dataset in drop:
                dropped[Dropped(query.dataset, split, reason)] += 1
            else:
                clashes.append((query, f"{_at(query, split)}: {reason}: {_at(*first)}"))
    if clashes:
        raise _refused(clashes)
    return kept, dropped


def _duplicate(
    query: Query,
    wording: str,
    split: str,
    own: Mapping[tuple[str, str], Query],
    taken: Mapping[str, tuple[str, Query]],
) -> tuple[str, tuple[Query, str] | None]:
    """Why a query is a duplicate, and of which in which split; None where it is none."""
    elsewhere, first = taken.get(wording, (split, query))
    if elsewhere != split:
        return ACROSS, (first, elsewhere)
    if (query.question, query.item) not in own:
        return "", None
    first = own[query.question, query.item]
    return (REPEATED if _answer(first) == _answer(query) else CONFLICTING), (first, split)


def _answer(query: Query) -> tuple[frozenset[str], tuple[str, ...], str]:
    return frozenset(query.references), query.passages, query.tests


def _at(query: Query, split: str) -> str:
    return f"{split} of {query.dataset or 'the data'}" + (query.place and f" ({query.place})")


def _refused(clashes: Sequence[tuple[Query, str]]) -> DataError:
    lines = [f"\n  {query.question[-80:]!r} in {places}" for query, places in clashes[:SHOWN]]
    if more := len(clashes) - len(lines):
        lines.append(f"\n  and {more} more")
    datasets = " and ".join(dict.fromkeys(f"data.{query.dataset}" for query, _ in clashes))
    return DataError(
        f"{len(clashes)} questions stand where they may not; case, spacing and punctuation make no "
        f"other question:{''.join(lines)}\n",
        f"Remove them, or set `on_duplicate: drop` in {datasets}: a question then stays in its "
        "first place, in test before valid before train.",
    )


def dropped_in_words(dropped: Mapping[Dropped, int]) -> str:
    """Dropped questions in one line; "" for none."""
    parts = [
        f"{count} of {split} of {dataset} ({reason})"
        for (dataset, split, reason), count in sorted(dropped.items())
    ]
    return f"questions dropped: {', '.join(parts)}" if parts else ""


def known_split(name: str) -> str:
    """A split's name, as it is.

    Raises:
        ConfigError: there is no such split.
    """
    return lookup({split: split for split in SPLITS}, name, "split")
