"""Queries, and the one place where they are split.

A query is a question with its reference answers. Its id is its content, so the same question
read twice is the same query, and no question can stand in two splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hcache.errors import DataError
from hcache.keys import digest, digest_text
from hcache.plugins import lookup

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Query:
    """A question as the models read it, and what counts as its answer."""

    question: str
    references: tuple[str, ...]
    dataset: str = ""
    kind: str = ""  # question type or family within the data set, for tables per kind
    passages: tuple[str, ...] = ()  # texts that a tool may search, if not part of the question

    @cached_property
    def id(self) -> str:
        """Key of the content: data set, question, references, and passages where there are any."""
        content = [self.dataset, self.question, list(self.references)]
        return digest([*content, list(self.passages)] if self.passages else content)


def split_by_hash(queries: Iterable[Query], names: Sequence[str]) -> dict[str, list[Query]]:
    """Deal queries into equal parts, in an order that depends on their ids alone.

    80 queries dealt into two splits are 40 and 40; each split is ordered by query id.
    """
    ordered = sorted(queries, key=lambda query: digest_text("split:" + query.id))
    return {
        name: sorted(ordered[place :: len(names)], key=lambda query: query.id)
        for place, name in enumerate(names)
    }


def check_splits(splits: dict[str, list[Query]]) -> None:
    """Refuse a question that stands twice, in one split or in two.

    Raises:
        DataError: naming the question and both places.
    """
    seen: dict[str, str] = {}
    for split, queries in splits.items():
        for query in queries:
            place = f"{split} of {query.dataset or 'the data'}"
            if query.question in seen:
                raise DataError(
                    f"duplicate question in {seen[query.question]} and {place}: "
                    f"{query.question[:80]!r}.",
                    "Remove one of them; a question may stand in one split only.",
                )
            seen[query.question] = place


def known_split(name: str) -> str:
    """A split's name, as it is.

    Raises:
        ConfigError: there is no such split.
    """
    return lookup({split: split for split in SPLITS}, name, "split")
