"""The experiment file: one YAML, validated here, with errors that name the place and the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from hcache.errors import ConfigError, did_you_mean
from hcache.queries import SPLITS


class Section(BaseModel):
    """A section of the file: unknown keys are refused, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Section):
    """Settings of an algorithm, beside which they stand; nothing is converted on the way."""

    model_config = ConfigDict(strict=True)


class FeaturesConfig(Section):
    """How the text of a state becomes numbers."""

    encoder: Literal["hashing", "sentence-transformers", "causal-lm"] = Field(
        "hashing", description="hashing needs no model; causal-lm: mean of the last hidden states"
    )
    dim: int = Field(256, ge=8, description="of the hashing encoder")
    path: str | None = Field(None, description="folder of the model of the other encoders")
    seed: int = Field(0, description="of the hashing encoder's projection")
    max_tokens: int = Field(512, ge=1, description="that causal-lm reads, at the end of a text")

    @model_validator(mode="after")
    def _path_given(self) -> FeaturesConfig:
        if self.encoder != "hashing" and self.path is None:
            raise ValueError(f"{self.encoder} needs `path`, the folder of a model")
        return self


Server = Literal["transformers", "vllm"]


class LowRankConfig(Section):
    """Whose ΔW is added to the weights, a different one for each question."""

    policy: str = Field(description="folder of the policy of a joint run")
    features: FeaturesConfig = Field(FeaturesConfig(), description="what it was trained on")
    engine: Server = Field(
        "transformers", description="what runs the model; provenance, not identity"
    )


class ModelConfig(Section):
    """A checkpoint and how it is loaded."""

    path: str = Field(description="folder of a checkpoint, or org/name in the hub's local cache")
    engine: Literal["vllm", "scripted", "search"] = Field(
        "vllm", description="what runs it; search is for the tool of a workflow alone"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="explicit, so that identity does not follow the machine"
    )
    quantization: str | None = Field(None, description="as the engine calls it")
    adapter: str | None = Field(None, description="folder of a LoRA adapter")
    low_rank: LowRankConfig | None = Field(
        None, description="ΔW made for each question; `hcache sample --policy` fills it in"
    )
    max_model_len: int = Field(2048, ge=8, description="window in tokens, prompt and reply")
    chat_template: str | None = Field(None, description="file, in place of the tokenizer's own")
    chat_template_args: dict[str, JsonValue] = Field({}, description="given to the template")
    engine_args: dict[str, JsonValue] = Field(
        {}, description="further arguments of the engine; provenance, not identity"
    )

    @model_validator(mode="after")
    def _has_weights_to_change(self) -> ModelConfig:
        if self.low_rank is not None and self.engine != "vllm":
            raise ValueError(f"low_rank: a model with engine {self.engine} has no weights")
        return self


