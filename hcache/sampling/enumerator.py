"""The enumerator: every trajectory of a workflow, for each query and replica.

It answers every `Choose` with every arm (and STOP): the first goes on where the workflow stands,
and for each of the others the workflow is restarted and taken along the same decisions. Replies
that it does not have it hands out as requests; each reply that comes in takes the branches that
waited for it further. It runs no model and keeps no order: results do not depend on when replies
arrive. Where trees are pruned (`pruning.py`) some arms are left out; a bound is decided hop by hop,
once all trajectories of fewer hops are known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hcache.data.queries import Query
from hcache.engines.base import Generation, Request, request_for
from hcache.experiment import Experiment
from hcache.keys import digest, digest_text
from hcache.models.arms import Arm, Pool
from hcache.sampling.pruning import TIE, Pruning
from hcache.workflows import (
    STOP,
    Ask,
    Decision,
    Finished,
    Pending,
    Stop,
    Undecided,
    Walk,
    Workflow,
)
from hcache.workflows import Reply as Said

Row = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """Facts on a generation that the enumerator needs."""

    text: str
    prompt_tokens: int
    output_tokens: int
    thinking: bool = False

    @classmethod
    def of(cls, generation: Generation) -> Reply:
        """Facts on a generation that has just been made."""
        return cls(
            generation.text,
            generation.prompt_tokens,
            generation.output_tokens,
            generation.thinking,
        )


class StandIn(Reply):
    """A reply in place of one that is not known; nothing is decided by what it leads to."""


@dataclass(frozen=True)
class Branch:
    """A query of a replica with the decisions taken so far."""

    query: Query
    replica: int
    walk: Walk = field(compare=False)  # of its workflow
    decisions: tuple[Decision, ...] = ()

    @property
    def hop(self) -> int:
        """Hops taken, the one under way included; a request made before any is of hop 1."""
        return max(1, sum(decision is not STOP for decision in self.decisions))

    def then(self, decision: Decision, walk: Walk) -> Branch:
        """The branch one decision further on."""
        return Branch(self.query, self.replica, walk, (*self.decisions, decision))


class _Held(NamedTuple):
    """A state that waits for the trajectories of fewer hops."""

    branch: Branch
    arms: Sequence[Arm]  # that continue it
    highest: float  # reward that a trajectory behind it can have


@dataclass
class _Tree:
    """State of an open query. A workflow that is restarted for another branch says the same
    again, so what is computed of it is kept."""

    replies: dict[str, Reply] = field(default_factory=dict)  # by the key of their generation
    waiting: int = 0  # branches
    requests: dict[tuple[object, ...], Request] = field(default_factory=dict)
    text_ids: dict[str, str] = field(default_factory=dict)
    held: list[_Held] = field(default_factory=list)
    best: dict[int, float] = field(default_factory=dict)  # reward found, by replica

    def request(self, ask: Ask, branch: Branch) -> Request:
        """The generation that an Ask on a branch stands for."""
        place = (ask.arm.id, ask.messages, ask.sample, branch.replica)
        if place not in self.requests:
            self.requests[place] = request_for(ask, branch.replica, branch.query.question)
        return self.requests[place]

    def text_id(self, text: str) -> str:
        """The key of a text."""
        if text not in self.text_ids:
            self.text_ids[text] = digest_text(text)
        return self.text_ids[text]


@dataclass
class Enumerator:
    """Grows the trees of many queries at once; give it replies, take requests and rows."""

    workflow: Workflow
    pool: Pool
    pruning: Pruning = field(default_factory=Pruning)
    complete: int = 0  # queries of which every trajectory is known
    trees: dict[str, _Tree] = field(default_factory=dict)  # of open queries, by id
    waiting: dict[str, list[Branch]] = field(default_factory=dict)  # by the key they wait for
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def start(self, query: Query, replicas: int) -> list[Request]:
        """Begin a query: the requests it needs first."""
        self.trees.setdefault(query.id, _Tree())
        requests = [
            request
            for replica in range(replicas)
            for request in self._grow(Branch(query, replica, self._walk(query)))
        ]
        return requests + self._settle(query.id)

    def supply(self, key: str, reply: Reply) -> list[Request]:
        """Give the reply to a request: the requests that this makes possible."""
        branches = self.waiting.pop(key, [])
        requests: list[Request] = []
        for branch in branches:
            tree = self.trees[branch.query.id]
            tree.replies[key] = reply
            tree.waiting -= 1
            requests += self._grow(branch)
        for query_id in {branch.query.id for branch in branches}:
            requests += self._settle(query_id)
        return requests

    def take_rows(self) -> dict[str, list[Row]]:
        """The states, texts and trajectories found since the last call."""
        rows, self.rows = self.rows, defaultdict(list)
        return rows

    def _settle(self, query_id: str) -> list[Request]:
        """Continue a query none of whose branches waits, or end it where nothing is held."""
        tree = self.trees[query_id]
        requests: list[Request] = []
        while not tree.waiting and tree.held:
            held, tree.held = tree.held, []
            for branch, arms, highest in held:
                if highest > tree.best.get(branch.replica, -math.inf) + TIE:
                    for arm in arms:
                        requests += self._grow(branch.then(arm, self._walk(branch.query)))
        if not tree.waiting:
            self.complete += 1
            del self.trees[query_id]
        return requests

    def _grow(self, branch: Branch) -> Iterator[Request]:
        tree = self.trees[branch.query.id]
        todo = [branch]
        while todo:
            branch = todo.pop()
            outcome = self._advance(branch)
            if isinstance(outcome, Pending):
                request = tree.request(outcome.ask, branch)
                if request.key not in self.waiting:
                    yield request
                self.waiting.setdefault(request.key, []).append(branch)
                tree.waiting += 1
            elif isinstance(outcome, Undecided):
                self._record_state(branch, outcome)
                todo += reversed(self._continued(branch, self._options(branch, outcome)))
            else:
                self._record_trajectory(branch, outcome)

    def _continued(self, branch: Branch, options: Sequence[Decision]) -> list[Branch]:
        """The branches one decision further on; the first takes on the workflow where it stands."""
        walks = [branch.walk, *(self._walk(branch.query) for _ in options[1:])]
        return [branch.then(each, walk) for each, walk in zip(options, walks, strict=False)]

    def _options(self, branch: Branch, outcome: Undecided) -> list[Decision]:
        """Arms taken at a Choose now; those that a bound may leave out are held."""
        stop: list[Decision] = [STOP] if outcome.choose.stop else []
        arms = self.pruning.arms(branch.query, branch.decisions, outcome.choose.arms)
        if self.pruning.bound is None or not branch.decisions:
            return [*arms, *stop]
        asks = [self._ask_row(branch, ask) for ask in outcome.asks]
        held = _Held(branch, arms, self.pruning.bound.highest(asks))
        self.trees[branch.query.id].held.append(held)
        return stop

    def _advance(self, branch: Branch) -> Pending | Undecided | Finished:
        tree = self.trees[branch.query.id]

        def reply_to(ask: Ask) -> Said | None:
            reply = tree.replies.get(tree.request(ask, branch).key)
            return None if reply is None else Said(reply.text, reply.thinking)

        return branch.walk.on(branch.decisions, reply_to)

    def _walk(self, query: Query) -> Walk:
        return Walk(self.workflow.run(query, self.pool))

    def _record_state(self, branch: Branch, outcome: Undecided) -> None:
        choose = outcome.choose
        tree = self.trees[branch.query.id]
        texts = [(tree.text_id(part), part) for part in choose.context]
        self.rows["texts"] += [{"text_id": key, "text": text} for key, text in texts]
        context = [key for key, _ in texts]
        self.rows["states"].append(
            self._row(branch, outcome.asks)
            | {
                "role": choose.role,
                "context_id": digest(context),
                "context": context,
                "actions": [arm.id for arm in choose.arms],
                "stop": choose.stop,
            }
        )

    def _record_trajectory(self, branch: Branch, outcome: Finished) -> None:
        row = self._row(branch, outcome.asks)
        self._keep_best(branch, outcome, row)
        names = [arm.name for arm in branch.decisions if arm is not STOP]
        identity = [row["query_id"], row["workflow"], row["decisions"], row["replica"]]
        self.rows["trajectories"].append(
            row
            | {
                "trajectory_id": digest(identity)[:16],
                "sequence": ">".join(names),
                "output": outcome.output,
                "notes": list(outcome.notes),
            }
        )

    def _keep_best(self, branch: Branch, outcome: Finished, row: Row) -> None:
        """Keep the reward of a finished trajectory where it is the best so far."""
        if self.pruning.bound is None:
            return
        tree = self.trees[branch.query.id]
        if any(isinstance(tree.replies[ask["generation"]], StandIn) for ask in row["asks"]):
            return
        reward = self.pruning.bound.reward(branch.query, outcome.output, row["asks"])
        tree.best[branch.replica] = max(reward, tree.best.get(branch.replica, -math.inf))

    def _row(self, branch: Branch, asks: tuple[Ask, ...]) -> Row:
        decisions = [arm.id for arm in branch.decisions if not isinstance(arm, Stop)]
        return {
            "query_id": branch.query.id,
            "workflow": self.workflow.fingerprint,
            "replica": branch.replica,
            "decisions": decisions,
            "depth": len(decisions),
            "asks": [self._ask_row(branch, ask) for ask in asks],
        }

    def _ask_row(self, branch: Branch, ask: Ask) -> Row:
        tree = self.trees[branch.query.id]
        key = tree.request(ask, branch).key
        reply = tree.replies[key]
        return {
            "arm": ask.arm.id,
            "generation": key,
            "prompt_tokens": reply.prompt_tokens,
            "output_tokens": reply.output_tokens,
            "role": ask.role,
        }


def enumerator_of(experiment: Experiment) -> Enumerator:
    """An enumerator of an experiment's trees, pruned as its file says."""
    pool = experiment.pool
    return Enumerator(experiment.workflow, pool, Pruning.of(experiment.config, pool))
