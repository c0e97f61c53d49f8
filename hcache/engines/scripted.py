"""The scripted engine: replies by rule, for tests, dry runs and faults. No model.

Its script is a JSON file, a list of [pattern, reply]: the first pattern (a regular expression)
that is found in the prompt gives the reply, in which \\1 stands for its first group. A prompt
that no pattern fits gets the reply "". Tokens are words; no template stands around the messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import JsonValue

from hcache.config.schema import ModelConfig
from hcache.data.thoughts import opens_thought
from hcache.engines.base import ENGINES, TOO_LONG, Generation, QueueEngine, Request
from hcache.errors import EngineError
from hcache.keys import digest_file, digest_text, well_formed
from hcache.models.arms import Arm

Script = Callable[[Request], str]
_WORD = re.compile(r"\S+")


@ENGINES.register("scripted")
class ScriptedEngine(QueueEngine):
    """Answers from a function of the request, `batch` replies a step."""

    def __init__(self, script: Script, batch: int = 64) -> None:
        super().__init__(batch)
        self.script = script
        self.provenance = {"engine": "scripted"}

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: the script."""
        path = Path(model.path)
        if not path.is_file():
            raise EngineError(f"{place}.path: {path} is no script.", "Give a JSON file.")
        try:
            return {"script": digest_file(path)}
        except OSError as error:
            raise EngineError(
                f"{place}.path: {path} cannot be read ({error.strerror}).", "Give a JSON file."
            ) from error

    @staticmethod
    def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """See `EngineType`: it has no arguments; those of the engine it stands in for may stay."""
        return {}

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> ScriptedEngine:
        """See `EngineType`."""
        return ScriptedEngine(read_script(arm.path))

    def reply(self, request: Request) -> Generation:
        """See `QueueEngine`."""
        prompt_tokens = sum(len(message.content.split()) for message in request.messages)
        if prompt_tokens >= request.arm.model_config.max_model_len:
            return Generation(request.key, "", (), prompt_tokens, TOO_LONG)
        text = self.script(request)
        words = list(_WORD.finditer(text))
        kept = words[: request.arm.config.max_tokens]
        cut = len(kept) < len(words)
        ids = tuple(int(digest_text(word[0])[:4], 16) for word in kept)
        thinking = opens_thought(request.messages[-1].content, request.arm.model_config.tags)
        return Generation(
            request.key,
            text[: kept[-1].end()] if cut else text,
            ids,
            prompt_tokens,
            "length" if cut else "stop",
            thinking=thinking,
        )


def read_script(path: Path) -> Script:
    """A script from its JSON file.

    Raises:
        EngineError: it cannot be read, is not JSON, or not a list of [pattern, reply]; or a rule
            is no regular expression, or has a reply that refers to a group it has not.
    """
    try:
        rules = [_rule(rule) for rule in _list_of(json.loads(path.read_text(encoding="utf-8")))]
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"{path}: not a script ({error}).", "Write it as a JSON list of [pattern, reply]."
        ) from error

    def script(request: Request) -> str:
        prompt = "\n".join(message.content for message in request.messages)
        for pattern, reply in rules:
            if match := pattern.search(prompt):
                return match.expand(reply)
        return ""

    return script


def _list_of(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    raise ValueError("it is no list")


def _rule(rule: object) -> tuple[re.Pattern[str], str]:
    """A pattern and its reply.

    Raises:
        ValueError: saying what is wrong with which rule.
    """
    match rule:
        case [str() as pattern, str() as reply]:
            pass
        case _:
            raise ValueError(f"{str(rule)[:80]!r} is no pair of texts")
    if well_formed(pattern + reply) != pattern + reply:
        raise ValueError(rf"{pattern[:80]!r}: half a surrogate pair (\ud800 to \udfff)")
    try:
        compiled = re.compile(pattern)
        compiled.sub(reply, "")  # reads the reply, whether there is a match or none
    except (re.error, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern[:80]!r}: {error}") from error
    return compiled, reply
