"""Thoughts: the reasoning that a model writes before its answer, between tags of its own.

In comes a reply as it was said, with the tags of the model that said it; out comes the reply
without its thought. The known tags are those that the reasoning parsers of vLLM look for
(https://docs.vllm.ai, "Reasoning Outputs") and those of models that are older than these.
"""

from __future__ import annotations

import re
from functools import lru_cache

Tags = tuple[tuple[str, str], ...]
"""Pairs of opening and closing tag; upper and lower case are alike."""

KNOWN_TAGS: Tags = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, Nemotron, OLMo, Phi and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<thoughts>", "</thoughts>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<scratchpad>", "</scratchpad>"),  # asked for by prompts, as is the next
    ("<reflection>", "</reflection>"),
    ("<reasoning>", "</reasoning>"),  # Reka Flash
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),  # MiniMax
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<unused94>thought", "<unused95>"),  # MedGemma
    # Of gpt-oss: whatever stands before the final channel is no answer.
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
)

_NONE: frozenset[str] = frozenset()
_FRAME = re.compile(
    r"<\|(?:START|END)_RESPONSE\|>|<\|(?:begin|end)_of_solution\|>"
    r"|<\|(?:open|close)\|>response<\|sep\|>|<\|return\|>"
)
"""Special tokens around the answer that follows a thought; they are no part of either."""


def drop_thought(text: str, tags: Tags = KNOWN_TAGS, thinking: bool = False) -> str:
    """The text without its thoughts, white space as it stands; without tags, all of it.

    After an opening tag that is never closed, and before a closing tag that was never opened, all
    is thought. With `thinking` the prompt has opened the thought, so that all is thought up to the
    first closing tag, or to the end of a text that was cut before it.
    """
    return _dropped(text, tags, thinking) if tags else text


@lru_cache(maxsize=1 << 12)  # a workflow restarted is told the same replies
def _dropped(text: str, tags: Tags, thinking: bool) -> str:
    pattern, closing = _grammar(tags)
    # Tags that would end the thought under way; none outside one.
    awaited = frozenset(closing.values()) if thinking else _NONE
    kept: list[str] = []
    start = 0
    for match in pattern.finditer(text):
        tag = match[0].lower()
        if awaited and tag not in awaited:
            continue
        if awaited:
            awaited = _NONE
        elif tag in closing:
            kept.append(text[start : match.start()])
            awaited = frozenset({closing[tag]})
        else:
            kept.clear()
        start = match.end()
    if not awaited:
        kept.append(text[start:])
    return _FRAME.sub("", "".join(kept))


def opens_thought(prompt: str, tags: Tags = KNOWN_TAGS) -> bool:
    """True if a prompt ends in an opening tag, white space aside: the reply begins as a thought."""
    return prompt.rstrip().lower().endswith(tuple(opening.lower() for opening, _ in tags))


@lru_cache(maxsize=64)
def _grammar(tags: Tags) -> tuple[re.Pattern[str], dict[str, str]]:
    """Pattern of every tag, and the closing tag of each opening tag in lower case."""
    texts = sorted({text for pair in tags for text in pair}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, texts)), re.IGNORECASE | re.ASCII)
    return pattern, {opening.lower(): close.lower() for opening, close in tags}
