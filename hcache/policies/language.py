"""A router that is a causal language model: it reads a state and is asked for a letter.

The prompt is the text of the state, then every action with a label, then the cue for one of them.
π(a | s) is the model's probability of a's label as the next token, normalised over the valid
actions. A label is one token, so one forward gives the whole distribution, and arms with names of
many tokens are at no disadvantage, as they would be if names were scored. Nothing is generated and
nothing is parsed, so no reply can fail to name an arm.

A saved one is whole: weights, configuration and tokenizer. Texts longer than the prompt may be
lose their beginning.

Axes in names: n states asked about, B rows of a batch, T tokens, A actions (arms, then STOP).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from hcache.config.schema import Settings
from hcache.errors import ConfigError, RunError
from hcache.models.causal_lm import (
    SAFE,
    beginning,
    by_length,
    import_transformers,
    last_hidden,
    load_checkpoint,
    token_ids,
    with_end,
)
from hcache.policies.base import POLICIES, Policy, write_policy
from hcache.replay.tree import ReadableStates, States, Tree

CUE = "Answer:"
QUESTION = "\n\nWhich of these goes next? {options}.\n" + CUE
STOPS = "nobody, stop here"  # what STOP is called
BATCH = 32  # states that are read at once where nothing is learned


class ReadingSettings(Settings):
    """Settings of what a language model reads, and which of its weights are trained."""

    max_tokens: int = Field(512, ge=1, description="of a prompt; the end of a text is kept")
    lora_rank: int = Field(
        0, ge=0, description="of LoRA on all linear layers, by peft; 0: all weights are trained"
    )
    lora_alpha: float = Field(16.0, gt=0, description="LoRA adds lora_alpha / lora_rank · BA")


@POLICIES.register("language")
class LanguagePolicy:
    """π(a | s) as a language model's choice among labels."""

    def __init__(
        self, arms: Sequence[str], model: Any, tokenizer: Any, settings: ReadingSettings
    ) -> None:
        self.arms = tuple(arms)
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        labels = labels_of(tokenizer, len(self.arms) + 1)
        self.label_A = list(labels.values())
        named = zip(labels, [*self.arms, STOPS], strict=True)
        options = ", ".join(f"{label}: {name}" for label, name in named)
        self.before = beginning(tokenizer)
        (self.after,) = token_ids(tokenizer, [QUESTION.format(options=options)])
        self.room = settings.max_tokens - len(self.after)
        if self.room <= len(self.before):
            raise ConfigError(
                f"max_tokens is {settings.max_tokens}, and the list of the arms takes "
                f"{len(self.after)}.",
                "Raise max_tokens.",
            )

    @classmethod
    def for_training(
        cls, train: Tree, path: str, settings: ReadingSettings, *, seed: int, init: Policy | None
    ) -> Self:
        """A copy of `init`, to be trained further, or a checkpoint where there is none.

        Raises:
            ConfigError: there is no checkpoint, or its tokenizer has too few labels.
            RunError: `init` is of another kind, or was made for other arms.
        """
        if init is None:
            model, tokenizer = load_checkpoint(path, "AutoModelForCausalLM", "train.settings.path")
            return cls(train.arms, _with_lora(model, settings, seed), tokenizer, settings)
        if not isinstance(init, cls):
            raise RunError(
                f"training cannot start from a {type(init).__name__}: it is no {cls.__name__}.",
                "Start from a run of the same algorithm.",
            )
        if init.arms != train.arms:
            raise RunError(
                f"the policy to start from routes among {', '.join(init.arms)}, "
                f"the training tree among {', '.join(train.arms)}.",
                "Start from a run on the same pool.",
            )
        return copy.deepcopy(init)

    def prompts(self, states: States) -> list[list[int]]:
        """Tokens of the prompt of each state.

        Raises:
            RunError: the states have no text.
        """
        if not isinstance(states, ReadableStates):
            raise RunError(
                "the states have no text, and a language model has nothing else to read.",
                "Load the tree from a database.",
            )
        texts = token_ids(self.tokenizer, ["\n".join(parts) for parts in states.read()])
        return [with_end(self.before, ids, self.room) + self.after for ids in texts]

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores of the actions after prompts, float32 [B, A]."""
        hidden_BTD, mask_BT = last_hidden(self.model.base_model, rows)
        last_B = mask_BT.sum(dim=1) - 1
        hidden_BD = hidden_BTD[torch.arange(len(rows), device=last_B.device), last_B]
        logits_BA: Tensor = self.model.get_output_embeddings()(hidden_BD)[:, self.label_A]
        return logits_BA

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """π(a | s), float64 [n, A], on the device of the states."""
        rows, valid_NA = self.prompts(states), states.valid_NA
        logits_NA = torch.zeros(valid_NA.shape, dtype=torch.float64, device=valid_NA.device)
        for batch in by_length(rows, BATCH):
            logits_NA[batch] = self.logits([rows[row] for row in batch]).to(logits_NA)
        return logits_NA.masked_fill(~valid_NA, -torch.inf).softmax(dim=1)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The model's weights, those that LoRA holds fast among them."""
        return iter(self.model.parameters())

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, in place."""
        self.model.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name; those that have two names stand here once."""
        return dict(self.model.named_parameters())

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave.

        Raises:
            KeyError: other weights.
            RuntimeError: weights of other shapes.
        """
        own = self.state_dict()
        if own.keys() != state_dict.keys():
            raise KeyError(f"other weights: {sorted(own.keys() ^ state_dict.keys())[0]}")
        for name, weight in own.items():
            weight.copy_(state_dict[name])

    def save(self, folder: Path) -> None:
        """Write weights, settings, and all else that the checkpoint's folder had to say."""
        settings = {
            "arms": self.arms,
            "reading": {
                name: getattr(self.settings, name) for name in ReadingSettings.model_fields
            },
            "files": _files_of(self.model.config, self.tokenizer),
        }
        write_policy(folder, "language", settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote, on a GPU where one is visible."""
        reading = ReadingSettings(**settings["reading"])
        model, tokenizer = _from_files(settings["files"])
        policy = cls(settings["arms"], _with_lora(model, reading, 0), tokenizer, reading)
        policy.load_state_dict(tensors)
        return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def labels_of(tokenizer: Any, count: int) -> dict[str, int]:
    """Letters, or digits, that are one token each behind the cue, with these tokens.

    Raises:
        ConfigError: this tokenizer has not so many.
    """
    for symbols in (ascii_uppercase, digits):
        for gap in (" ", ""):
            texts = [CUE, *(f"{CUE}{gap}{symbol}" for symbol in symbols)]
            cue, *longer = token_ids(tokenizer, texts)
            found = {
                ids[-1]: symbol
                for ids, symbol in zip(longer, symbols, strict=True)
                if ids[:-1] == cue and ids[-1] != tokenizer.unk_token_id
            }
            if len(found) >= count:
                return {symbol: token for token, symbol in list(found.items())[:count]}
    raise ConfigError(
        f"the tokenizer has no {count} letters or digits of one token to choose among.",
        "Take another checkpoint, or fewer arms.",
    )


def _with_lora(model: Any, settings: ReadingSettings, seed: int) -> Any:
    """The model with LoRA in its linear layers, and all else held fast; as it is at rank 0."""
    if not settings.lora_rank:
        return model
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"lora_rank: peft cannot be imported ({error}).",
            "Install it with: pip install 'hcache[language]'",
        ) from error
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return inject_adapter_in_model(config, model).eval()


def _files_of(config: Any, tokenizer: Any) -> dict[str, str]:
    """Configuration and tokenizer as the files of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = sorted(file for file in Path(folder).iterdir() if file.is_file())
        return {file.name: file.read_text(encoding="utf-8") for file in files}


def _from_files(files: Mapping[str, str]) -> tuple[Any, Any]:
    """A model of chance weights, in float32, and the tokenizer."""
    transformers = import_transformers()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        config = transformers.AutoConfig.from_pretrained(folder, **SAFE)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **SAFE)
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, **SAFE)
    return model.eval(), tokenizer
