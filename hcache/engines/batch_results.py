"""Results of a batch, as OpenAI's API and `vllm run-batch` write them: a line for each request.

A line has the `custom_id` of its request, and a response with its status and a chat completion, or
an error; those that failed come in a file of their own. Fields are those of
https://platform.openai.com/docs/api-reference/batch/request-output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hcache.data.source import Row, Source
from hcache.engines.chat import Completion, error_in, is_overflow, read_completion
from hcache.errors import DataError

AGAIN = "Download it again, or remove the line; nothing of it was taken."


@dataclass(frozen=True)
class BatchLine:
    """A line of results: a completion, or the words of an error."""

    place: str
    completion: Completion | None
    words: str = ""
    overflow: bool = False  # the prompt was too long


def read_lines(path: Path) -> Iterator[tuple[str, BatchLine]]:
    """The lines of a file of results, with the ids of their requests.

    Raises:
        DataError: the file cannot be read, or a line is malformed or no result.
    """
    source = Source(path)
    for row in source.json_rows():
        yield custom_id(row), line_of(row)


def custom_id(row: Row) -> str:
    """The id of a request, in its own line or in that of its result.

    Raises:
        DataError: there is none.
    """
    key = row.get("custom_id")
    if not isinstance(key, str):
        raise row.source.defect("has no custom_id, so it is no line of a batch", AGAIN)
    return key


def line_of(row: Row) -> BatchLine:
    """Content of a line of results.

    Raises:
        DataError: it has neither response nor error, or the response is no chat completion.
    """
    source, response = row.source, row.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if row.get("error") is None and status == 200:
        try:
            return BatchLine(source.place, read_completion(json.dumps(body, default=float)))
        except (ValueError, TypeError, RecursionError) as error:
            raise source.defect(f"holds no chat completion ({error})", AGAIN) from error
    code, words = error_in(row.get("error") or body)
    if not words and status is None:
        raise source.defect("has neither response nor error", AGAIN)
    overflow = is_overflow(status if isinstance(status, int) else 400, code, words)
    return BatchLine(source.place, None, words or f"status {status}", overflow)


def agreed(first: BatchLine | None, second: BatchLine) -> BatchLine:
    """Of two lines of one request the one with a reply.

    Raises:
        DataError: both have one, and they differ.
    """
    if first is None or first.completion is None:
        return second
    if second.completion is not None and first.completion.choices != second.completion.choices:
        raise DataError(
            f"{second.place}: holds another reply than {first.place} to the same request.",
            "Remove one of the two lines; nothing was taken.",
        )
    return first
