"""Requests over HTTP: many at once, to several endpoints, tried again until they are answered.

All of it runs on one thread of its own. Each endpoint has so many slots, and a request takes one of
the endpoint that has failed least of late. Where it fails in a way that may pass, it keeps the slot
while it waits, so that a server in trouble is asked less and less, and then takes another one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
from pydantic import JsonValue

from hcache.config.server import ServerConfig
from hcache.engines.chat import LONGEST, Completion, error_of, is_overflow, read_completion

PASSING = frozenset({408, 409, 425, 429})  # statuses after which it is tried again; so is any 5xx
FOR_GOOD = frozenset({"insufficient_quota"})  # codes with which such a status does not pass
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before the next try, doubled each time
CONNECT_SECONDS = 10.0  # until a connection has to be there
ENDING_SECONDS = 5.0  # until the thread has to be done


@dataclass
class Endpoint:
    """A base URL, and how it has fared."""

    url: str
    failures: int = 0  # in a row
    reached: bool = False  # whether it has ever answered


@dataclass(frozen=True)
class Slot:
    """A place for one request at a time, with a connection of its own.

    A client for all would look through its connections at each request, which takes 7.8 ms of
    processor time with 128 of them; with one each a request takes 1.2 ms.
    """

    endpoint: Endpoint
    client: httpx.AsyncClient


@dataclass(frozen=True)
class Answer:
    """The outcome of a request: a completion, or why there is none."""

    key: str
    url: str
    seconds: float  # from when it was taken on, waiting for a slot included
    completion: Completion | None = None
    status: int = 0  # of the response that said no; 0 where none came, or none that could be read
    words: str = ""  # why there is none
    overflow: bool = False  # the prompt does not fit


class _Passing(Exception):
    """A failure that may pass; `pause` is how many seconds the server asks for.

    Where no connection could be made (`away`) it passes only for a server that was there before.
    """

    def __init__(
        self, words: str, status: int = 0, pause: float | None = None, away: bool = False
    ) -> None:
        super().__init__(words)
        self.words, self.status, self.pause, self.away = words, status, pause, away


class _Refused(Exception):
    """A response that says no, and would again."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status, self.code, self.words = status, code, words