class Price(Section):
    """Cost of 1,000 tokens read and of 1,000 tokens written."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class ArmConfig(Section):
    """A model with its generation settings: one choice of the router."""

    model: str = Field(description="name of an entry of `models`")
    price: Price = Field(Price(input=1, output=1), description="one number, or input and output")
    max_tokens: int = Field(64, ge=1, description="most tokens of a reply")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus, at a temperature above 0")
    seed: int = Field(0, description="of sampling; each request has its own, derived from it")
    stop: tuple[str, ...] = Field((), description="texts that end a reply")
    system: str = Field("", description="system message of every prompt of this arm")
    instruction: str = Field("", description="stands last in every prompt of this arm")

    @field_validator("price", mode="before")
    @classmethod
    def _one_number(cls, value: object) -> object:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"input": value, "output": value}
        return value


class SourceConfig(Section):
    """A file of questions, or a folder of such files."""

    path: str = Field(
        description="the file, or the folder; or `hf:org/name/config:split`, a split of a data set "
        "of the Hugging Face hub (`/config` where it has several), fetched once by `datasets`"
    )
    limit: int | None = Field(None, ge=1, description="the first rows of each file only")


class DatasetConfig(Section):
    """A data set: where its rows are, how they are read, how answers are judged."""

    reader: str = Field("jsonl", description="how the files are read")
    options: dict[str, JsonValue] = Field({}, description="of the reader")
    extract: str = Field("text", description="how an answer is taken out of a reply")
    metrics: tuple[str, ...] = Field(("f1", "em"), description="what answers are judged by")
    quality: str | None = Field(None, description="the metric that is Q here, if another")
    sources: dict[str, SourceConfig] = Field(
        description="by split; 'valid/test' deals one file into equal parts by query hash"
    )

    @field_validator("sources")
    @classmethod
    def _known_splits(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        names = [split for key in sources for split in key.split("/")]
        for name in names:
            if name not in SPLITS:
                raise ValueError(f"unknown split {name!r}; the splits are {', '.join(SPLITS)}")
        if len(set(names)) < len(names):
            raise ValueError("a split has two sources; give each split one")
        return sources


class SamplingConfig(Section):
    """How the tree is filled."""

    replicas: int = Field(1, ge=1, description="samples per prompt of arms with temperature > 0")
    schedule: Literal["resident", "swap"] = Field(
        "resident", description="all engines at once, or one at a time"
    )
    logprobs: bool = Field(False, description="keep the log-probability of each output token")
    seed: int = Field(0, description="order in which queries are taken")


class AlgorithmConfig(Section):
    """An algorithm that an experiment trains beside its own; what is not given is as in `train`."""

    iterations: int | None = Field(None, ge=1, description="steps of the trainer, at most")
    evaluate_every: int | None = Field(None, ge=1, description="between looks at validation")
    patience: int | None = Field(None, ge=1, description="looks without improvement at the end")
    settings: dict[str, Any] = Field({}, description="of the algorithm; its defaults otherwise")


class TrainConfig(Section):
    """What is trained, on which reward."""

    algo: str = Field("ppo", description="the trainer")
    alpha: float = Field(0.1, ge=0, description="weight of cost in R = Q - alpha * C")
    stop: bool = Field(True, description="whether the router may stop from the second hop on")
    seed: int = Field(0, description="of weights and of all that is drawn in training")
    iterations: int = Field(400, ge=1, description="steps of the trainer, at most")
    evaluate_every: int = Field(10, ge=1, description="iterations between looks at validation")
    patience: int = Field(20, ge=1, description="looks without improvement before it ends")
    settings: dict[str, Any] = Field({}, description="of the algorithm; its defaults otherwise")
    also: dict[str, AlgorithmConfig] = Field(
        {}, description="other algorithms by name, for `--algo`, `bench` and chains"
    )

    def of(self, algo: str) -> TrainConfig:
        """The same for an algorithm, or a chain of them, the last of which is the one meant."""
        last = algo.split("+")[-1]
        if last == self.algo:
            return self.model_copy(update={"algo": algo})
        own = self.also.get(last, AlgorithmConfig())
        given = {name: value for name, value in own if value is not None}
        return self.model_copy(update={"algo": algo, **given})


class EvaluateConfig(Section):
    """How a figure is reported."""

    resamples: int = Field(10_000, ge=100, description="of the bootstrap over queries")
    seed: int = Field(0, description="of the bootstrap")


class ExperimentConfig(Section):
    """One experiment, as its file says."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$", description="in the database; the file's own name otherwise"
    )
    db: str = Field(description="the DuckDB file, relative to the working directory")
    runs: str = Field("runs", description="where run folders go, relative to it as well")
    workflow: dict[str, Any] = Field({"name": "relay"}, description="which, and its settings")
    models: dict[str, ModelConfig] = Field(min_length=1, description="checkpoints by name")
    arms: dict[str, ArmConfig] = Field(min_length=1, description="the router's choices by name")
    data: dict[str, DatasetConfig] = Field(min_length=1, description="data sets by name")
    quality: str = Field("f1", description="the metric that is Q in the reward")
    sampling: SamplingConfig = SamplingConfig()
    features: FeaturesConfig = FeaturesConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        for name in arms:
            if ">" in name or name == "STOP" or not name.strip():
                raise ValueError(f"an arm cannot be called {name!r}; use letters, digits, _ and -")
        return arms

    @model_validator(mode="after")
    def _names_resolve(self) -> ExperimentConfig:
        for name, arm in self.arms.items():
            if arm.model not in self.models:
                raise ValueError(
                    f"arms.{name}.model: there is no model {arm.model!r}"
                    + did_you_mean(arm.model, self.models)
                )
        for name, data in self.data.items():
            if self.quality_of(name) not in data.metrics:
                raise ValueError(
                    f"data.{name}.metrics: lacks {self.quality_of(name)!r}, "
                    "which `quality` asks for"
                )
        return self

    def quality_of(self, dataset: str) -> str:
        """The metric that is Q for the queries of a data set."""
        return self.data[dataset].quality or self.quality


