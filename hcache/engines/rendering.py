"""Prompts without a model: rendered by the tokenizer alone, and templates that refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hcache.config.schema import ModelConfig
from hcache.engines.base import Request, render
from hcache.errors import ArmError


@contextmanager
def rendering(request: Request) -> Iterator[None]:
    """While the prompt of a request is rendered: whatever is raised becomes an error of its arm.

    Raises:
        ArmError: in the template's own words, and what to change.
    """
    try:
        yield
    except Exception as error:  # a template is a program of somebody else's
        arm = request.arm
        roles = ", ".join(message.role for message in request.messages)
        raise ArmError(
            f"arms.{arm.name}: the chat template of models.{arm.model} cannot render its prompt "
            f"(messages: {roles}): {' '.join(str(error).split()) or type(error).__name__}.",
            _hint(request),
        ) from error


def _hint(request: Request) -> str:
    arm = request.arm
    template = f"models.{arm.model}.chat_template to a file that takes these messages"
    if arm.system:
        return (
            f"Remove arms.{arm.name}.system (`instruction` is for all models), or set {template}."
        )
    return f"Set {template}."


def check_rendering(request: Request) -> None:
    """Render the prompt of a request with the tokenizer alone, without its model.

    A tokenizer that cannot be loaded like this is left to the engine.

    Raises:
        ArmError: the template refuses the prompt.
    """
    tokenizer = tokenizer_of(request.arm.model_config)
    if tokenizer is not None:
        with rendering(request):
            render(tokenizer, [request.messages], request.arm.model_config)


def tokenizer_of(model: ModelConfig) -> Any:
    """The tokenizer of a checkpoint without its weights; None if it cannot be loaded alone."""
    if model.engine_args.get("tokenizer_mode", "auto") != "auto":
        return None
    folder = Path(str(model.engine_args.get("tokenizer", model.path)))
    return _tokenizer(folder, bool(model.engine_args.get("trust_remote_code", False)))


@cache
def _tokenizer(folder: Path, trusted: bool) -> Any:
    """A tokenizer; the general class where its file is enough, which spares importing torch."""
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    except Exception:  # transformers is missing, or whatever it raises for what it cannot read
        return None