class Transport:
    """Sends bodies to the endpoints of a server, on a thread of its own."""

    def __init__(self, urls: Sequence[str], key: str, server: ServerConfig) -> None:
        """`key` is the secret that is sent along, none where it is empty."""
        self.server, self.key = server, key
        self.endpoints = [Endpoint(url) for url in urls]
        clients = self._clients(trust_env=not all(map(is_loopback, urls)))
        self.each = [
            Slot(endpoint, next(clients))
            for _ in range(server.concurrency)
            for endpoint in self.endpoints
        ]
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.slots: asyncio.PriorityQueue[tuple[int, int, Slot]] = asyncio.PriorityQueue()
        self.order = itertools.count()  # of slots that are as good
        for slot in self.each:
            self._free(slot)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._work, name="hcache-http", daemon=True)
        self.thread.start()

    def send(self, key: str, body: Mapping[str, JsonValue]) -> None:
        """Take on a request; it never waits."""
        self.loop.call_soon_threadsafe(self._begin, key, json.dumps(body).encode())

    def take(self, seconds: float) -> list[Answer]:
        """All answers since; waits so long for the first."""
        found: list[Answer] = []
        try:
            while True:
                wait = seconds > 0 and not found
                found.append(self.answers.get(wait, seconds if wait else None))
        except queue.Empty:
            return found

    def abort(self) -> None:
        """Drop all requests, and answers that were not taken."""
        self.loop.call_soon_threadsafe(self._cancel)
        self.take(0)

    def close(self) -> None:
        """Drop all requests, close all connections, end the thread."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(ENDING_SECONDS)

    def _clients(self, trust_env: bool) -> Iterator[httpx.AsyncClient]:
        """Clients alike; `trust_env`: with the proxies and certificates of the environment."""
        context = httpx.create_ssl_context(trust_env=trust_env)
        while True:
            yield httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
                timeout=httpx.Timeout(None, connect=min(CONNECT_SECONDS, self.server.timeout)),
                verify=context,
                trust_env=trust_env,
            )

    # On the thread

    def _work(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        self._cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(slot.client.aclose() for slot in self.each))

    def _begin(self, key: str, body: bytes) -> None:
        task = self.loop.create_task(self._ask(key, body))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _free(self, slot: Slot) -> None:
        self.slots.put_nowait((slot.endpoint.failures, next(self.order), slot))

    async def _ask(self, key: str, body: bytes) -> None:
        """Try until there is an answer: `retries` times again for each endpoint."""
        since = time.perf_counter()
        last = self.server.retries * len(self.endpoints)
        for tried in range(last + 1):
            *_, slot = await self.slots.get()
            try:
                answer = await self._try(key, slot, body, since, tried, tried == last)
            finally:
                self._free(slot)
            if answer is not None:
                self.answers.put(answer)
                return

    async def _try(
        self, key: str, slot: Slot, body: bytes, since: float, tried: int, last: bool
    ) -> Answer | None:
        """The answer to one try; None, after a pause, where it is to be tried again."""
        endpoint = slot.endpoint
        try:
            completion = await self._post(slot, body)
        except _Passing as error:
            endpoint.failures += 1
            pause = _pause(tried) if error.pause is None else error.pause
            there = endpoint.reached or not error.away
            if there and not last and pause <= self.server.timeout:
                await asyncio.sleep(pause)
                return None
            words = self._without_key(error.words)
            return Answer(key, endpoint.url, time.perf_counter() - since, None, error.status, words)
        except _Refused as error:
            overflow = is_overflow(error.status, error.code, error.words)
            words = self._without_key(error.words)
            seconds = time.perf_counter() - since
            return Answer(key, endpoint.url, seconds, None, error.status, words, overflow)
        endpoint.failures = 0
        return Answer(key, endpoint.url, time.perf_counter() - since, completion)

    async def _post(self, slot: Slot, body: bytes) -> Completion:
        endpoint = slot.endpoint
        url, json_type = f"{endpoint.url}/chat/completions", {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self.server.timeout):
                response = await slot.client.post(url, content=body, headers=json_type)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Passing(_cause(error), away=True) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Passing(f"no reply within {self.server.timeout:g} s") from error
        except httpx.RequestError as error:
            raise _Passing(_cause(error)) from error
        endpoint.reached = True
        if response.status_code != 200:
            raise _refusal(response)
        try:
            return read_completion(response.content)
        except ValueError as error:
            raise _Passing(f"a broken reply ({error})") from error

    def _without_key(self, words: str) -> str:
        """A server's words as one short line without the key, which some repeat."""
        said = words.replace(self.key, "…") if self.key else words
        return " ".join(said.split())[:LONGEST].rstrip(".")


def is_loopback(url: str) -> bool:
    """True if a server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause(tried: int) -> float:
    """Seconds to wait, at random between half and all of what doubles each time."""
    doubled: float = FIRST_PAUSE * 2.0**tried
    return min(LONGEST_PAUSE, doubled) * random.uniform(0.5, 1)


def _refusal(response: httpx.Response) -> _Passing | _Refused:
    """The failure that a response without a reply stands for."""
    status = response.status_code
    code, words = error_of(response.content)
    if (status in PASSING or status >= 500) and code not in FOR_GOOD:
        return _Passing(words, status, _retry_after(response.headers.get("retry-after")))
    return _Refused(status, code, words)


def _retry_after(text: str | None) -> float | None:
    """Seconds of the header, which is a number of them or a date."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (then - datetime.now(UTC)).total_seconds()) if then.tzinfo else None


def _cause(error: BaseException) -> str:
    """Why a connection failed, in the system's words where it has any."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLError):
            return f"TLS, {below.reason or below.strerror}"
        if isinstance(below, OSError) and below.errno:
            return os.strerror(below.errno) if below.errno > 0 else str(below.strerror)
        below = below.__cause__ or below.__context__
    return f"the connection failed, {type(error).__name__}"