S = TypeVar("S", bound=Settings)


def parse_settings(settings: type[S], values: Mapping[str, Any], place: str) -> S:
    """Settings from names and values; `place` is where they stand, for errors.

    Raises:
        ConfigError: naming what is unknown or out of its limits, and what would be right.
    """
    try:
        return settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(describe(error, settings, place)) from error


class UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which takes the last of equal keys silently; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands twice in one section; remove one",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_config(
    path: Path, overrides: Sequence[str] = (), algo: str | None = None
) -> ExperimentConfig:
    """Read and validate an experiment file, with `a.b.c=value` overrides applied.

    `algo` takes the place of `train.algo`, with its own settings in place of those of that. A file
    may say `base: OTHER.yaml`, a file beside it whose settings hold where it says nothing.

    Raises:
        ConfigError: naming the file, the place in it, what is wrong and what would be right.
    """
    raw = _read_mapping(path)
    if algo is not None:
        raw["train"] = _train_of(raw, algo, path)
    for override in overrides:
        _set(raw, override)
    raw.setdefault("name", path.stem)
    return parse_config(raw, str(path))


def _train_of(raw: dict[str, Any], algo: str, path: Path) -> dict[str, Any]:
    """The section `train` for an algorithm."""
    try:
        train = TrainConfig.model_validate(raw.get("train", {}))
    except ValidationError as error:
        raise ConfigError(describe(error, TrainConfig, f"{path}: train")) from error
    return train.of(algo).model_dump(mode="json")


def _read_mapping(path: Path) -> dict[str, Any]:
    """The settings of a file, over those of its base."""
    raw = _read_yaml(path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or Path(base).name != base:
        raise ConfigError(f"{path}: base: {base!r} is no file beside it.", "Like: experiment.yaml")
    below = _read_yaml(path.parent / base)
    if "base" in below:
        raise ConfigError(f"{path}: base: {base} has a base itself.", "One level is all there is.")
    return _merged(below, raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two mappings, the second over the first, section by section."""
    sections = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | sections


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the experiment file ({error.strerror}).",
            "data/demo/experiment.yaml is one to start from.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 (byte {error.start}).", "Save it as UTF-8."
        ) from error
    try:
        raw = yaml.load(text, UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{place}: {problem}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: an experiment is a YAML mapping.", "See `name:` and `arms:`.")
    return raw


def parse_config(raw: dict[str, Any], source: str) -> ExperimentConfig:
    """Validate an experiment given as a mapping; `source` is what errors call it."""
    try:
        return ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe(error, ExperimentConfig, source)) from error


def _set(raw: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError(f"--set {override}: not of the form place=value.", "Like train.alpha=0.1")
    *parents, last = place.split(".")
    node = raw
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, nothing is below it.")
        node = below
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML.") from error


def describe(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """A validation error in one line: every place, with what is wrong and what is known."""
    return "; ".join(_describe_one(dict(item), model, source) for item in error.errors())


def _describe_one(item: dict[str, Any], model: type[BaseModel], source: str) -> str:
    place = ".".join(str(part) for part in item["loc"])
    where = f"{source}: {place}" if place else source
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"{where}: unknown setting{did_you_mean(str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return f"{where}: missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message} (it is {item['input']!r})"


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The settings known at a place of the configuration."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:  # dict[str, Section]: the part is a free name
            current = (get_args(current) or (None,))[-1]
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
