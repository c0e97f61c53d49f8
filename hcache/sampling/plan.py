"""The plan: what a sampling run would have to do, before it is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import polars as pl

from hcache.config.sampling import SamplingConfig
from hcache.data.metrics import RECORDED
from hcache.data.queries import Query
from hcache.engines import Request, check_request, engine_of
from hcache.engines.recorded import NAME as RECORDED_ENGINE
from hcache.errors import ArmError, ConfigError
from hcache.experiment import Experiment
from hcache.keys import digest_text
from hcache.sampling.enumerator import Reply, StandIn, enumerator_of
from hcache.sampling.pruning import Pruning
from hcache.store import Store, exists
from hcache.store.queries import COMPLETE, GENERATIONS_BY_HOP, PATHS, RATE, REPLIES_BY_KEY
from hcache.workflows import Workflow

MOST_TRAJECTORIES = 100_000
"""Trajectories of one question, over all replicas, that are enumerated; see docs/experiment.md."""


@dataclass
class Line:
    """One arm at one hop."""

    arm: str
    hop: int
    generations: int = 0
    cached: int = 0
    prompt_tokens: int = 0  # of what is not cached, estimated where a reply is not known
    output_tokens: int = 0  # likewise, at most
    seconds: float | None = None  # None where nothing was measured for this arm


@dataclass
class Plan:
    """All lines, and some of the prompts that would be sent."""

    lines: list[Line]
    prompts: list[Request] = field(default_factory=list)
    errors: list[ArmError] = field(default_factory=list)  # of arms whose prompts are refused

    @property
    def missing(self) -> int:
        """Generations still to be made, at most."""
        return sum(line.generations - line.cached for line in self.lines)

    @property
    def seconds(self) -> float | None:
        """Estimated time, or None where an arm was never measured."""
        parts = [line.seconds for line in self.lines if line.generations > line.cached]
        if any(part is None for part in parts):
            return None
        return sum(part for part in parts if part is not None)


def tree_size(experiment: Experiment, query: Query) -> Counter[tuple[str, int]]:
    """Generations of one query's tree by (arm, hop), if no two replies are equal; at most, where a
    bound decides on replies."""
    count: Counter[tuple[str, int]] = Counter()
    for request, hop in _walk(experiment, query, lambda request: None):
        count[request.arm.name, hop] += 1
    return count


def check(experiment: Experiment) -> None:
    """Refuse what cannot be sampled, before anything is asked.

    Raises:
        ConfigError: trees are too large, or replies cannot be scored.
    """
    check_size(experiment)
    _check_scores(experiment)


def check_size(experiment: Experiment) -> None:
    """Refuse trees too large to be enumerated, by a count in closed form.

    Raises:
        ConfigError: with the count, and how many hops could be had.
    """
    arms, sampling = len(experiment.config.arms), experiment.config.sampling
    replicas, workflow = sampling.replicas, experiment.workflow
    counts = {  # by horizon, from the one asked for down
        hops: replicas * trajectories(workflow.model_copy(update={"hops": hops}), arms, sampling)
        for hops in range(workflow.hops, 0, -1)
    }
    count = counts[workflow.hops]
    if count <= MOST_TRAJECTORIES:
        return
    fits = next((hops for hops in counts if counts[hops] <= MOST_TRAJECTORIES), None)
    fewer = "" if fits is None else f"At `workflow.hops` {fits} there are {counts[fits]:,}."
    width = "" if sampling.width is None else f" of width {sampling.width}"
    raise ConfigError(
        f"{experiment.source}: {arms:,} arms, {workflow.hops} hops{width} and {replicas:,} "
        f"replicas are {count:,} trajectories of each question, more than {MOST_TRAJECTORIES:,}.",
        "Take fewer `arms`, `workflow.hops` or `sampling.replicas`, or a part of each tree alone "
        f"with a small `sampling.width`. {fewer}".strip(),
    )


def _check_scores(experiment: Experiment) -> None:
    """Refuse to ask an arm whose replies cannot be scored.

    Raises:
        ConfigError: the metric is the one that outcomes of others come with.
    """
    own = [arm.name for arm in experiment.pool if engine_of(arm.model_config) != RECORDED_ENGINE]
    stated = [name for name, data in experiment.config.data.items() if RECORDED in data.metrics]
    if own and stated:
        raise ConfigError(
            f"{experiment.source}: data.{stated[0]}.metrics: {RECORDED!r} scores no reply of "
            f"{own[0]}, whose outcomes nobody has recorded.",
            "Leave the arm out, or choose another metric, which takes replies and references.",
        )


def trajectories(workflow: Workflow, arms: int, sampling: SamplingConfig) -> int:
    """Trajectories of a query in one replica; at most, with a bound or an irregular workflow."""
    whole = workflow.trajectories(arms)
    if sampling.width is None:
        return whole
    return min(whole, workflow.trajectories_within(arms, sampling.width))


def make_plan(experiment: Experiment, show: int = 0) -> Plan:
    """Count what is complete, enumerate the rest with stand-ins for replies that are not stored.

    Raises:
        ConfigError: see `check`.
    """
    check(experiment)
    counted, queries = _counted(experiment)
    stored = stored_replies(experiment) if queries else {}
    rates = _rates(experiment)
    lengths = {arm.name: _Tokens(arm.path) for arm in experiment.pool}  # a tool reads no tokens
    lines = {place: Line(*place, count, count) for place, count in counted.items()}
    first: dict[tuple[str, int], Request] = {}  # that is not cached
    for query in queries:
        for request, hop in _walk(experiment, query, lambda r: stored.get(r.key)):
            arm = request.arm
            line = lines.setdefault((arm.name, hop), Line(arm.name, hop))
            line.generations += 1
            if request.key in stored:
                line.cached += 1
                continue
            first.setdefault((arm.name, hop), request)
            if arm.name in lengths:
                line.prompt_tokens += lengths[arm.name].count(request)
                line.output_tokens += arm.config.max_tokens
    for line in lines.values():
        rate = rates.get(line.arm)
        line.seconds = None if rate is None else rate * (line.generations - line.cached)
    order = {arm.name: index for index, arm in enumerate(experiment.all_arms)}
    ordered = sorted(lines.values(), key=lambda line: (line.hop, order[line.arm]))
    return Plan(ordered, example_prompts(experiment, show), _refusals(first.values()))


def example_prompts(experiment: Experiment, count: int) -> list[Request]:
    """First prompts of some queries, of each data set in turn, of each arm in turn."""
    by_dataset: dict[str, list[Query]] = {}
    for query in experiment.queries():
        by_dataset.setdefault(query.dataset, []).append(query)
    in_turn = [query for row in zip_longest(*by_dataset.values()) for query in row if query]
    enumerator, prompts = enumerator_of(experiment), []
    for number, query in enumerate(in_turn[:count]):
        asked = enumerator.start(query, 1)
        prompts += asked[number % len(asked) :][:1] if asked else []
    return prompts


def _refusals(requests: Iterable[Request]) -> list[ArmError]:
    """The first error of each arm whose engine will not take one of these requests."""
    errors: dict[str, ArmError] = {}
    for request in requests:
        try:
            check_request(request)
        except ArmError as error:
            errors.setdefault(request.arm.name, error)
    return list(errors.values())


def _walk(
    experiment: Experiment, query: Query, known: Callable[[Request], Reply | None]
) -> list[tuple[Request, int]]:
    """Every request of a query's tree with its hop; unknown replies get a stand-in of their own."""
    enumerator = enumerator_of(experiment)
    found: list[tuple[Request, int]] = []
    todo = enumerator.start(query, experiment.config.sampling.replicas)
    while todo:
        request = todo.pop(0)
        hop = min(branch.hop for branch in enumerator.waiting[request.key])
        found.append((request, hop))
        stand_in = experiment.workflow.stand_in(digest_text(request.key)[:8])
        todo += enumerator.supply(request.key, known(request) or StandIn(stand_in, 0, 0))
    return found


