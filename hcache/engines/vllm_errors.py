"""Errors of vLLM's in our words: all that they and their causes say, and what to set."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import ValidationError

from hcache.config.schema import ModelConfig

LONGEST = 600  # characters of one reason; what vLLM lists in its errors can be pages
HINTS = (  # by what an error says; the first that fits holds
    (
        r"out of memory|outofmemory|gpu_memory_utilization|cache blocks|kv cache",
        "Give it memory (gpu_memory_utilization or kv_cache_memory_bytes in "
        "models.{model}.engine_args), or lower models.{model}.max_model_len.",
    ),
    (r"max_model_len|max_position_embeddings", "Lower models.{model}.max_model_len."),
    (
        r"quantiz",
        "Set models.{model}.quantization to a method that vLLM knows and the checkpoint was made "
        "for, or remove it.",
    ),
    (r"[ld]ora|adapter", "Give an adapter in models.{model}.adapter that was made for this model."),
    (r"dtype|float16|float32", "Set models.{model}.dtype to another type."),
    (
        r"tokenizer",
        "Add the tokenizer's files to the folder in models.{model}.path, as save_pretrained does.",
    ),
    (r"", "Check the settings of models.{model}, and whether its files are whole."),
)
WRONG_SETTING = (ValueError, TypeError, NotImplementedError)


def reasons(error: BaseException) -> str:
    """Messages of an error and its causes, on one line and without tracebacks.

    vLLM's own errors often state the reason in later lines, or in the error that they come from.
    """
    said: list[str] = []
    for text in map(_text, _chain(error)):
        if not any(text in earlier for earlier in said):
            said.append(text)
    return "; from ".join(map(_shortened, said))


def hint_for(error: BaseException, name: str, model: ModelConfig) -> str:
    """Way out of an error in loading a model, by its message."""
    text = " ".join(map(_text, _chain(error)))
    for argument in model.engine_args:
        if re.search(rf"\b{argument.replace('_', '[_ ]')}\b", text):
            return f"Change models.{name}.engine_args.{argument}."
    if model.quantization is not None and model.quantization in text:
        text = "quantization"
    hint = next(hint for pattern, hint in HINTS if re.search(pattern, text, re.IGNORECASE))
    return hint.format(model=name)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text(error: BaseException) -> str:
    """All that one error says: its lines joined, without what a library adds about itself."""
    if isinstance(error, ValidationError):
        return "; ".join(
            ": ".join([*map(str, item["loc"]), str(item["msg"]).removeprefix("Value error, ")])
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
    lines = " ".join(str(error).split())
    return f"{type(error).__name__}: {lines}" if lines else type(error).__name__


def _shortened(text: str) -> str:
    """Both ends of a text that is too long: the middle is a list as a rule."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 3 :]}"
