"""Arms: a model with its generation settings, and the fingerprint of what it would say.

The fingerprint covers all that can change an output: digests of weights, tokenizer, chat
template and generation config, dtype, quantisation, adapter, lengths, stops, and sampling where
there is any. Name, price and instruction are not in it: the first two say nothing to the model,
the third stands in the messages. Engine, version and device are provenance, not identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hcache.config.schema import ArmConfig, LowRankConfig, ModelConfig
from hcache.errors import ConfigError, EngineError
from hcache.keys import digest, digest_file
from hcache.models.files import WEIGHTS, digests_of, encoder_digest, locate


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
        """Identity of the arm as a choice: what it generates, is told, is called."""
        return digest([self.fingerprint, self.instruction, self.system, self.name])[:12]

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
        """Whether all samples of a prompt are the same one."""
        return self.config.temperature == 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arm) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def by_question(self) -> bool:
        """Whether its weights are changed for each question, so that what it says depends on it."""
        return self.model_config.low_rank is not None

    @cached_property
    def engine_key(self) -> str:
        """Arms of equal engine key are served by one engine."""
        return digest(self.model_config.model_dump(mode="json"))


Pool = tuple[Arm, ...]


def build_pool(
    models: Mapping[str, ModelConfig], arms: Mapping[str, ArmConfig], folder: Path
) -> Pool:
    """The arms of an experiment, in its order, with fingerprints. Reads files, loads nothing.

    Raises:
        ConfigError: a model path that does not exist.
        EngineError: a folder that holds no checkpoint.
    """
    located = {name: _located(name, model, folder) for name, model in models.items()}
    contents = {name: _content(f"models.{name}.path", model) for name, model in located.items()}
    pool = []
    for name, arm in arms.items():
        model = located[arm.model]
        fingerprint = digest({**contents[arm.model], **_settings(name, model, arm)})
        pool.append(Arm(name, arm.model, Path(model.path), fingerprint, model, arm))
    return tuple(pool)


def _located(name: str, model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with every path of it found."""
    paths = {
        field: str(locate(value, folder, f"models.{name}.{field}"))
        for field in ("path", "chat_template", "adapter")
        if (value := getattr(model, field)) is not None
    }
    return model.model_copy(update=paths)


def _settings(name: str, model: ModelConfig, arm: ArmConfig) -> dict[str, object]:
    settings: dict[str, object] = {
        "dtype": model.dtype,
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "chat_template_args": model.chat_template_args,
        "max_tokens": arm.max_tokens,
        "stop": list(arm.stop),
        "temperature": arm.temperature,
    }
    if model.low_rank is not None:
        if (arm.temperature, arm.top_p) != (1.0, 1.0):
            raise ConfigError(
                f"arms.{name}: temperature {arm.temperature:g}, top_p {arm.top_p:g}; with a ΔW, "
                "replies are drawn at 1 and 1.",
                f"Set arms.{name}.temperature=1 and arms.{name}.top_p=1.",
            )
        settings["low_rank_of"] = name  # each arm has a ΔW of its own
    if arm.temperature > 0:
        settings |= {"top_p": arm.top_p, "seed": arm.seed}
    return settings


def _content(place: str, model: ModelConfig) -> dict[str, object]:
    """Digests of all files of a model that can change an output."""
    path = Path(model.path)
    if model.engine == "search":
        raise ConfigError(
            f"{place.removesuffix('.path')}.engine: search is no model.",
            "It is a tool of some workflows, and set there: workflow.search.",
        )
    if model.engine == "scripted":
        if not path.is_file():
            raise EngineError(f"{place}: {path} is no script.", "Give a JSON file.")
        return {"script": digest_file(path)}
    content: dict[str, object] = dict(digests_of(path)) if path.is_dir() else {}
    has_weights = any(Path(file).suffix in WEIGHTS for file in content)
    for lacks, ok in (("config.json", "config.json" in content), ("weights", has_weights)):
        if not ok:
            raise EngineError(
                f"{place}: {path} is no checkpoint (it has no {lacks}).",
                "Give a folder as written by save_pretrained, with weights and tokenizer.",
            )
    if model.chat_template is not None:
        content["chat_template"] = digest_file(Path(model.chat_template))
    if model.adapter is not None:
        content["adapter"] = dict(digests_of(Path(model.adapter)))
    if model.low_rank is not None:
        content["low_rank"] = _low_rank_content(place.removesuffix(".path"), model.low_rank)
    return content


def _low_rank_content(place: str, low_rank: LowRankConfig) -> dict[str, object]:
    """What a ΔW depends on besides the question: the policy, and the encoder of its features."""
    file = Path(low_rank.policy) / "policy.json"  # it holds the digest of the tensors
    if not file.is_file():
        raise EngineError(
            f"{place}.low_rank.policy: {low_rank.policy} holds no policy.",
            "Give the folder `policy` of a finished run.",
        )
    features = low_rank.features
    settings = features.model_dump(mode="json", exclude={"path"})
    model = (
        None
        if features.path is None
        else encoder_digest(locate(features.path, Path(), f"{place}.low_rank.features.path"))
    )
    return {"policy": digest_file(file), "features": settings, "encoder": model}
