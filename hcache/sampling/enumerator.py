"""The enumerator: every trajectory of a workflow, for each query and replica.

It answers every `Choose` with every arm (and STOP), by restarting the workflow with each list
of decisions. Replies it does not have it hands out as requests; each reply that comes in takes
the branches that waited for it further. It runs no model and keeps no order: results do not
depend on when replies arrive. Where trees are pruned (`pruning.py`) some arms are left out; a
bound is decided hop by hop, once all trajectories of fewer hops are known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
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
    Workflow,
    advance,
)
from hcache.workflows import Reply as Said

Row = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the enumerator must know of a generation."""

    text: str
    prompt_tokens: int
    output_tokens: int
    thinking: bool = False

    @classmethod
    def of(cls, generation: Generation) -> Reply:
        """What is known of a generation that has just been made."""
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
    decisions: tuple[Decision, ...] = ()

    @property
    def hop(self) -> int:
        """Hops taken, the one under way included; a request made before any is of hop 1."""
        return max(1, sum(decision is not STOP for decision in self.decisions))

    def then(self, decision: Decision) -> Branch:
        """The branch one decision further on."""
        return Branch(self.query, self.replica, (*self.decisions, decision))


class _Held(NamedTuple):
    """A state that waits for the trajectories of fewer hops."""

    branch: Branch
    arms: tuple[Arm, ...]  # that continue it
    highest: float  # reward that a trajectory behind it can have


@dataclass
class Enumerator:
    """Grows the trees of many queries at once; give it replies, take requests and rows."""

    workflow: Workflow
    pool: Pool
    pruning: Pruning = field(default_factory=Pruning)
    complete: int = 0  # queries of which every trajectory is known
    replies: dict[str, dict[str, Reply]] = field(default_factory=dict)  # of open queries, by id
    waiting: dict[str, list[Branch]] = field(default_factory=dict)  # by the key they wait for
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    _open: Counter[str] = field(default_factory=Counter)  # waiting branches of each query
    _held: dict[str, list[_Held]] = field(default_factory=lambda: defaultdict(list))
    _best: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    def start(self, query: Query, replicas: int) -> list[Request]:
        """Begin a query: the requests it needs first."""
        self.replies[query.id] = {}
        requests = [
            request for replica in range(replicas) for request in self._grow(Branch(query, replica))
        ]
        return requests + self._settle(query.id)

    def supply(self, key: str, reply: Reply) -> list[Request]:
        """Give the reply to a request: the requests that this makes possible."""
        branches = self.waiting.pop(key, [])
        requests: list[Request] = []
        for branch in branches:
            self.replies[branch.query.id][key] = reply
            self._open[branch.query.id] -= 1
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
        requests: list[Request] = []
        while self._open[query_id] == 0:
            if query_id not in self._held:
                self.complete += 1
                del self._open[query_id], self.replies[query_id]
                self._best.pop(query_id, None)
                break
            best = self._best[query_id]
            for held in self._held.pop(query_id):
                if held.highest > best.get(held.branch.replica, -math.inf) + TIE:
                    for arm in held.arms:
                        requests += self._grow(held.branch.then(arm))
        return requests

    def _grow(self, branch: Branch) -> Iterator[Request]:
        todo = [branch]
        while todo:
            branch = todo.pop()
            outcome = self._advance(branch)
            if isinstance(outcome, Pending):
                request = _request(outcome.ask, branch)
                if request.key not in self.waiting:
                    yield request
                self.waiting.setdefault(request.key, []).append(branch)
                self._open[branch.query.id] += 1
            elif isinstance(outcome, Undecided):
                self._record_state(branch, outcome)
                todo += [
                    branch.then(decision) for decision in reversed(self._options(branch, outcome))
                ]
            else:
                self._record_trajectory(branch, outcome)

    def _options(self, branch: Branch, outcome: Undecided) -> list[Decision]:
        """What is decided at a Choose now; arms that a bound may leave out are held."""
        choose, stop = outcome.choose, [STOP] if outcome.choose.stop else []
        arms = self.pruning.arms(branch.query, branch.decisions, choose.arms)
        if self.pruning.bound is None or not branch.decisions:
            return [*arms, *stop]
        asks = [self._ask_row(branch, ask) for ask in outcome.asks]
        held = _Held(branch, tuple(arms), self.pruning.bound.highest(asks))
        self._held[branch.query.id].append(held)
        return [*stop]

    def _advance(self, branch: Branch) -> Pending | Undecided | Finished:
        replies = self.replies[branch.query.id]

        def reply_to(ask: Ask) -> Said | None:
            reply = replies.get(_request(ask, branch).key)
            return None if reply is None else Said(reply.text, reply.thinking)

        flow = self.workflow.run(branch.query, self.pool)
        return advance(flow, branch.decisions, reply_to)

    def _record_state(self, branch: Branch, outcome: Undecided) -> None:
        choose = outcome.choose
        texts = [(digest_text(part), part) for part in choose.context]
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
        replies = self.replies[branch.query.id]
        known = not any(isinstance(replies[ask["generation"]], StandIn) for ask in row["asks"])
        if self.pruning.bound is None or not known:
            return
        reward = self.pruning.bound.reward(branch.query, outcome.output, row["asks"])
        best = self._best[branch.query.id]
        best[branch.replica] = max(reward, best.get(branch.replica, -math.inf))

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
        key = _request(ask, branch).key
        reply = self.replies[branch.query.id][key]
        return {
            "arm": ask.arm.id,
            "generation": key,
            "prompt_tokens": reply.prompt_tokens,
            "output_tokens": reply.output_tokens,
            "role": ask.role,
        }


def _request(ask: Ask, branch: Branch) -> Request:
    """The generation that an Ask on a branch stands for."""
    return request_for(ask, branch.replica, branch.query.question)


def enumerator_of(experiment: Experiment) -> Enumerator:
    """An enumerator of an experiment's trees, pruned as its file says."""
    pool = experiment.pool
    return Enumerator(experiment.workflow, pool, Pruning.of(experiment.config, pool))
