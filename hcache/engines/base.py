"""Interface of engines: they take requests and give generations back as they finish."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import JsonValue

from hcache.config.schema import ModelConfig
from hcache.data.thoughts import opens_thought
from hcache.engines.memory import Memory
from hcache.keys import digest, generation_key, seed_of, well_formed
from hcache.models.arms import Arm
from hcache.plugins import Registry
from hcache.workflows.effects import Ask, Message

TOO_LONG = "too_long"
"""Finish reason of a prompt that does not fit the window: an outcome, not a failure.

It costs its prompt tokens, see docs/checking.md."""

MODEL_FILES = ("path", "chat_template", "adapter")
"""Settings of a model that name files."""

REPLICA_STRIDE = 1 << 16
"""Sample index of a generation: replica + REPLICA_STRIDE · (sample index of its Ask)."""


@dataclass(frozen=True)
class Request:
    """One generation to be made."""

    key: str
    arm: Arm
    messages: tuple[Message, ...]
    messages_key: str
    sample: int
    question: str = ""  # that it is asked for; a ΔW may be made for it

    @property
    def seed(self) -> int:
        """Seed of this request alone, from its key."""
        return seed_of(self.key)


def request_for(ask: Ask, replica: int, question: str) -> Request:
    """The generation that an Ask of a replica stands for, in a trajectory of a question."""
    sample = 0 if ask.arm.deterministic else replica + REPLICA_STRIDE * ask.sample
    messages_key = _messages_key(ask.messages)
    fingerprint = ask.arm.fingerprint
    if ask.arm.by_question:
        fingerprint = digest([fingerprint, question])
    key = generation_key(fingerprint, messages_key, sample)
    return Request(key, ask.arm, ask.messages, messages_key, sample, question)


@lru_cache(maxsize=1 << 10)  # arms are asked the same, one after the other
def _messages_key(messages: tuple[Message, ...]) -> str:
    return digest([message._asdict() for message in messages])


class Prompt(NamedTuple):
    """A rendered prompt."""

    ids: list[int]
    thinking: bool  # it ends in an opening reasoning tag: the reply begins inside the thought

    @property
    def key(self) -> str:
        """Digest of the token ids."""
        return digest(self.ids)


def render(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], model: ModelConfig
) -> list[Prompt]:
    """The prompts of some messages each: the chat template's text, tokenised once, no token added.

    Whoever generates and whoever scores what was generated has to read the very same prompt. A
    template of the model's settings is handed over each time: to set it on a tokenizer does nothing
    to one that an engine has wrapped. Together they take half the time that they take one by one.
    """
    if not conversations:
        return []
    template = None if model.chat_template is None else Path(model.chat_template).read_text("utf-8")
    texts: list[str] = tokenizer.apply_chat_template(
        [[message._asdict() for message in messages] for messages in conversations],
        tokenize=False,
        add_generation_prompt=True,
        chat_template=template,
        **model.chat_template_args,
    )
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    thinking = [opens_thought(text, model.tags) for text in texts]
    return [Prompt(*each) for each in zip(ids, thinking, strict=True)]


def as_said(tokenizer: Any, ids: Sequence[int], ends: Collection[int]) -> str:
    """The text of an output: special tokens and white space as they were said.

    Only what frames it goes: tokens at the end that end a turn (`ends`) or pad, and a beginning of
    sequence at the start.
    """
    frame = {*ends, tokenizer.eos_token_id, tokenizer.pad_token_id}
    start, stop = 0, len(ids)
    while stop > start and ids[stop - 1] in frame:
        stop -= 1
    if stop > start and ids[start] == tokenizer.bos_token_id:
        start += 1
    text: str = tokenizer.decode(list(ids[start:stop]), skip_special_tokens=False)
    return text


@dataclass(frozen=True)
class Generation:
    """A reply of an arm, with the tokens it took."""

    key: str
    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: str  # "stop", "length" or TOO_LONG
    cached_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    seconds: float = 0.0
    thinking: bool = False  # the prompt ends inside a thought, so the reply begins there
    prompt_key: str = ""  # digest of the prompt's token ids; "" where nothing was rendered
    counted: int | None = None  # tokens generated, as a server counts them
    reasoning_tokens: int = 0  # of these, in a thought, where a server says so
    facts: tuple[tuple[str, str], ...] = ()  # provenance of this reply alone

    def __post_init__(self) -> None:
        """Make the text one that can be stored: half a surrogate pair becomes U+FFFD."""
        object.__setattr__(self, "text", well_formed(self.text))

    @property
    def output_tokens(self) -> int:
        """Tokens generated, the end-of-turn token included where the model said it."""
        return len(self.token_ids) if self.counted is None else self.counted


class Engine(Protocol):
    """Serves all arms of one checkpoint. One thread only."""

    provenance: dict[str, str]

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ArmError: it cannot be asked of this arm; the engine goes on with others.
            EngineError: the engine has failed.
        """

    def step(self) -> list[Generation]:
        """Work a little; what has finished since.

        Raises:
            ArmError: a request that was queued is refused; its `request` says which.
            RequestError: it has no reply to one request; it goes on with others.
            EngineError: the engine has failed; what it had queued is lost.
        """

    def abort(self) -> None:
        """Drop all that is queued or running."""

    def close(self) -> None:
        """Let go of the model."""