def complete_queries(
    store: Store, experiment: Experiment, queries: Iterable[Query]
) -> pl.DataFrame:
    """Ids of queries whose every trajectory is stored; a count tells, without enumeration.

    None with a bound, which only enumeration decides.
    """
    sampling, workflow, pool = experiment.config.sampling, experiment.workflow, experiment.pool
    if not workflow.regular or sampling.bound:
        return pl.DataFrame(schema={"query_id": pl.String})
    size = trajectories(workflow, len(pool), sampling) * sampling.replicas
    chosen = pl.DataFrame({"query_id": [query.id for query in queries]})
    scope = stored_scope(experiment)
    if sampling.width is None or sampling.width >= len(pool):
        return store.sql(COMPLETE, [*scope, size], chosen=chosen)
    paths = store.sql(PATHS, scope, chosen=chosen)
    drawn_n = Pruning.of(experiment.config, pool).drawn_paths(paths, [arm.id for arm in pool])
    counts = paths.filter(pl.Series(drawn_n)).group_by("query_id").len()
    return counts.filter(pl.col("len") == size).select("query_id").sort("query_id")


def stored_scope(experiment: Experiment) -> list[object]:
    """Parameters of the questions about an experiment's stored trees."""
    workflow, replicas = experiment.workflow, experiment.config.sampling.replicas
    return [workflow.fingerprint, replicas, workflow.hops, [arm.id for arm in experiment.pool]]


