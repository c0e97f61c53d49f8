"""Arms: a model with its generation settings, and the fingerprint of what it would say.

The fingerprint covers all that can change an output: digests of weights, tokenizer, chat
template and generation config, dtype, quantisation, adapter, lengths, stops, arguments of the
engine unless they are known to change nothing, and sampling where there is any. Name, price and
instruction are not in it: the first two say nothing to the model, the third stands in the messages.
Engine, version and device are provenance, not identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hcache.config.schema import ArmConfig, ModelConfig
from hcache.data.thoughts import KNOWN_TAGS, drop_thought
from hcache.keys import digest


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm of the pool, ready to be asked. Arms of equal id are equal."""

    name: str
    model: str  # the model's name in the experiment
    path: Path  # its folder (or the script, for the scripted engine)
    fingerprint: str  # identity of its generations
    model_config: ModelConfig
    config: ArmConfig

    @cached_property
    def id(self) -> str:
        """Identity of the arm as a choice: what it generates, is told, is called.

        So are reasoning tags other than the known ones: what is taken for its answer.
        """
        tags = self.model_config.tags
        own = [] if tags == KNOWN_TAGS else [tags]
        return digest([self.fingerprint, self.instruction, self.system, self.name, *own])[:12]

    def answer(self, reply: str, thinking: bool = False) -> str:
        """A reply of this arm without its thought, which `thinking` says the prompt opened."""
        return drop_thought(reply, self.model_config.tags, thinking)

    @property
    def instruction(self) -> str:
        """Text that stands last in every prompt of this arm."""
        return self.config.instruction

    @property
    def system(self) -> str:
        """System message of every prompt of this arm."""
        return self.config.system

    @property
    def deterministic(self) -> bool:
        """True if all samples of a prompt are the same one."""
        return self.config.temperature == 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arm) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def by_question(self) -> bool:
        """True if its weights are changed for each question, so that what it says depends on it."""
        return self.model_config.low_rank is not None

    @cached_property
    def engine_key(self) -> str:
        """Arms of equal engine key are served by one engine."""
        return digest(self.model_config.model_dump(mode="json"))


Pool = tuple[Arm, ...]
