"""Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, hosted APIs.

What such a server's weights are cannot be known: identity is the name that its replies give, with
the settings of the arm; endpoint and system fingerprint are provenance of each reply. Keys come
from the environment and go nowhere else. See docs/servers.md.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version

from pydantic import JsonValue

from hcache.config.schema import ModelConfig
from hcache.config.server import base_url
from hcache.engines.base import ENGINES, Generation, Request
from hcache.engines.chat import chat_body, generation_of, too_long
from hcache.engines.transport import Answer, Transport, is_loopback
from hcache.errors import ArmError, ConfigError, EngineError, RequestError
from hcache.models.arms import Arm

WAIT_SECONDS = 0.01  # that a step waits for a reply at most
OPENAI = "https://api.openai.com/v1"
OF_THE_ARM = {  # fields of a request, and the setting that each follows
    "model": "models.M.path", "messages": "the workflow", "n": "sampling.replicas",
    "stream": "nothing", "stop": "arms.A.stop", "max_tokens": "arms.A.max_tokens",
    "max_completion_tokens": "arms.A.max_tokens", "temperature": "arms.A.temperature",
    "top_p": "arms.A.top_p", "seed": "arms.A.seed", "logprobs": "sampling.logprobs",
    "chat_template_kwargs": "models.M.chat_template_args",
}  # fmt: skip
OMISSIBLE = frozenset({"temperature", "top_p", "seed"})  # null leaves them out: not all take them
HARMLESS = frozenset({"return_token_ids", "user", "store", "metadata", "service_tier"})
"""Fields of a request that change no reply."""


@ENGINES.register("openai")
class OpenaiEngine:
    """Asks a server for the replies of all arms of one model."""

    files: tuple[str, ...] = ()  # the name of a model is no file

    def __init__(self, arm: Arm, logprobs: bool) -> None:
        """Find the endpoints and the key; nothing is sent yet.

        Raises:
            EngineError: there is no endpoint, or no key for one that is not on this machine.
        """
        self.model, self.logprobs = arm.model, logprobs
        self.name = arm.model_config.path
        self.server = arm.model_config.at_server
        urls = _endpoints(self.model, arm.model_config)
        key = _key(self.model, arm.model_config, urls)
        try:
            self.transport = Transport(urls, key, self.server)
        except (ValueError, ImportError, OSError) as error:  # not repeated: it may hold a password
            raise EngineError(
                f"models.{self.model}: the proxy or the certificates of the environment cannot be "
                f"used ({type(error).__name__}).",
                "Correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE, or unset them.",
            ) from None
        self.requests: dict[str, Request] = {}
        self.answered: set[str] = set()  # arms that have had a reply
        self.refused: dict[str, ArmError] = {}  # arms that never had one, and why
        self.troubles: deque[EngineError] = deque()  # to be raised, one a step
        self.replies = 0
        self.replies_before: dict[str, int] = {}  # each request was submitted
        self.provenance = {"engine": "openai", "asked": self.name, "httpx": version("httpx")}

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: no more than the name of the model can be known.

        Raises:
            ConfigError: a setting that a server would not hear of, or that the arm has.
        """
        for name in ("chat_template", "adapter", "quantization"):
            if getattr(model, name) is not None:
                raise ConfigError(
                    f"{place}.{name}: it is the server that has the model.",
                    "Set it there, give that model a name of its own, and take it out here.",
                )
        for name, value in model.engine_args.items():
            if name in OF_THE_ARM and not (value is None and name in OMISSIBLE):
                raise ConfigError(
                    f"{place}.engine_args.{name}: follows {OF_THE_ARM[name]}.", "Take it out here."
                )
        return {
            "weights": "endpoint-reported model",
            "model": model.served_name,
            "engine": "openai",
        }

    @staticmethod
    def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """See `EngineType`: all but those known to change nothing that is said."""
        return {name: value for name, value in arguments.items() if name not in HARMLESS}

    @staticmethod
    def check(request: Request) -> None:
        """See `EngineType`: only the server can tell."""

    @staticmethod
    def memory(model: ModelConfig) -> None:
        """See `EngineType`: the server has the model."""

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> OpenaiEngine:
        """See `EngineType`."""
        return OpenaiEngine(arm, logprobs)

    def submit(self, request: Request) -> None:
        """See `Engine`. It never waits.

        Raises:
            ArmError: the server has refused all that this arm has asked.
        """
        if (error := self.refused.get(request.arm.id)) is not None:
            raise error
        self.requests[request.key] = request
        self.replies_before[request.key] = self.replies
        self.transport.send(request.key, chat_body(request, self.logprobs))

    def step(self) -> list[Generation]:
        """See `Engine`. What has failed is raised once nothing else is there to be taken."""
        idle = not self.requests or bool(self.troubles)
        finished: list[Generation] = []
        for answer in self.transport.take(0 if idle else WAIT_SECONDS):
            request = self.requests.pop(answer.key, None)
            if request is None:  # dropped, yet answered
                continue
            try:
                finished.append(self._generation(request, answer))
            except EngineError as error:
                self.troubles.append(error)
        if finished or not self.troubles:
            return finished
        raise self.troubles.popleft()

    def abort(self) -> None:
        """See `Engine`."""
        self.transport.abort()
        self.requests.clear()
        self.troubles.clear()

    def close(self) -> None:
        """See `Engine`."""
        self.transport.close()

    def _generation(self, request: Request, answer: Answer) -> Generation:
        facts = {"endpoint": answer.url}
        before = self.replies_before.pop(request.key)
        if answer.overflow:
            return too_long(request, facts)
        if answer.completion is None:
            raise self._trouble(request, answer, before)
        generation = generation_of(request, answer.completion, answer.seconds, facts)
        self.replies += 1
        self.answered.add(request.arm.id)
        return generation

    def _trouble(self, request: Request, answer: Answer, before: int) -> EngineError:
        """The error of a request without a reply: of the server, of its arm, or of it alone."""
        place, url = f"models.{self.model}", answer.url
        if answer.status in (401, 403):
            given = (
                f"the key in {self.server.api_key_env}" if self.transport.key else "without a key"
            )
            return EngineError(
                f"{place}: {url} refuses {given} (status {answer.status}).",
                f"Set {self.server.api_key_env} to a key that may use {self.name}.",
            )
        if answer.status == 404:
            return EngineError(
                f"{place}: {url} does not serve {self.name} ({answer.words}).",
                f"Set {place}.path to a model of its list ({url}/models), or correct "
                f"{place}.server.endpoints.",
            )
        if answer.status == 0 or answer.status == 429 or answer.status >= 500:
            return self._no_reply(request, answer, alone=self.replies > before)
        return self._no(request, answer)

    def _no_reply(self, request: Request, answer: Answer, alone: bool) -> EngineError:
        """It was tried in vain, while others had replies (`alone`) or had none."""
        status = f"status {answer.status}, " if answer.status else ""
        if alone:
            return RequestError(
                f"models.{self.model}: requests stay without a reply from {answer.url} "
                f"({status}{answer.words}).",
                "Run the same command again; raise server.timeout or server.retries.",
                request.key,
            )
        return EngineError(
            f"models.{self.model}: no reply from {answer.url} ({status}{answer.words}).",
            "See that it runs there and has quota, or correct "
            f"models.{self.model}.server.endpoints (or OPENAI_BASE_URL). Then run the same "
            "command again: what was finished is kept.",
        )

    def _no(self, request: Request, answer: Answer) -> EngineError:
        """The server will not answer it; an arm that it never answers is not asked further."""
        arm = request.arm
        if arm.id not in self.answered:
            self.refused[arm.id] = ArmError(
                f"arms.{arm.name}: {answer.url} refuses what it asks (status {answer.status}, "
                f"{answer.words}).",
                f"Change the settings of the arm, or models.{self.model}.engine_args, where null "
                f"leaves out {', '.join(sorted(OMISSIBLE))}.",
            )
        return RequestError(
            f"arms.{arm.name}: {answer.url} refuses a prompt (status {answer.status}, "
            f"{answer.words}).",
            "It stays missing; leave the question out, or ask another model.",
            request.key,
        )


