"""Every stored call as a request of OpenAI's batch form, to be asked again elsewhere.

What was sampled goes out with its settings; of calls that others have recorded the settings are not
known, so that they are the server's. The `custom_id` is the key of the generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from hcache.config.schema import ExperimentConfig
from hcache.engines import Request
from hcache.engines.chat import chat_body
from hcache.engines.recorded import NAME as RECORDED_ENGINE
from hcache.errors import ConfigError, StoreError
from hcache.exports.selection import EXPORTERS, Export, Selection, messages_of
from hcache.models.arms import Arm
from hcache.sampling.batches import request_line
from hcache.workflows import Message


@EXPORTERS.register("batch")
def batch(selection: Selection, out: Path) -> Export:
    """A request a line, of each generation once; a batch of OpenAI's own is for one model."""
    selection.require_questions("batch")
    if out.suffix != ".jsonl":
        raise ConfigError(f"{out}: a batch is a file of JSON lines.", "Give a name in .jsonl.")
    calls = selection.calls(selection.outcomes())
    calls = calls.unique("generation_id", keep="first", maintain_order=True)
    lines = [
        request_line(row["generation_id"], body)
        for row in calls.sort("arm", "generation_id").iter_rows(named=True)
        if (body := _body(row, selection.config)) is not None
    ]
    if not lines:
        raise StoreError(
            f"{selection.store.path}: of no call of {selection.experiment} is the prompt known.",
            "Choose another experiment with --experiment.",
        )
    left = len(calls) - len(lines)
    notes = (f"{left} calls left out, whose prompt is not known",) if left else ()
    return Export(b"".join(lines), f"{len(lines)} requests of {selection.experiment}", notes)


def _body(row: Mapping[str, Any], config: ExperimentConfig) -> dict[str, JsonValue] | None:
    """The body of the request that a call was; None where its prompt is not known."""
    arm = config.arms[row["arm"]]
    model = config.models[arm.model]
    messages = messages_of(row["messages"])
    if not messages or model.low_rank is not None:  # weights of its own, which no server has
        return None
    if model.engine == RECORDED_ENGINE:
        return {"model": model.path, "messages": [{**message} for message in messages]}
    if not model.remote:  # arguments of an engine in process are none of a request
        model = model.model_copy(update={"engine_args": {}})
    asked = Arm(row["arm"], arm.model, Path(model.path), "", model, arm)
    said = tuple(Message(**message) for message in messages)
    request = Request(row["generation_id"], asked, said, row["messages_id"], row["sample"])
    return chat_body(request, config.sampling.logprobs)
