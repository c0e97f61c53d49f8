"""Batch files of OpenAI's form: what is missing goes out as requests, what came back comes in.

Requests go out hop by hop, since a prompt holds the replies before it: writing requests and taking
results alternate until nothing is missing. A line's `custom_id` is the key of its generation, so a
result finds its place whatever has happened in between. Results are read whole before any is used.
See https://platform.openai.com/docs/guides/batch and `vllm run-batch`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from hcache.data.source import Row, Source
from hcache.engines import Engine, EngineFactory, Generation, Request
from hcache.engines.base import QueueEngine
from hcache.engines.chat import (
    Completion,
    chat_body,
    error_in,
    generation_of,
    is_overflow,
    read_completion,
    too_long,
)
from hcache.errors import ConfigError, DataError, EngineError, RequestError
from hcache.experiment import Experiment
from hcache.files import replace_file
from hcache.keys import canonical
from hcache.models.arms import Arm
from hcache.sampling.enumerator import Reply, enumerator_of
from hcache.sampling.plan import stored_replies

URL = "/v1/chat/completions"
AGAIN = "Download it again, or remove the line; nothing of it was taken."


@dataclass
class Written:
    """Batch files that were written."""

    requests: dict[Path, int] = field(default_factory=dict)  # in each file
    others: int = 0  # requests that are missing and no server's


@dataclass
class Results:
    """Replies that came back, by the key of their generation."""

    generations: dict[str, Generation] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # place and words of each line without a reply

    def before(self, others: EngineFactory) -> EngineFactory:
        """The engines of a run that takes them: of a server's models, these replies."""

        def factory(arm: Arm, logprobs: bool) -> Engine:
            return ResultsEngine(self, arm) if arm.model_config.remote else others(arm, logprobs)

        return factory


class ResultsEngine(QueueEngine):
    """Answers with what came back."""

    def __init__(self, results: Results, arm: Arm) -> None:
        super().__init__()
        self.results = results
        self.provenance = {"engine": "openai", "asked": arm.model_config.path}

    def reply(self, request: Request) -> Generation:
        """See `QueueEngine`."""
        return self.results.generations[request.key]


@dataclass(frozen=True)
class _Line:
    """A line of results: a completion, or an error."""

    place: str
    completion: Completion | None
    words: str = ""
    overflow: bool = False


def write_batch(experiment: Experiment, path: Path) -> Written:
    """Write what can be asked now: one file, or one for each model, whose name then ends so.

    Raises:
        ConfigError: no arm is a server's, or the file cannot be written.
    """
    if not any(arm.model_config.remote for arm in experiment.pool):
        raise ConfigError(
            f"{experiment.source}: no model has engine openai, for which batch files are.",
            "Set `engine: openai` and the served name as `path`; hcache sample asks the others.",
        )
    stored = stored_replies(experiment)
    lines: dict[str, list[bytes]] = defaultdict(list)
    written = Written()
    for request in _askable(experiment, lambda request: stored.get(request.key)):
        if request.key in stored:
            continue
        if not request.arm.model_config.remote:
            written.others += 1
            continue
        body = chat_body(request, experiment.config.sampling.logprobs)
        lines[request.arm.model].append(request_line(request.key, body))
    for model, requests in lines.items():
        file = path if len(lines) == 1 else path.with_name(f"{path.stem}.{model}{path.suffix}")
        try:
            replace_file(file, *requests)
        except OSError as error:
            raise ConfigError(
                f"{file}: cannot be written ({error.strerror}).", "Give --batch another file."
            ) from error
        written.requests[file] = len(requests)
    return written


def request_line(key: str, body: Mapping[str, JsonValue]) -> bytes:
    """The line of a batch file that asks for a generation."""
    line = {"custom_id": key, "method": "POST", "url": URL, "body": body}
    return canonical(line).encode() + b"\n"


def read_results(experiment: Experiment, paths: Sequence[Path]) -> Results:
    """Read files of results, whole, and find the request of each line.

    Raises:
        DataError: a file cannot be read, or a line is malformed, no result, of another model,
            contradicts another line, or belongs to no request of the experiment.
    """
    lines: dict[str, _Line] = {}
    results = Results()
    for path in paths:
        for key, line in _lines(path):
            if line.completion is None and not line.overflow:
                results.failed.append(f"{line.place}: {line.words}")
            lines[key] = _agreed(lines.get(key), line)
    stored = stored_replies(experiment)
    met: set[str] = set()

    def known(request: Request) -> Reply | None:
        met.add(request.key)
        if request.key in stored:
            return stored[request.key]
        line = lines.get(request.key)
        generation = None if line is None else _generation(request, line, results)
        if generation is None:
            return None
        results.generations[request.key] = generation
        return Reply.of(generation)

    for _ in _askable(experiment, known):
        pass
    for key, line in lines.items():
        if key not in met:
            raise DataError(
                f"{line.place}: custom_id {key[:100]!r} is no request of {experiment.source} "
                "as it stands.",
                "Give the results of a batch that `hcache plan --batch` wrote for it, in the order "
                "of the hops.",
            )
    return results


def _askable(experiment: Experiment, known: Callable[[Request], Reply | None]) -> Iterator[Request]:
    """Every request whose prompt depends on known replies alone, once."""
    met: set[str] = set()
    for query in experiment.queries():
        enumerator = enumerator_of(experiment)
        todo = enumerator.start(query, experiment.config.sampling.replicas)
        while todo:
            request = todo.pop()
            reply = known(request)
            if request.key not in met:
                met.add(request.key)
                yield request
            if reply is not None:
                todo += enumerator.supply(request.key, reply)


def _lines(path: Path) -> Iterator[tuple[str, _Line]]:
    """The lines of a file of results, with the keys of their generations."""
    source = Source(path)
    for row in source.json_rows():
        key = row.get("custom_id")
        if not isinstance(key, str):
            raise source.defect("has no custom_id, so it is no result of a batch", AGAIN)
        yield key, _line(source, row)


def _line(source: Source, row: Row) -> _Line:
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if row.get("error") is None and status == 200:
        try:
            return _Line(source.place, read_completion(json.dumps(body)))
        except ValueError as error:
            raise source.defect(f"holds no chat completion ({error})", AGAIN) from error
    code, words = error_in(row.get("error") or body)
    if not words and status is None:
        raise source.defect("has neither response nor error", AGAIN)
    overflow = is_overflow(status if isinstance(status, int) else 400, code, words)
    return _Line(source.place, None, words or f"status {status}", overflow)


def _agreed(first: _Line | None, second: _Line) -> _Line:
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


def _generation(request: Request, line: _Line, results: Results) -> Generation | None:
    """The generation that a line holds; None where it holds none.

    Raises:
        DataError: another model has said it.
    """
    if line.overflow:
        return too_long(request, {})
    if line.completion is None:
        return None
    try:
        return generation_of(request, line.completion, 0.0, {})
    except RequestError as error:  # it was withheld
        results.failed.append(f"{line.place}: {error.message}")
        return None
    except EngineError as error:
        raise DataError(f"{line.place}: {error.message}", error.hint) from error
