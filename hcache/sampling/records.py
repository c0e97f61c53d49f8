"""Finished generations as records of the spool, as rows of tables, and as replies again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from hcache.engines import Engine, Generation, Request
from hcache.keys import canonical, digest_text, well_formed
from hcache.sampling.enumerator import Reply
from hcache.store import Store

UNKNOWN = {"thinking": False, "prompt_key": "", "reasoning_tokens": 0}
"""Fields that records of an older version lack."""


def record_of(request: Request, generation: Generation, engine: Engine) -> dict[str, Any]:
    """A finished generation as it stands in the spool."""
    provenance = _provenance((*engine.provenance.items(), *generation.facts))
    return {
        "generation_id": generation.key,
        "fingerprint": request.arm.fingerprint,
        "messages_id": request.messages_key,
        "messages": canonical([message._asdict() for message in request.messages]),
        "sample": request.sample,
        "text": generation.text,
        "token_ids": generation.token_ids,
        "prompt_tokens": generation.prompt_tokens,
        "output_tokens": generation.output_tokens,
        "cached_tokens": generation.cached_tokens,
        "finish_reason": generation.finish_reason,
        "logprobs": generation.logprobs,
        "seconds": generation.seconds,
        "provenance_id": digest_text(provenance),
        "provenance": provenance,
        "created": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "thinking": generation.thinking,
        "prompt_key": generation.prompt_key,
        "reasoning_tokens": generation.reasoning_tokens,
    }


@lru_cache(maxsize=256)  # of an engine it is the same for nearly all
def _provenance(facts: tuple[tuple[str, str], ...]) -> str:
    return canonical(dict(facts))


def tables_of(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of the spool as rows of tables."""
    generations = [
        UNKNOWN
        | {name: value for name, value in record.items() if name not in ("messages", "provenance")}
        | {"created": datetime.fromisoformat(record["created"])}
        | {"text": well_formed(record["text"])}  # a spool of an older version may hold any
        for record in records
    ]
    messages = [
        {"messages_id": r["messages_id"], "messages": well_formed(r["messages"])} for r in records
    ]
    facts = {record["provenance_id"]: record["provenance"] for record in records}
    provenance = [{"provenance_id": key, "facts": value} for key, value in facts.items()]
    return {"generations": generations, "messages": messages, "provenance": provenance}


def replies_of(db: Path, keys: Collection[str]) -> dict[str, Reply]:
    """The replies that a database holds of some generations, by key."""
    if not keys:
        return {}
    with Store(db) as store:
        frame = store.match("generations", pl.DataFrame({"generation_id": list(keys)}))
    columns = frame.select("generation_id", *Reply.__dataclass_fields__)
    return {key: Reply(*rest) for key, *rest in columns.iter_rows()}
