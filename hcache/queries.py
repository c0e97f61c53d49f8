"""Queries, and the one place where they are split.

A query is a question with its reference answers. Its id is its content, so the same question
read twice is the same query, and no question can stand in two splits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hcache.errors import DataError
from hcache.keys import digest, digest_text

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Query:
    """A question as the models read it (passages included), and what counts as its answer."""

    question: str
    references: tuple[str, ...]
    dataset: str = ""
    kind: str = ""  # question type or family within the data set, for tables per kind

    @cached_property
    def id(self) -> str:
        """Key of the content: data set, question and references."""
        return digest([self.dataset, self.question, list(self.references)])


def split_by_hash(queries: Iterable[Query], parts: dict[str, float]) -> dict[str, list[Query]]:
    """Deal queries into splits by their id, so that a query's split depends on nothing else.

    `parts` maps split names to shares that sum to 1. Each split is ordered by query id; its size
    is the share rounded, so 80 queries halved are 40 and 40.
    """
    ordered = sorted(queries, key=lambda query: digest_text("split:" + query.id))
    out: dict[str, list[Query]] = {}
    start, share = 0, 0.0
    for name, part in parts.items():
        share += part
        end = round(share * len(ordered))
        out[name] = sorted(ordered[start:end], key=lambda query: query.id)
        start = end
    return out


def check_splits(splits: dict[str, list[Query]]) -> None:
    """Refuse a question that stands twice, in one split or in two.

    Raises:
        DataError: naming the question and both places.
    """
    seen: dict[str, str] = {}
    for split, queries in splits.items():
        for query in queries:
            place = f"{split} of {query.dataset or 'the data'}"
            first = seen.setdefault(query.question, place)
            if first is not place:
                raise DataError(
                    f"duplicate question in {first} and {place}: {query.question[:80]!r}.",
                    "Remove one of them; a question may stand in one split only.",
                )
