"""The experiment file: one YAML, validated here, with errors that name the place and the fix."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from hcache.config.prices import UNPRICED
from hcache.config.prices import Price as Price
from hcache.config.sampling import SamplingConfig
from hcache.config.section import Section as Section
from hcache.config.section import Seed
from hcache.config.section import Settings as Settings
from hcache.config.server import ServerConfig
from hcache.data.queries import SPLITS
from hcache.data.thoughts import KNOWN_TAGS, Tags
from hcache.plugins import did_you_mean, plain_name

Name = Annotated[str, AfterValidator(plain_name)]


class FeaturesConfig(Section):
    """The encoder, which makes numbers of the text of a state."""

    encoder: str = Field(
        "hashing",
        description="hashing (no model), sentence-transformers, or causal-lm (mean of the last "
        "hidden states)",
    )
    dim: int = Field(256, ge=8, le=1 << 16, description="of the hashing encoder")
    path: str | None = Field(None, description="folder of the model of the other encoders")
    seed: Seed = Field(0, description="of the hashing encoder's projection")
    max_tokens: int = Field(
        512, ge=1, le=1 << 24, description="that causal-lm reads, at the end of a text"
    )

    @model_validator(mode="after")
    def _path_given(self) -> FeaturesConfig:
        if self.encoder in ("sentence-transformers", "causal-lm") and self.path is None:
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
    """A checkpoint and how it is loaded, or a model that a server has."""

    path: str = Field(
        description="folder of a checkpoint, or org/name in the hub's local cache; with engine "
        "openai, the name that the server gives the model"
    )
    engine: str = Field(
        "vllm",
        description="runs it: vllm, openai (a server, see docs/servers.md), or scripted; search "
        "serves the tool of a workflow alone",
    )
    server: ServerConfig | None = Field(None, description="with engine openai: where, and how")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="explicit, so that identity does not follow the machine"
    )
    quantization: str | None = Field(None, description="as the engine calls it")
    adapter: str | None = Field(None, description="folder of a LoRA adapter")
    low_rank: LowRankConfig | None = Field(
        None, description="ΔW made for each question; `hcache sample --policy` fills it in"
    )
    max_model_len: int = Field(
        2048, ge=8, le=1 << 24, description="window in tokens, prompt and reply"
    )
    chat_template: str | None = Field(None, description="file, in place of the tokenizer's own")
    chat_template_args: dict[str, JsonValue] = Field({}, description="given to the template")
    reasoning_tags: Tags | None = Field(
        None,
        description="pairs of opening and closing tag of what it thinks, which is no part of its "
        "answers; the known ones where omitted, `[]` for none",
    )
    engine_args: dict[str, JsonValue] = Field(
        {},
        description="further arguments of the engine; of vLLM's, those of memory, parallelism, "
        "scheduling, kernels and logging are provenance, all others identity; with openai, further "
        "fields of each request",
    )

    @field_validator("reasoning_tags")
    @classmethod
    def _tags_differ(cls, tags: Tags | None) -> Tags | None:
        for opening, close in tags or ():
            if not opening.strip() or not close.strip() or opening.lower() == close.lower():
                raise ValueError("needs two different tags a pair, as in ['<think>', '</think>']")
        return tags

    @property
    def tags(self) -> Tags:
        """Pairs of tags that a thought of this model stands in."""
        return KNOWN_TAGS if self.reasoning_tags is None else self.reasoning_tags

    @property
    def at_server(self) -> ServerConfig:
        """The server's section, with its defaults where there is none."""
        return self.server or ServerConfig()

    @property
    def served_name(self) -> str:
        """The model that replies of its server name."""
        return self.at_server.served_as or self.path

    @property
    def remote(self) -> bool:
        """True if a server has the model: tokens are counted there, and its window is not known."""
        return self.engine == "openai"

    @model_validator(mode="after")
    def _has_a_server(self) -> ModelConfig:
        if self.server is not None and not self.remote:
            raise ValueError(f"server: a model with engine {self.engine} has none")
        return self

    @model_validator(mode="after")
    def _has_weights_to_change(self) -> ModelConfig:
        if self.low_rank is not None and self.engine != "vllm":
            raise ValueError(f"low_rank: a model with engine {self.engine} has no weights")
        return self


