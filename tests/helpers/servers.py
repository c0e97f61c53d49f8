"""A server of chat completions on this machine, which fails as it is told to.

A model says its own name and repeats its whole prompt, as the scripts of `helpers.experiments` do;
tokens are words.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What comes in place of a reply."""

    kind: str = "status"  # or hang, reset, truncated, malformed
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    error: Body = field(default_factory=lambda: {"message": "out of order"})
    seconds: float = 1.5  # that one that hangs takes


HANG, RESET, TRUNCATED, MALFORMED = map(Fault, ("hang", "reset", "truncated", "malformed"))
Behaviour = Callable[[int, Body], Fault | Body | None]
"""(number of a request, its body) -> a fault, fields that replace those of the reply, or None."""


def completion(body: Body) -> Body:
    """The reply to a request."""
    prompt = "\n".join(message["content"] for message in body["messages"])
    words = [body["model"], *prompt.split()]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body["model"],
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"{body['model']} {prompt}"},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": len(words) - 1,
            "completion_tokens": len(words),
            "total_tokens": 2 * len(words) - 1,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }


@dataclass
class FakeServer:
    """The server, and what it was asked."""

    url: str = ""
    behaviour: Behaviour = lambda number, body: None
    bodies: list[Body] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    delay: float = 0.0  # seconds that each reply takes
    running: int = 0
    most: int = 0  # requests at once
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, body: Body, key: str | None) -> int:
        """Note a request: its number."""
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.running += 1
            self.most = max(self.most, self.running)
            return len(self.bodies) - 1

    def done(self) -> None:
        """Note the end of one."""
        with self.lock:
            self.running -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.fake.asked(body, self.headers.get("Authorization"))
        try:
            time.sleep(self.fake.delay)
            self._answer(body, self.fake.behaviour(number, body))
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            self.fake.done()

    def _answer(self, body: Body, told: Fault | Body | None) -> None:
        if not isinstance(told, Fault):
            self._send(200, json.dumps(completion(body) | (told or {})).encode())
        elif told.kind == "status":
            self._send(told.status, json.dumps({"error": told.error}).encode(), told.headers)
        elif told.kind == "malformed":
            self._send(200, b'{"choices": [{"message": ')
        elif told.kind == "truncated":
            whole = json.dumps(completion(body)).encode()
            self._send(200, whole[: len(whole) // 2], length=len(whole))
            self.close_connection = True
        elif told.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            time.sleep(told.seconds)
            self.close_connection = True

    def _send(
        self,
        status: int,
        data: bytes,
        headers: tuple[tuple[str, str], ...] = (),
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):  # closed already
            return

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of the test."""

    def shutdown_request(self, request: Any) -> None:
        try:
            super().shutdown_request(request)
        except OSError:
            return


@contextmanager
def fake_server(
    behaviour: Behaviour = lambda number, body: None, port: int = 0
) -> Iterator[FakeServer]:
    """A server at a port, a free one if not said, up while the block runs."""
    fake = FakeServer(behaviour=behaviour)
    handler = type("Handler", (_Handler,), {"fake": fake})
    with _Server(("127.0.0.1", port), handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether a server is there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def remote(names: str, *urls: str, **server: Any) -> dict[str, Any]:
    """Models of these names on a server."""
    where = {"endpoints": list(urls), "timeout": 1.0, **server}
    return {name: {"path": name, "engine": "openai", "server": where} for name in names}
