"""vLLM in process: one engine per checkpoint, requests streamed in and out step by step.

Prompts are rendered from messages with the model's chat template and tokenised here; output ids
are decoded here too and never spliced into a prompt. On a CPU the engine is quick and repeatable
with one thread, eager mode and small cache blocks (https://docs.vllm.ai, "CPU").
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from hcache.config.schema import ModelConfig
from hcache.engines.base import (
    ENGINES,
    MODEL_FILES,
    TOO_LONG,
    Generation,
    Prompt,
    Request,
    as_said,
    render,
)
from hcache.engines.devices import has_gpu
from hcache.engines.memory import Memory, checkpoint_memory
from hcache.engines.rendering import check_rendering, rendering
from hcache.engines.vllm_arguments import check_arguments, rank_for, reply_arguments
from hcache.engines.vllm_errors import WRONG_SETTING, hint_for, reasons
from hcache.errors import ArmError, EngineError, HcacheError
from hcache.keys import canonical
from hcache.models.arms import Arm
from hcache.models.files import checkpoint_content

QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
CPU_ONLY = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
CPU_ARGS = {
    "enforce_eager": True,
    "block_size": 32,
    "max_num_seqs": 128,
    "kv_cache_memory_bytes": 512 * 1024**2,
    # A prompt that is cut in two makes vLLM wind the generator of a seeded request back, which the
    # CPU's cannot do ("CPU Generator does not use offset"). Whole prompts are as fast.
    "enable_chunked_prefill": False,
}
NOTHING: Mapping[str, Any] = MappingProxyType({})
SECRETS = ("KEY", "TOKEN", "SECRET", "PASS", "AUTH", "CREDENTIAL")  # in names: values stay out
ENVIRONMENT = {  # variables that vLLM reads, as the user set them; it adds some of its own later
    name: value
    for name, value in os.environ.items()
    if name.startswith("VLLM_") and not any(word in name for word in SECRETS) and "@" not in value
}
BATCH_TOKENS = 4096  # most tokens of a step on a CPU; a prompt has to fit


def prepare_environment() -> None:
    """Settings that vLLM reads at import; what the user has set stays."""
    for name, value in (QUIET if has_gpu() else QUIET | CPU_ONLY).items():
        os.environ.setdefault(name, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices that vLLM and its parts give while they are imported and loaded."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


class CheckpointType:
    """Common part of engines of checkpoints that take vLLM's arguments, see `EngineType`."""

    files: tuple[str, ...] = MODEL_FILES

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: weights, tokenizer, templates and configuration, and the adapter."""
        check_arguments(model, place)
        return checkpoint_content(model, place)

    @staticmethod
    def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """See `EngineType`: all but those known to change nothing that is said."""
        return reply_arguments(arguments)

    @staticmethod
    def check(request: Request) -> None:
        """See `EngineType`: prompts are rendered with the chat template."""
        check_rendering(request)

    @staticmethod
    def memory(model: ModelConfig) -> Memory:
        """See `EngineType`."""
        return checkpoint_memory(model)


@ENGINES.register("vllm")
class VllmEngine(CheckpointType):
    """A checkpoint in vLLM, serving every arm that uses it."""

    def __init__(self, arm: Arm, logprobs: bool, further: Mapping[str, Any] = NOTHING) -> None:
        """Load the checkpoint of `arm`, with further arguments of vLLM's.

        Raises:
            EngineError: vLLM is not installed, or cannot load the checkpoint.
        """
        prepare_environment()
        try:
            with _quiet():
                import torch
                import vllm
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported ({error}).",
                "Install it with `make setup`; `hcache doctor` says what is missing.",
            ) from error
        self._vllm = vllm
        self.logprobs = logprobs
        self.window = arm.model_config.max_model_len
        self.model_config = arm.model_config
        self.model = arm.model
        self.queued: deque[Request] = deque()  # not yet given to vLLM
        self.requests: dict[str, tuple[Request, Prompt, float]] = {}
        self.refused: list[Generation] = []
        self.failed: EngineError | None = None
        arguments = _arguments(arm, further)
        try:
            with _quiet():
                self.llm: Any = vllm.LLM(**arguments)
                self.tokenizer: Any = self.llm.get_tokenizer()
                self.lora = self._loaded_adapter(arm)
        except Exception as error:  # vLLM raises whatever its parts raise
            raise EngineError(
                f"models.{arm.model}: vLLM cannot load {arm.path} ({reasons(error)}).",
                hint_for(error, arm.model, self.model_config),
            ) from error
        self.provenance = {
            "engine": "vllm",
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "eager": str(arguments.get("enforce_eager", False)),
            "arguments": canonical(arguments),
            "environment": canonical(ENVIRONMENT),
        }

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> VllmEngine:
        """See `EngineType`."""
        return VllmEngine(arm, logprobs)

    def render(self, requests: Iterable[Request]) -> list[Prompt]:
        """The prompts of some requests."""
        return render(self.tokenizer, [each.messages for each in requests], self.model_config)

    def lora_request(self, request: Request) -> Any:
        """The adapter that a request is answered with, if any."""
        return self.lora

    def submit(self, request: Request) -> None:
        """See `Engine`: it is rendered in the next step, with all that are queued by then."""
        self._must_run()
        self.queued.append(request)

    def _add_queued(self) -> None:
        """Give vLLM what is queued.

        Raises:
            ArmError: a prompt cannot be rendered, or vLLM refuses the settings of an arm; `request`
                says of which, and the rest stays queued.
            EngineError: the engine has failed.
        """
        try:
            while self.queued:
                for prompt in self._prompts():
                    self._add(self.queued[0], prompt)
                    self.queued.popleft()
        except ArmError as error:
            error.request = self.queued.popleft().key
            raise
        except HcacheError:
            raise
        except Exception as error:  # vLLM raises whatever its parts raise
            raise self._fail(error) from error

    def _prompts(self) -> list[Prompt]:
        """The prompts of all that are queued; of the first alone where one cannot be rendered."""
        try:
            return self.render(self.queued)
        except Exception:  # whatever a template raises: it is told when that one is the first
            first = self.queued[0]
            with rendering(first):
                return self.render([first])

    def _add(self, request: Request, prompt: Prompt) -> None:
        """Give vLLM a request. A prompt that leaves no room for a reply is answered at once."""
        ids = prompt.ids
        if not ids or len(ids) >= self.window:
            refused = Generation(request.key, "", (), len(ids), TOO_LONG, prompt_key=prompt.key)
            self.refused.append(refused)
            return
        lora = self.lora_request(request)
        self.requests[request.key] = (request, prompt, time.perf_counter())
        try:
            self.llm.llm_engine.add_request(
                request.key,
                {"prompt_token_ids": ids},
                self._sampling(request, self.window - len(ids)),
                lora_request=lora,
            )
        except WRONG_SETTING as error:  # of this request: it did not get as far as the model
            del self.requests[request.key]
            raise ArmError(
                f"arms.{request.arm.name}: vLLM refuses its settings ({reasons(error)}).",
                f"Change them, or those of models.{self.model}.",
            ) from error

    def _sampling(self, request: Request, room: int) -> Any:
        """Sampling parameters of a reply; `room` is the number of tokens left by the window."""
        config = request.arm.config
        return self._vllm.SamplingParams(
            max_tokens=min(config.max_tokens, room),
            temperature=config.temperature,
            top_p=config.top_p if config.temperature > 0 else 1.0,
            seed=request.seed if config.temperature > 0 else None,
            stop=list(config.stop) or None,
            logprobs=0 if self.logprobs else None,
            detokenize=bool(config.stop),
            skip_special_tokens=False,  # a text of `stop` may hold one
        )

    def step(self) -> list[Generation]:
        """See `Engine`."""
        self._must_run()
        self._add_queued()
        finished, self.refused = self.refused, []
        if not self.requests:
            return finished
        try:
            outputs = self.llm.llm_engine.step()
        except Exception as error:  # out of memory, a dead worker: the engine is gone
            raise self._fail(error) from error
        return finished + [self._generation(output) for output in outputs if output.finished]

    def abort(self) -> None:
        """See `Engine`."""
        if self.failed is None:
            engine = self.llm.llm_engine
            engine.abort_request(list(engine.output_processor.request_states), internal=True)
        self.queued.clear()
        self.requests.clear()
        self.refused.clear()

    def close(self) -> None:
        """See `Engine`."""
        del self.llm

    def _must_run(self) -> None:
        """vLLM is not asked again once it has failed: it may hang, or answer as if it had not."""
        if self.failed is not None:
            raise self.failed

    def _fail(self, error: Exception) -> EngineError:
        self.queued.clear()
        self.requests.clear()
        hint = hint_for(error, self.model, self.model_config)
        if not isinstance(error, WRONG_SETTING):  # out of memory, a dead worker: may pass
            hint += " Then run the same command again: what was finished is kept."
        self.failed = EngineError(f"models.{self.model}: vLLM failed ({reasons(error)}).", hint)
        return self.failed

    def _loaded_adapter(self, arm: Arm) -> Any:
        """The adapter of a model, if any; loaded at once, so that a fault of its is found now."""
        if arm.model_config.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        lora = LoRARequest("adapter", 1, arm.model_config.adapter)
        self.llm.llm_engine.add_lora(lora)
        return lora

    def _generation(self, output: Any) -> Generation:
        request, prompt, since = self.requests.pop(output.request_id)
        completion = output.outputs[0]
        ids = tuple(completion.token_ids)
        logprobs = None
        if completion.logprobs is not None:
            logprobs = tuple(
                entry[token].logprob for token, entry in zip(ids, completion.logprobs, strict=True)
            )
        return Generation(
            request.key,
            self._text(completion),
            ids,
            len(prompt.ids),
            completion.finish_reason,
            output.num_cached_tokens or 0,
            logprobs,
            time.perf_counter() - since,
            prompt.thinking,
            prompt.key,
        )

    def _text(self, completion: Any) -> str:
        """Text of a reply; vLLM knows where a text of `stop` begins, which token ended a turn."""
        if isinstance(completion.stop_reason, str):
            text: str = completion.text
            return text
        ids = tuple(completion.token_ids)
        return as_said(self.tokenizer, ids, ids[-1:] if completion.finish_reason == "stop" else ())


def _arguments(arm: Arm, further: Mapping[str, Any]) -> dict[str, Any]:
    config = arm.model_config
    arguments: dict[str, Any] = {
        "model": str(arm.path),
        "dtype": config.dtype,
        "quantization": config.quantization,
        "max_model_len": config.max_model_len,
        "seed": 0,
        "use_tqdm_on_load": False,
        "enable_lora": config.adapter is not None,
    }
    if config.adapter is not None:
        arguments["max_lora_rank"] = rank_for(Path(config.adapter), f"models.{arm.model}")
    batch = {"max_num_batched_tokens": max(BATCH_TOKENS, config.max_model_len)}
    machine = {} if has_gpu() else CPU_ARGS | batch
    return {**arguments, **machine, **further, **config.engine_args}