class ArmConfig(Section):
    """A model with its generation settings: one choice of the router."""

    model: str = Field(description="name of an entry of `models`")
    price: Price = Field(
        UNPRICED,
        description="USD for 1,000,000 tokens: one number, or input and output, with `per: 1000` "
        "for so many tokens; or the name of an entry of `prices`, or `{model: NAME, batch: true}` "
        "for its price in batches. Without any, each token costs 1/1,000",
    )
    max_tokens: int = Field(64, ge=1, le=1 << 24, description="most tokens of a reply")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus, at a temperature above 0")
    seed: Seed = Field(0, description="of sampling; each request has its own, derived from it")
    stop: tuple[str, ...] = Field((), description="texts that end a reply")
    system: str = Field("", description="system message of every prompt of this arm")
    instruction: str = Field("", description="stands last in every prompt of this arm")


class SourceConfig(Section):
    """A file of questions, or a folder of such files."""

    path: str = Field(
        description="the file, or the folder; or `hf:org/name/config:split`, a split of a data set "
        "of the Hugging Face hub (`/config` where it has several), fetched once by `datasets`"
    )
    limit: int | None = Field(None, ge=1, description="the first rows of each file only")


class DatasetConfig(Section):
    """A data set: where its rows are, how they are read, how answers are evaluated."""

    reader: str = Field("jsonl", description="how the files are read")
    options: dict[str, JsonValue] = Field({}, description="of the reader")
    instruction: str = Field(
        "",
        description="what every answer to these questions should be like; stands in each prompt "
        "after question and replies, before the arm's own instruction",
    )
    examples: str = Field(
        "", description="worked questions (few-shot); stand first in each prompt of these questions"
    )
    extract: str = Field("text", description="how an answer is taken out of a reply")
    metrics: tuple[str, ...] = Field(("f1", "em"), description="what answers are evaluated by")
    quality: str | None = Field(None, description="the metric that is Q here, if another")
    sources: dict[str, SourceConfig] = Field(
        description="by split; 'valid/test' deals one file into parts, each question by its hash, "
        "so that rows added later move none; parts are about equal"
    )
    on_duplicate: Literal["error", "drop"] = Field(
        "error",
        description="a question in two splits, or in one with two answers: drop keeps the first, "
        "in test before valid before train",
    )

    @property
    def asked(self) -> dict[str, Any]:
        """Fields of every query of this data set, as far as they are set."""
        own = {"instruction": self.instruction, "examples": self.examples}
        return {field: text for field, text in own.items() if text}

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


class AlgorithmConfig(Section):
    """A further algorithm of an experiment; what is not given is as in `train`."""

    iterations: int | None = Field(None, ge=1, description="steps of the trainer, at most")
    evaluate_every: int | None = Field(
        None, ge=1, description="iterations between evaluations on validation"
    )
    patience: int | None = Field(
        None, ge=1, description="evaluations without improvement before early stopping"
    )
    settings: dict[str, Any] = Field({}, description="of the algorithm; its defaults otherwise")


class TrainConfig(Section):
    """Settings of training: the algorithm and its reward."""

    algo: str = Field("ppo", description="the trainer")
    alpha: float = Field(0.1, ge=0, description="weight of cost in R = Q - alpha * C")
    stop: bool = Field(True, description="whether the router may stop from the second hop on")
    seed: Seed = Field(0, description="of weights and of all that is drawn in training")
    iterations: int = Field(400, ge=1, description="steps of the trainer, at most")
    evaluate_every: int = Field(
        10, ge=1, description="iterations between evaluations on validation"
    )
    patience: int = Field(
        20, ge=1, description="evaluations without improvement before early stopping"
    )
    settings: dict[str, Any] = Field({}, description="of the algorithm; its defaults otherwise")
    also: dict[str, AlgorithmConfig] = Field(
        {}, description="other algorithms by name, for `--algo`, `bench` and chains"
    )

    @property
    def trainer(self) -> str:
        """The algorithm, or the last of a chain of them, which is the one meant."""
        return self.algo.split("+")[-1]

    def of(self, algo: str) -> TrainConfig:
        """The same for an algorithm, or a chain of them, the last of which is the one meant."""
        last = algo.split("+")[-1]
        if last == self.algo:
            return self.model_copy(update={"algo": algo})
        own = self.also.get(last, AlgorithmConfig())
        given = {name: value for name, value in own if value is not None}
        return self.model_copy(update={"algo": algo, **given})


