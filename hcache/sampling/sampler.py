"""The sampler: drives the enumerator with engines, and brings every reply into the store.

It streams: as soon as a reply is there, what it unlocks is queued. Replies go to the spool at
once and to the database in short transactions when that is free. Stopped in whatever way, the
same run started again generates only what is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from hcache.data.queries import SPLITS, Query, known_split, shuffled
from hcache.engines import Engine, EngineFactory, Engines, Generation, Request
from hcache.errors import ArmError, ConfigError, EngineError, RequestError, StoreBusyError, together
from hcache.experiment import Experiment
from hcache.files import Identity, identity
from hcache.models.arms import Arm
from hcache.sampling.enumerator import Reply, enumerator_of
from hcache.sampling.gate import Gate
from hcache.sampling.known import Known
from hcache.sampling.placing import in_process
from hcache.sampling.plan import check, complete_queries, stored_scope, tree_size
from hcache.sampling.records import record_of, replies_of, tables_of
from hcache.sampling.schedules import Resident, Sweep
from hcache.sampling.scoring import rescore, score
from hcache.sampling.status import StatusFile
from hcache.sampling.tally import Tally
from hcache.store import Spool, Store, check_kind, wait_and_write
from hcache.store.queries import GENERATIONS, GENERATIONS_BY_ARM, TRAJECTORIES
from hcache.store.spool import taken_away

BATCH = 256  # queries begun together, so that the store is asked once for all
IN_FLIGHT = 256  # requests given to an engine at once, for each worker
BACKLOG = 1024  # requests queued before further queries are begun, for each worker
COMMIT_SECONDS = 4.0  # between two commits, at least
COMMIT_SHARE = 0.05  # of the time, at most: each commit reads keys of all that is stored
MOST_UNCOMMITTED = 20_000  # generations in memory, after which commits may take a larger share
NEW = ("generations", "trajectories", "scores")  # rows that are there are left out before
PATIENCE_SECONDS = 10.0  # for a database held open by others, at the start and the end


class Sampler:
    """One run of `sample`."""

    def __init__(
        self,
        experiment: Experiment,
        factory: EngineFactory | None = None,
        *,
        splits: Sequence[str] = SPLITS,
        budget: int | None = None,
        minutes: float | None = None,
        workers: int = 1,
        swap: bool = False,
        only: Container[str] | None = None,
        on_progress: Callable[[Tally], None] = lambda tally: None,
        answered: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """The queries of some splits; `budget` bounds the generations of this run, `minutes` when
        queries are still begun; of a server's models, `only` generations of these keys are made.
        `workers` answer side by side where engines are in several processes; `swap` asks for one
        model at a time whatever the schedule; `answered` counts the generations of each worker.

        Raises:
            ConfigError: no such split, or none with queries; or see `check`.
        """
        check(experiment)
        self.experiment = experiment
        self.config = experiment.config.sampling
        self.tree = 0  # generations of a query, at most
        self.splits, self.db = splits, experiment.db
        self.queries = [
            query for split in splits for query in experiment.splits.get(known_split(split), [])
        ]
        if not self.queries:
            raise ConfigError(
                f"no split of {', '.join(splits)} has queries.", "Give it a source in `data`."
            )
        self.by_id = {query.id: query for query in self.queries}
        self.enumerator = enumerator_of(experiment)
        self.engines = Engines(factory or in_process(experiment), self.config.logprobs)
        self.budget, self.minutes = budget, minutes
        self.in_flight, self.backlog = IN_FLIGHT * workers, BACKLOG * workers
        self.swap = swap or self.config.schedule == "swap"
        self.tally = Tally(queries=len(self.queries))
        self.gate = Gate(self.config.max_cost, self.tally, only)
        self.on_progress, self.answered = on_progress, answered
        self.queued: dict[str, deque[Request]] = {
            arm.engine_key: deque() for arm in experiment.all_arms
        }
        self.running: dict[str, dict[str, Request]] = {key: {} for key in self.queued}
        self.order = deque(shuffled(self.queries, self.config.seed))
        self.held: deque[tuple[str, list[Request]]] = deque()  # begun, not yet within budget
        self.begun: set[str] = set()  # open queries whose requests went to engines
        self.complete_before = 0  # queries that earlier runs have completed
        self.known, self.known_trajectories = Known(), Known()  # in the database
        self.fresh: dict[str, Reply] = {}  # generations of this run that are not there yet
        self.uncommitted: list[dict[str, Any]] = []
        self.certain: tuple[str, ...] = NEW  # tables whose uncommitted rows are surely not there
        self.file: Identity | None = None  # of the database, once all is recorded in it
        self.errors: list[EngineError] = []
        self.given_up: set[str] = set()  # arms that their engine cannot serve

    def run(self) -> Tally:
        """Sample until all is there or the budget is spent.

        Raises:
            EngineError: an engine failed or could not serve an arm; all else was done.
            StoreBusyError: another process is sampling into the same database.
            KeyboardInterrupt: after everything finished was made safe.
        """
        started = time.monotonic()
        check_kind(self.db)
        self.spool = Spool(self.db)
        self.status = StatusFile(self.db, self.experiment.name)
        self._tell()
        try:
            self._begin()
            self._loop(started)
        finally:
            self._end(started)
        if self.errors:
            raise together(self.errors)
        self.tally.scored = rescore(self.experiment, PATIENCE_SECONDS)
        self.tally.replies = self.experiment.replies(self.splits)
        return self.tally

    # The run: begin, loop, end

    def _begin(self) -> None:
        recovered = self.spool.recover()
        if recovered:
            rows = tables_of(recovered)
            wait_and_write(self.db, rows, PATIENCE_SECONDS)
            self.spool.clear()
        self.tally.moved = self.experiment.record(PATIENCE_SECONDS)
        self.file = identity(self.db)
        with Store(self.db) as store:
            self._leave_out_complete(store)
            if self.order:
                self._load_known(store)

    def _leave_out_complete(self, store: Store) -> None:
        """Begin only queries of which something is missing; a count tells, without enumeration."""
        size = tree_size(self.experiment, self.queries[0])
        self.tree = sum(size.values())
        stored = complete_queries(store, self.experiment, self.queries)
        counts = store.sql(GENERATIONS_BY_ARM, stored_scope(self.experiment), chosen=stored)
        self.tally.cached.update(dict(counts.iter_rows()))
        complete = set(stored.to_series())
        self.order = deque(query for query in self.order if query.id not in complete)
        self.tally.complete = self.complete_before = len(complete)
        for (arm, _), count in size.items():
            self.tally.expected[arm] += self.tally.cached[arm] + count * len(self.order)

    def _load_known(self, store: Store) -> None:
        fingerprints = pl.DataFrame(
            {"fingerprint": sorted({arm.fingerprint for arm in self.experiment.all_arms})}
        )
        keys = store.sql(GENERATIONS, chosen=fingerprints)
        ids = store.sql(TRAJECTORIES, [self.experiment.workflow.fingerprint])
        self.known = Known(keys.to_series().to_numpy())
        self.known_trajectories = Known(ids.to_series().to_numpy())

    def _loop(self, started: float) -> None:
        ended, took = time.monotonic(), 0.0
        schedule = self._schedule()
        while True:
            self._admit(started)
            key = schedule.next()
            if key is None:
                return
            self._pump(key)
            if (began := time.monotonic()) - ended > self._pause(took):
                self._commit()
                ended = time.monotonic()
                took = ended - began
            self.tally.seconds = time.monotonic() - started
            self._tell()

    def _tell(self) -> None:
        self.on_progress(self.tally)
        self.status.write(self.tally, self.answered)

    def _end(self, started: float) -> None:
        for engine in self.engines.loaded.values():
            engine.abort()
        try:
            self._commit(PATIENCE_SECONDS)
        finally:
            self.status.remove()  # while the lock is held: the next sampler writes its own
            self.spool.close()
            self.engines.close()
            self.tally.loads = self.engines.loads
            self.tally.left = len(self.held) + len(self.order)
            short = self.budget is not None and self.budget < self.tree
            self.tally.least = self.tree if short and self.tally.left else 0
            self.tally.seconds = time.monotonic() - started
            self.on_progress(self.tally)

    # Queries in, requests to the engines

    def _admit(self, started: float) -> None:
        """Begin queries while there is room, so that the engines never wait."""
        while self.order and len(self.held) + sum(map(len, self.queued.values())) < self.backlog:
            # One engine at a time wants all there is to do.
            count = len(self.order) if self.swap else BATCH
            self._begin_queries([self.order.popleft() for _ in range(min(count, len(self.order)))])
        while self.held and self._affordable(started):
            owner, requests = self.held.popleft()
            self.begun.add(owner)
            self._queue(requests)

    def _begin_queries(self, batch: list[Query]) -> None:
        replicas = self.config.replicas
        first = [request for query in batch for request in self.enumerator.start(query, replicas)]
        missing: dict[str, list[Request]] = {}
        for request in self._answer_known(first):
            owner = self.enumerator.waiting[request.key][0].query.id
            missing.setdefault(owner, []).append(request)
        self.held.extend(missing.items())
        self.tally.complete = self.complete_before + self.enumerator.complete

    def _affordable(self, started: float) -> bool:
        """True if one more whole tree fits the budget, beside all that are open."""
        minutes = (time.monotonic() - started) / 60
        if self.gate.shut or (self.minutes is not None and minutes > self.minutes):
            return False
        if self.budget is None:
            return True
        self.begun &= self.enumerator.trees.keys()  # the others are complete
        spent = sum(self.tally.generated.values())
        return spent + (len(self.begun) + 1) * self.tree <= self.budget

    def _answer_known(self, requests: list[Request]) -> list[Request]:
        """Answer requests from what is there, and those that this unlocks; the rest is returned."""
        missing: list[Request] = []
        while requests:
            replies = self._look_up({request.key for request in requests})
            here = [request for request in requests if request.key in replies]
            missing += [request for request in requests if request.key not in replies]
            requests = []
            for request in here:
                self.tally.cached[request.arm.name] += 1
                requests += self.enumerator.supply(request.key, replies[request.key])
        return missing

    def _look_up(self, keys: set[str]) -> dict[str, Reply]:
        """The replies that are there, by key."""
        replies = {key: self.fresh[key] for key in keys & self.fresh.keys()}
        stored = self.known.among(list(keys - replies.keys()))
        return replies | replies_of(self.db, stored)

    def _queue(self, requests: Iterable[Request]) -> None:
        for request in requests:
            queue = self.queued.get(request.arm.engine_key)
            if queue is None or request.arm.id in self.given_up:  # its engine, or it, has failed
                self.tally.missing += 1
            elif self.gate.bars(request):
                self.tally.absent += 1
            else:
                queue.append(request)

    # Engines

    def _schedule(self) -> Resident | Sweep:
        keys = list(self.queued)
        if not self.swap:
            return Resident(keys, self._busy)
        tools = [tool.engine_key for tool in self.experiment.workflow.tools()]
        return Sweep([key for key in keys if key not in tools], tools, self._busy, self._keep)

    def _keep(self, keys: set[str]) -> None:
        """Unload the engines of all other keys."""
        for key in self.engines.loaded.keys() - keys:
            self.engines.drop(key)

    def _busy(self, key: str) -> bool:
        return bool(self.queued.get(key) or self.running.get(key))

    def _pump(self, key: str) -> None:
        """Let one engine work a little."""
        queue, running = self.queued[key], self.running[key]
        try:
            engine = self._engine(key)
            self.gate.reckon(request for each in self.running.values() for request in each.values())
            while queue and len(running) < self.in_flight and self.gate.passes(queue[0]):
                self._submit(engine, queue.popleft())
            if self.gate.shut:  # what was asked is still answered
                self.tally.unpaid += len(queue)
                queue.clear()
            finished = engine.step()
        except ArmError as error:  # of a request that was queued
            self._give_up(running.pop(error.request).arm, error)
            return
        except RequestError as error:
            del running[error.request]
            self.errors.append(error)
            self.tally.missing += 1
            return
        except EngineError as error:
            self._fail(key, error)
            return
        if finished:
            self._take(engine, finished, running)

    def _submit(self, engine: Engine, request: Request) -> None:
        running = self.running[request.arm.engine_key]
        running[request.key] = request
        try:
            engine.submit(request)
        except ArmError as error:
            del running[request.key]
            self._give_up(request.arm, error)

    def _give_up(self, arm: Arm, error: ArmError) -> None:
        """Give up an arm: what it was to say stays missing, its engine goes on with others."""
        if arm.id not in self.given_up:
            self.errors.append(error)
        self.given_up.add(arm.id)
        queue = self.queued[arm.engine_key]
        kept = [request for request in queue if request.arm != arm]
        self.tally.missing += 1 + len(queue) - len(kept)
        queue.clear()
        queue.extend(kept)

    def _engine(self, key: str) -> Engine:
        request = next(iter(self.running[key].values()), None) or self.queued[key][0]
        return self.engines.get(request.arm)

    def _fail(self, key: str, error: EngineError) -> None:
        """Give up an engine: what it owed stays missing, the others go on."""
        self.errors.append(error)
        self.tally.missing += len(self.queued[key]) + len(self.running[key])
        del self.queued[key], self.running[key]
        if key in self.engines.loaded:
            self.engines.drop(key)  # the others may need its memory

    def _take(self, engine: Engine, done: list[Generation], running: dict[str, Request]) -> None:
        """Make replies safe, then let the trees grow."""
        pairs = [(running.pop(generation.key), generation) for generation in done]
        records = [record_of(request, generation, engine) for request, generation in pairs]
        self.uncommitted += records
        self.spool.append(records)
        unlocked: list[Request] = []
        for request, generation in pairs:
            reply = Reply.of(generation)
            self.fresh[request.key] = reply
            self.tally.count(request.arm, generation)
            unlocked += self.enumerator.supply(request.key, reply)
        self._queue(self._answer_known(unlocked))
        self.tally.complete = self.complete_before + self.enumerator.complete

    # The store

    def _pause(self, took: float) -> float:
        """Seconds to the next commit after one that took so many."""
        full = len(self.uncommitted) >= MOST_UNCOMMITTED
        return COMMIT_SECONDS if full else max(COMMIT_SECONDS, took / COMMIT_SHARE)

    def _commit(self, patience: float = 0.0) -> None:
        """Move what is finished into the database, if it is free."""
        rows = self.enumerator.rows
        there = self.known_trajectories.among([r["trajectory_id"] for r in rows["trajectories"]])
        new = [row for row in rows["trajectories"] if row["trajectory_id"] not in there]
        if not self.uncommitted and not new:
            return
        tables = tables_of(self.uncommitted) | {
            "texts": rows["texts"],
            "states": rows["states"],
            "trajectories": new,
            "scores": score(new, self.by_id, self.experiment.config.data),
        }
        self.tally.waiting = True
        self._check_file()
        certain, self.certain = self.certain, ()  # whoever interrupts may do so after the write
        try:
            wait_and_write(self.db, tables, patience, new=certain)
        except StoreBusyError:
            self.certain = certain
            return
        self._check_file()
        self.tally.waiting = False
        self.enumerator.take_rows()
        self.known_trajectories.add(row["trajectory_id"] for row in new)
        self.known.add(self.fresh)
        self.uncommitted.clear()
        self.fresh.clear()
        self.spool.clear()
        self.certain = NEW

    def _check_file(self) -> None:
        """Refuse to commit into another file than before, which would hold but a part."""
        if identity(self.db) != self.file:
            raise taken_away(self.db)
