"""Prompts rendered again with the models' tokenizers, and compared with what the models had read.

A template or a tokenizer that has changed under a name renders another prompt: its number of
tokens, or the digest of their ids, is then not the stored one. No weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hcache.checking.findings import Findings, OnProgress
from hcache.engines.base import render
from hcache.engines.rendering import tokenizer_of
from hcache.errors import HcacheError
from hcache.experiment import Experiment
from hcache.models.arms import Arm, Pool
from hcache.store import Store
from hcache.store.checks import PROMPTS
from hcache.workflows import Message

SAMPLE = 200  # prompts of an arm, unless all are wanted


def check_prompts(
    store: Store,
    experiment: Experiment,
    arms: Mapping[str, Arm],
    every: bool,
    findings: Findings,
    on_progress: OnProgress,
) -> None:
    """Render prompts of an experiment's arms again, those whose files are at hand."""
    for arm in _at_hand(experiment, findings):
        if arm.id not in arms:
            findings.notes.append(f"{arm.name}: no prompt was rendered, the file's arm is another.")
            continue
        tokenizer = tokenizer_of(arm.model_config)
        if tokenizer is None:
            findings.notes.append(f"{arm.name}: no prompt was rendered, it has no tokenizer.")
            continue
        rows = store.sql(PROMPTS, [arm.fingerprint])
        if not every:
            rows = rows.head(SAMPLE)
        for place, (key, text, tokens, prompt_key) in enumerate(rows.iter_rows(), 1):
            messages = [Message(**message) for message in json.loads(text)]
            [prompt] = render(tokenizer, [messages], arm.model_config)
            if len(prompt.ids) != tokens:
                findings.add("generations", "prompt_tokens are not those of its prompt", key)
            if prompt_key not in ("", prompt.key):
                findings.add("generations", "its prompt is rendered otherwise now", key)
            on_progress(f"prompts of {arm.name}", place, len(rows))
        findings.count("prompts rendered", len(rows))


def _at_hand(experiment: Experiment, findings: Findings) -> Pool:
    """The arms of an experiment with a checkpoint; none, and a note, where files are missing."""
    try:
        return tuple(
            arm for arm in experiment.pool if arm.path.is_dir() and not arm.model_config.remote
        )
    except (HcacheError, OSError) as error:
        findings.notes.append(f"No prompt was rendered: {error}")
        return ()