class QueueEngine(ABC):
    """An engine that computes each reply at once: `batch` replies of its queue a step."""

    provenance: dict[str, str]
    files: tuple[str, ...] = MODEL_FILES  # see `EngineType`

    @staticmethod
    def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """See `EngineType`: any argument may change a reply."""
        return dict(arguments)

    @staticmethod
    def memory(model: ModelConfig) -> Memory | None:
        """See `EngineType`: no model is loaded."""
        return None

    @staticmethod  # noqa: B027 - a default, not a part left out
    def check(request: Request) -> None:
        """See `EngineType`: any request can be taken."""

    def __init__(self, batch: int = 64) -> None:
        self.batch = batch
        self.queue: deque[Request] = deque()

    @abstractmethod
    def reply(self, request: Request) -> Generation:
        """The reply to one request."""

    def submit(self, request: Request) -> None:
        """See `Engine`."""
        self.queue.append(request)

    def step(self) -> list[Generation]:
        """See `Engine`."""
        count = min(self.batch, len(self.queue))
        return [self.reply(self.queue.popleft()) for _ in range(count)]

    def abort(self) -> None:
        """See `Engine`."""
        self.queue.clear()

    def close(self) -> None:
        """See `Engine`."""
        self.queue.clear()


class EngineType(Protocol):
    """Interface of what is registered as an engine; `QueueEngine` has a default for most."""

    files: tuple[str, ...]
    """Settings of a model that name files, which are looked for before all else."""

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """Digests of all files of a model that can change a reply; `place` is for errors.

        Settings that every engine has (dtype, lengths, sampling, …) are keyed apart from it.

        Raises:
            ConfigError: a setting that this engine does not take.
            EngineError: the model's files are not what this engine serves.
        """

    @staticmethod
    def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The `engine_args` that can change a reply: they are identity."""

    @staticmethod
    def check(request: Request) -> None:
        """Refuse, without loading a model, a request that the engine cannot take.

        Raises:
            ArmError: saying why, and what to change.
        """

    @staticmethod
    def memory(model: ModelConfig) -> Memory | None:
        """The memory that a model takes once it is loaded.

        None where none is loaded: what a server or a script says needs no process of its own.
        """

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> Engine:
        """The engine of an arm's checkpoint; whatever is slow to import is imported here."""


ENGINES: Registry[EngineType] = Registry("engine", "hcache.engines")


def engine_of(model: ModelConfig) -> str:
    """The name of the engine that serves a model."""
    return model.engine if model.low_rank is None else "low-rank"


def make_engine(arm: Arm, logprobs: bool) -> Engine:
    """The engine that an arm's model asks for."""
    return ENGINES.find(engine_of(arm.model_config)).serving(arm, logprobs)


def check_request(request: Request) -> None:
    """Refuse, without loading a model, a request that the engine of its arm cannot take.

    Raises:
        ArmError: saying why, and what to change.
    """
    ENGINES.find(engine_of(request.arm.model_config)).check(request)


EngineFactory = Callable[[Arm, bool], Engine]
"""Makes the engine that serves an arm's checkpoint; the flag asks for log-probabilities."""


@dataclass
class Engines:
    """The engines in use, by checkpoint; loads each when it is first needed."""

    factory: EngineFactory
    logprobs: bool = False
    loaded: dict[str, Engine] = field(default_factory=dict)
    loads: int = 0

    def get(self, arm: Arm) -> Engine:
        """The engine that serves `arm`, loaded if it is not."""
        key = arm.engine_key
        if key not in self.loaded:
            self.loaded[key] = self.factory(arm, self.logprobs)
            self.loads += 1
        return self.loaded[key]

    def drop(self, key: str) -> None:
        """Close one engine."""
        self.loaded.pop(key).close()
        gc.collect()  # a model is a cycle of references

    def close(self) -> None:
        """Close all."""
        while self.loaded:
            self.loaded.popitem()[1].close()
        gc.collect()