def _counted(experiment: Experiment) -> tuple[Counter[tuple[str, int]], list[Query]]:
    """Generations of complete queries by (arm, hop), and the queries that are to be enumerated."""
    queries = experiment.queries()
    counts: Counter[tuple[str, int]] = Counter()
    if not exists(experiment.db):
        return counts, queries
    with Store(experiment.db) as store:
        complete = complete_queries(store, experiment, queries)
        found = store.sql(GENERATIONS_BY_HOP, stored_scope(experiment), chosen=complete)
    names = {arm.id: arm.name for arm in experiment.all_arms}
    torn = set()
    for query_id, arm, hop, count in found.iter_rows():
        if arm is None:
            torn.add(query_id)
        else:
            counts[names[arm], hop] += count
    known = set(complete.to_series()) - torn
    return counts, [query for query in queries if query.id not in known]


def stored_replies(experiment: Experiment) -> dict[str, Reply]:
    """The replies that the database holds, by the key of their generation."""
    if not exists(experiment.db):
        return {}
    fingerprints = {arm.fingerprint for arm in experiment.all_arms}
    with Store(experiment.db) as store:
        chosen = pl.DataFrame({"fingerprint": sorted(fingerprints)})
        frame = store.sql(REPLIES_BY_KEY, chosen=chosen)
    return {key: Reply(*rest) for key, *rest in frame.iter_rows()}


def _rates(experiment: Experiment) -> dict[str, float]:
    """Seconds per generation of each arm, as its last thousand took on the wall clock."""
    if not exists(experiment.db):
        return {}
    rates = {}
    with Store(experiment.db) as store:
        for arm in experiment.all_arms:
            frame = store.sql(RATE, [arm.fingerprint])
            if (rate := frame.item()) is not None:
                rates[arm.name] = float(rate)
    return rates


class _Tokens:
    """Counts the tokens of prompts with a model's own tokenizer; words where it has none."""

    def __init__(self, model: Path) -> None:
        file = model / "tokenizer.json"
        self.tokenizer: Any = None
        if file.is_file():
            try:
                from tokenizers import Tokenizer

                self.tokenizer = Tokenizer.from_file(str(file))
            except Exception:  # it is missing, or whatever it raises for what it cannot read
                return

    def count(self, request: Request) -> int:
        text = "\n".join(message.content for message in request.messages)
        if self.tokenizer is None:
            return len(text.split())
        return len(self.tokenizer.encode(text).ids)
