"""Chat completions, the protocol of OpenAI's that many servers speak: a request out, a reply in.

Fields are those of https://platform.openai.com/docs/api-reference/chat; those of vLLM's server that
go beyond it are used where a model's `engine_args` ask for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic import BaseModel, Field, JsonValue, ValidationError

from hcache.config.schema import ModelConfig
from hcache.engines.base import TOO_LONG, Generation, Request
from hcache.errors import EngineError, RequestError
from hcache.keys import digest
from hcache.models.arms import Arm

LONGEST = 300  # characters of what a server says that an error repeats
ENDS = {"stop": "stop", "eos": "stop", "end_turn": "stop", "length": "length"}
"""Finish reasons of servers, and ours."""

_OVERFLOW = re.compile(
    r"context.?(length|window|size)|maximum (model|input|prompt) length|maximum number of tokens"
    r"|(prompt|input) is too long|too many (input )?tokens",
    re.IGNORECASE,
)


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None  # a thought that the server has taken out of the content
    reasoning: str | None = None  # the same, elsewhere


class _LogProb(BaseModel):
    logprob: float


class _LogProbs(BaseModel):
    content: list[_LogProb] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str
    logprobs: _LogProbs | None = None
    token_ids: list[int] | None = None  # of vLLM's server, asked for by `return_token_ids`


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _ReplyDetails(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=1)
    completion_tokens: int = Field(ge=0)
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _ReplyDetails | None = None


class Completion(BaseModel):
    """A reply as a server gives it; what is not used here is not read."""

    model: str
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage
    system_fingerprint: str | None = None
    prompt_token_ids: list[int] | None = None  # of vLLM's server, as `token_ids`


def chat_body(request: Request, logprobs: bool) -> dict[str, JsonValue]:
    """The JSON that asks for a reply to a request.

    What would change nothing at temperature 0 is left out; a field that is null in `engine_args` is
    left out too. The nucleus is always said: a server may have a default of its own.
    """
    model, config = request.arm.model_config, request.arm.config
    drawn = {"top_p": config.top_p, "seed": request.seed} if config.temperature > 0 else {}
    body: dict[str, JsonValue] = {
        "model": model.path,
        "messages": [message._asdict() for message in request.messages],
        model.at_server.length_field: config.max_tokens,
        "temperature": config.temperature,
        **drawn,
        "stop": list(config.stop) or None,
        "logprobs": logprobs or None,
        "chat_template_kwargs": model.chat_template_args or None,
        **model.engine_args,
    }
    return {name: value for name, value in body.items() if value is not None}


def read_completion(content: bytes | str) -> Completion:
    """The reply in the body of a response.

    Raises:
        ValueError: it is cut, no JSON, or lacks what a reply must have; saying which.
    """
    try:
        return Completion.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error


def generation_of(
    request: Request, said: Completion, seconds: float, facts: dict[str, str]
) -> Generation:
    """The generation that a reply is; `facts` are where it came from.

    Raises:
        EngineError: another model has said it.
        RequestError: it is no reply: withheld by a filter, or a call of a tool.
    """
    check_model(request.arm, said)
    (choice,) = said.choices
    if choice.finish_reason not in ENDS:
        raise RequestError(
            f"arms.{request.arm.name}: the server ended a reply with "
            f"{choice.finish_reason[:LONGEST]!r}, which is no answer.",
            "It stays missing; leave the question out, or ask another model.",
            request.key,
        )
    ids = tuple(choice.token_ids or ())
    return Generation(
        request.key,
        _text(choice.message, request.arm.model_config),
        ids,
        said.usage.prompt_tokens,
        ENDS[choice.finish_reason],
        _cached(said.usage),
        _logprobs(choice, ids),
        seconds,
        prompt_key=digest(said.prompt_token_ids) if said.prompt_token_ids else "",
        counted=_written(said.usage),
        reasoning_tokens=_reasoning(said.usage),
        facts=tuple({**facts, **dict(_of_server(said))}.items()),
    )


def too_long(request: Request, facts: dict[str, str]) -> Generation:
    """The outcome of a prompt that did not fit; the server does not say how many tokens it has."""
    said = {**facts, "prompt_tokens": "not reported"}
    return Generation(request.key, "", (), 0, TOO_LONG, facts=tuple(said.items()))


def is_overflow(status: int, code: str, words: str) -> bool:
    """True if a refusal says that the prompt does not fit."""
    if code == "context_length_exceeded" or status == 413:
        return True
    return status == 400 and _OVERFLOW.search(words) is not None


def error_of(content: bytes) -> tuple[str, str]:
    """Code and words of the error in the body of a response, of whatever form."""
    try:
        return error_in(json.loads(content))
    except (ValueError, RecursionError):
        return "", content.decode("utf-8", "replace")


def error_in(data: object) -> tuple[str, str]:
    """Code and words of an error, which servers wrap differently; empty where there is none."""
    if not isinstance(data, dict):
        return "", "" if data is None else str(data)
    if "error" in data:
        return error_in(data["error"])
    return str(data.get("code") or ""), str(data.get("message") or data)


def check_model(arm: Arm, said: Completion) -> None:
    """Refuse a reply of another model than the one that was asked.

    Raises:
        EngineError: naming both.
    """
    asked = arm.model_config.served_name
    if said.model != asked:
        other = said.model[:LONGEST]
        raise EngineError(
            f"models.{arm.model}: {asked} was asked, and {other!r} has replied.",
            f"If that is the one you mean, set models.{arm.model}.server.served_as={other}",
        )


def _text(message: _Message, model: ModelConfig) -> str:
    """The reply; a thought that the server took out stands before it, in the model's tags."""
    content = message.content or ""
    thought = message.reasoning_content or message.reasoning
    if not thought or not model.tags:
        return content
    opening, closing = model.tags[0]
    return f"{opening}{thought}{closing}{content}"


def _written(usage: _Usage) -> int:
    """Tokens of a reply; some servers leave those of the thought to the total."""
    return max(usage.completion_tokens, (usage.total_tokens or 0) - usage.prompt_tokens)


def _cached(usage: _Usage) -> int:
    details = usage.prompt_tokens_details
    return min(details.cached_tokens or 0, usage.prompt_tokens) if details else 0


def _reasoning(usage: _Usage) -> int:
    details = usage.completion_tokens_details
    return min(details.reasoning_tokens or 0, _written(usage)) if details else 0


def _logprobs(choice: _Choice, ids: tuple[int, ...]) -> tuple[float, ...] | None:
    """Log-probabilities of the tokens; without their ids nothing could be made of them."""
    content = choice.logprobs.content if choice.logprobs else None
    if not content or len(content) != len(ids):
        return None
    return tuple(min(each.logprob, 0.0) for each in content)


def _of_server(said: Completion) -> Iterator[tuple[str, str]]:
    yield "model", said.model
    if said.system_fingerprint:
        yield "system_fingerprint", said.system_fingerprint
