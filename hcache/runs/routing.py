"""Routing a question live, for people to read: what was decided, said and paid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcache.config.schema import LowRankConfig, Server
from hcache.data.queries import Query
from hcache.engines import EngineFactory, Engines
from hcache.errors import ConfigError, DataError, RunError
from hcache.experiment import Experiment
from hcache.keys import well_formed
from hcache.live import Episode, Live
from hcache.plugins import lookup
from hcache.policies import ChangesReplies, Policy
from hcache.replay.features import make_encoder
from hcache.runs.folder import Run, find_run
from hcache.sampling.placing import in_process
from hcache.workflows import Ask


@dataclass
class Step:
    """One model call of a routed query."""

    arm: str
    messages: list[dict[str, str]]
    reply: str
    prompt_tokens: int
    output_tokens: int
    cost: float
    role: str  # "" where the workflow has no roles


@dataclass
class Route:
    """A query routed live: what was decided, what was said, what it cost."""

    answer: str
    sequence: str
    cost: float
    steps: list[Step]
    choices: list[dict[str, float]]  # probability of each action
    notes: list[str]  # what went amiss on the way


class Router:
    """A trained policy with all that playing takes, ready to be asked."""

    def __init__(self, live: Live, policy: Policy) -> None:
        self.live, self.policy = live, policy

    def route(
        self, question: str, passages: Sequence[str] = (), dataset: str | None = None
    ) -> Route:
        """Route one question, greedily; `passages` are what a tool may search.

        It is asked as those of `dataset` are, which need not be given where all are asked alike.

        Raises:
            DataError: the question is empty, or not UTF-8.
            ConfigError: no such data set, or none is given and they differ.
            EngineError: a model failed.
        """
        if well_formed(question) != question:
            raise DataError("the question is not UTF-8.", "Type it in UTF-8.")
        if not question.strip():
            raise DataError("the question is empty.", "Type one, in quotes.")
        query = Query(question, (), passages=tuple(passages), **self._asked(dataset))
        (episode,) = self.live.play(self.policy, [query])
        names = [option.name for option in self.live.options]
        return Route(
            episode.answer,
            episode.sequence,
            self.live.cost(episode, episode.asks),
            [self._step(episode, ask) for ask in episode.asks],
            [dict(zip(names, probs_A.tolist(), strict=True)) for probs_A in episode.probs],
            list(episode.notes),
        )

    def _asked(self, dataset: str | None) -> dict[str, Any]:
        data = self.live.config.data
        if dataset is not None:
            return lookup(data, dataset, "data set").asked
        first, *others = (one.asked for one in data.values())
        if any(other != first for other in others):
            raise ConfigError(
                "The data sets of this run have instructions of their own.",
                f"Say whose this question is like: --data {'|'.join(data)}.",
            )
        return first

    def _step(self, episode: Episode, ask: Ask) -> Step:
        generation = episode.replies[episode.request(ask).key]
        return Step(
            ask.arm.name,
            [message._asdict() for message in ask.messages],
            generation.text,
            generation.prompt_tokens,
            generation.output_tokens,
            self.live.call_cost(episode, ask),
            ask.role,
        )


def with_changes(
    experiment: Experiment,
    run: Run,
    db: Path | None = None,
    engine: Server = "transformers",
) -> Experiment:
    """The experiment with the ΔW of a run's policy on its models; `db` is the run's own otherwise.

    Raises:
        RunError: the run is not finished, or its policy makes no ΔW.
    """
    if not isinstance(run.policy, ChangesReplies):
        raise RunError(
            f"{run.name} makes no ΔW: what it routes to is said as it was.", "Name a joint run."
        )
    low_rank = LowRankConfig(
        policy=str(run.policy_folder.resolve()), features=run.config.features, engine=engine
    )
    models = {
        name: model.model_copy(update={"low_rank": low_rank}) if model.engine == "vllm" else model
        for name, model in experiment.config.models.items()
    }
    config = experiment.config.model_copy(update={"models": models})
    return Experiment(config, experiment.source, db or run.replies)


@contextmanager
def live_router(
    name: str | Path,
    experiment: Path | None = None,
    factory: EngineFactory | None = None,
) -> Iterator[Router]:
    """The router of a run with engines behind it; models are loaded when first asked.

    Raises:
        RunError: no such run.
        ConfigError: the models are not where the experiment says.
    """
    run = find_run(name)
    policy = run.policy
    loaded = Experiment(run.config, experiment or Path(run.manifest["source"]))
    if isinstance(policy, ChangesReplies):
        loaded = with_changes(loaded, run)
    engines = Engines(factory or in_process(loaded))
    encoder = make_encoder(run.config.features)
    try:
        yield Router(Live(loaded.config, loaded.workflow, loaded.pool, encoder, engines), policy)
    finally:
        engines.close()