class EvaluateConfig(Section):
    """Statistics of the figures that are reported."""

    resamples: int = Field(
        10_000, ge=100, le=1_000_000, description="of the queries, for the interval of AIQ"
    )
    seed: Seed = Field(0, description="of these resamples")


class ExperimentConfig(Section):
    """One experiment, as its file says."""

    name: Name = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        description="in the database; the file's own name otherwise",
    )
    db: str = Field(description="the DuckDB file, relative to the working directory")
    runs: str = Field("runs", description="where run folders go, relative to it as well")
    plugins: tuple[str, ...] = Field(
        (), description="Python files with metrics, trainers and the like, see docs/extending.md"
    )
    workflow: dict[str, Any] = Field({"name": "relay"}, description="which, and its settings")
    prices: str | None = Field(
        None,
        description="a JSON file of prices as litellm has it, by the name of a model "
        "`input_cost_per_token`, `output_cost_per_token` and others, for `arms.NAME.price`",
    )
    models: dict[Name, ModelConfig] = Field(min_length=1, description="checkpoints by name")
    arms: dict[Name, ArmConfig] = Field(min_length=1, description="the router's choices by name")
    data: dict[Name, DatasetConfig] = Field(min_length=1, description="data sets by name")
    quality: str = Field("f1", description="the metric that is Q in the reward")
    cost: Literal["tokens", "recorded"] = Field(
        "tokens",
        description="what C in the reward is made of: tokens and prices, or, for what others have "
        "recorded, the costs that they state; an outcome without its cost is then a hole",
    )
    sampling: SamplingConfig = SamplingConfig()
    features: FeaturesConfig = FeaturesConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[Name, ArmConfig]) -> dict[str, ArmConfig]:
        for name in arms:
            if ">" in name or name == "STOP":
                raise ValueError(f"an arm cannot be called {name!r}; use letters, digits, _ and -")
        return arms

    @model_validator(mode="after")
    def _capped_arms_have_prices(self) -> ExperimentConfig:
        """A cap at prices that nobody gave would be none."""
        for name, arm in self.arms.items():
            model = self.models.get(arm.model)
            priced = "price" in arm.model_fields_set or model is None or not model.remote
            if self.sampling.max_cost is not None and not priced:
                raise ValueError(f"arms.{name}.price: missing, which sampling.max_cost needs")
        return self

    @model_validator(mode="after")
    def _bounded_trees_stop(self) -> ExperimentConfig:
        """Refuse a bound where nobody may stop: a shorter trajectory is then no outcome to beat."""
        if self.sampling.bound and not self.train.stop:
            raise ValueError("sampling.bound: needs train.stop, with which trajectories may end")
        return self

    @model_validator(mode="after")
    def _one_name_is_one_model(self) -> ExperimentConfig:
        """A served model is known by its name: under one, others would pass for the same."""
        first: dict[tuple[str, str | None], tuple[str, set[str]]] = {}
        for name, model in self.models.items():
            if model.server is None:
                continue
            endpoints = set(model.server.endpoints)
            key = model.path, model.server.served_as
            other, there = first.setdefault(key, (name, endpoints))
            if endpoints != there:
                raise ValueError(
                    f"models.{name}.path: {model.path!r} is also the name of {other}, at other "
                    "endpoints; have each served by a name of its own, or list all under one model"
                )
        return self

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

    def measure_of(self, dataset: str) -> str:
        """Description of Q: the metric, and the extractor of the answers that it scores.

        Configurations of one measure score alike, since scores are read only where they are by the
        present version of both.
        """
        return f"{self.quality_of(dataset)} of {self.data[dataset].extract}"
