"""A plug-in for tests: the scripted engine as one that loads a model, and so runs in workers.

A model's `engine_args` say how it behaves, none of which is identity:

- `bytes`: what it says that it needs;
- `budget`: a folder of ledgers, in which each engine enters what it has been given of its device,
  and refuses to load where that comes to more than there is;
- `dies`: a folder; every time a request of its is begun whose question has a file there, a number,
  the number goes down by one, and the process kills itself;
- `slow`: seconds that each step takes;
- `refuses`: a word; a request that has it is refused with an ArmError;
- `silent`: a word; a request that has it stays without a reply, which is a RequestError of `step`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from hcache.config.schema import ModelConfig
from hcache.engines import ENGINES, Generation, Request, ScriptedEngine
from hcache.engines.memory import Memory
from hcache.engines.scripted import read_script
from hcache.errors import ArmError, EngineError, RequestError
from hcache.models.arms import Arm


@ENGINES.register("weighty")
class Weighty(ScriptedEngine):
    """See above."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(read_script(arm.path), batch=8)
        self.how: dict[str, Any] = dict(arm.model_config.engine_args)
        self.provenance = {"engine": "weighty", "process": str(os.getpid())}
        if error := self.how.get("error"):
            raise {"memory": MemoryError("no room"), "engine": EngineError("no.", "Yes.")}[error]
        if ledgers := self.how.get("budget"):
            _enter(Path(ledgers), arm)

    @staticmethod
    def memory(model: ModelConfig) -> Memory | None:
        """See `EngineType`."""
        return Memory(int(str(model.engine_args.get("bytes", 1))), 0)

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> Weighty:
        """See `EngineType`."""
        return Weighty(arm)

    def submit(self, request: Request) -> None:
        """See `Engine`."""
        if (word := self.how.get("refuses")) and word in request.question:
            raise ArmError(f"arms.{request.arm.name}: it will not.", "Ask another.")
        super().submit(request)

    def step(self) -> list[Generation]:
        """See `Engine`."""
        time.sleep(self.how.get("slow", 0))
        if word := self.how.get("silent"):
            for request in [each for each in self.queue if word in each.question]:
                self.queue.remove(request)
                raise RequestError("no reply.", "Ask another.", request.key)
        return super().step()

    def reply(self, request: Request) -> Generation:
        """See `QueueEngine`."""
        if dies := self.how.get("dies"):
            _perhaps_die(Path(dies) / request.question)
        return super().reply(request)


def _perhaps_die(file: Path) -> None:
    try:
        left = int(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if left > 0:
        file.write_text(str(left - 1), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)


def _enter(ledgers: Path, arm: Arm) -> None:
    """Enter an engine's share of each of its devices, unless they come to more than there is."""
    share = float(str(arm.model_config.engine_args["gpu_memory_utilization"]))
    need = int(str(arm.model_config.engine_args["bytes"]))
    visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    assert len(visible) == arm.model_config.engine_args["tensor_parallel_size"]
    for device in visible:
        memory = int((ledgers / device).read_text(encoding="utf-8"))
        if share * memory * len(visible) < need:
            raise EngineError(f"{arm.model}: {share} of GPU {device} is too little.", "More.")
        with (ledgers / f"{device}.taken").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {share}\n")
        entries = (ledgers / f"{device}.taken").read_text(encoding="utf-8").split("\n")[:-1]
        taken = sum(float(line.split()[1]) for line in entries if _lives(line.split()[0]))
        if taken > 1:
            raise EngineError(f"{arm.model}: out of memory on GPU {device} ({taken}).", "More.")


def _lives(pid: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
