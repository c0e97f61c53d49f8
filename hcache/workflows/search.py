"""The search tool: an arm that finds passages of the query, asked besides those of the pool.

What it searches travels in the messages, so its replies are stored by content like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hcache.config.schema import ArmConfig, ModelConfig, Price
from hcache.data.queries import Query
from hcache.keys import digest
from hcache.models.arms import Arm
from hcache.models.files import encoder_digest, locate
from hcache.workflows.effects import Ask, Message

NAME = "search"


class SearchSettings(BaseModel):
    """Settings of the search tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["tfidf", "sentence-transformers"] = Field(
        "tfidf", description="what likeness of search text and passage is; tfidf needs no model"
    )
    path: str | None = Field(
        None, exclude=True, description="folder of a sentence-transformers model"
    )
    content: str = Field("", description="key of the model's files, filled in on reading")
    top: int = Field(1, ge=1, description="passages in a reply, the best first")

    @model_validator(mode="after")
    def _path_where_needed(self) -> SearchSettings:
        if (self.method == "sentence-transformers") != (self.path is not None):
            raise ValueError("`path`, the folder of a model, goes with sentence-transformers")
        return self

    def arm(self) -> Arm:
        """The tool as an arm: it has no price and, since it counts no tokens, no cost."""
        said = self.model_dump(mode="json")
        model = ModelConfig(
            path=self.path or "",
            engine="search",
            engine_args={"method": self.method, "top": self.top},
        )
        config = ArmConfig(model=NAME, price=Price(input=0, output=0))
        return Arm(NAME, NAME, Path(model.path), digest({"engine": NAME, **said}), model, config)

    def ask(self, query: Query, text: str) -> Ask:
        """A search among the passages of a query."""
        passages = tuple(Message("passage", passage) for passage in query.passages)
        return Ask(self.arm(), (*passages, Message("user", text)), role=NAME, verbatim=True)


def with_content(search: dict[str, Any], folder: Path, place: str) -> dict[str, Any]:
    """Settings as they stand in an experiment, with path and key of the model's files filled in.

    Raises:
        ConfigError: there is no such folder.
    """
    if search.get("content") or not isinstance(search.get("path"), str):
        return search
    found = locate(search["path"], folder, f"{place}.path")
    return {**search, "path": str(found), "content": encoder_digest(found)}