def _endpoints(name: str, model: ModelConfig) -> tuple[str, ...]:
    """The base URLs of a model's server, else that of the environment.

    Raises:
        EngineError: there is none, or that of the environment is none.
    """
    if model.at_server.endpoints:
        return model.at_server.endpoints
    if not (url := os.environ.get("OPENAI_BASE_URL", "")):
        raise EngineError(
            f"models.{name}.server.endpoints: missing, and OPENAI_BASE_URL is not set.",
            f"Set one of them, such as {OPENAI} or http://127.0.0.1:8000/v1",
        )
    try:
        return (base_url(url),)
    except ValueError as error:
        raise EngineError(f"OPENAI_BASE_URL {error}.", f"Set it to one, such as {OPENAI}") from None


def _key(name: str, model: ModelConfig, urls: tuple[str, ...]) -> str:
    """The key in the environment; none is needed on this machine.

    Raises:
        EngineError: it is not there, or cannot be sent.
    """
    variable = model.at_server.api_key_env
    key = os.environ.get(variable, "").strip()
    if not key and not all(map(is_loopback, urls)):
        raise EngineError(
            f"models.{name}: {variable} is not set.",
            "Set it to the key of the server, to any word where it asks for none; another name: "
            f"models.{name}.server.api_key_env",
        )
    if not (key.isascii() and key.isprintable()):
        raise EngineError(
            f"models.{name}: what {variable} holds is no key.", "Set it to the key alone."
        )
    return key
