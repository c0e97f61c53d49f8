"""The search tool: what it finds among a few passages, and what it is as an arm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hcache.data.queries import Query
from hcache.engines import Generation, make_engine, request_for
from hcache.engines.search import best, tfidf
from hcache.errors import ConfigError, EngineError
from hcache.models.files import encoder_digest
from hcache.workflows import Message
from hcache.workflows.search import SearchSettings, with_content

PASSAGES = (
    "Paris: Paris is the capital of France.",
    "Rome: Rome is the capital of Italy.",
    "Iron: Iron is a metal, symbol Fe.",
)
QUERY = Query("Where?", (), passages=PASSAGES)


def find(text: str, query: Query = QUERY, **settings: Any) -> Generation:
    ask = SearchSettings(**settings).ask(query, text)
    engine = make_engine(ask.arm, False)
    engine.submit(request_for(ask, 0, ""))
    (generation,) = engine.step()
    engine.close()
    return generation


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("capital of Italy", 1),
        ("FE", 2),
        ("What is the capital of France?", 0),
        ("zinc", 0),  # nothing is like it: the first
        ("", 0),
        ("?!", 0),
    ],
)
def test_tfidf_finds_the_passage_most_like_the_text(text: str, place: int) -> None:
    generation = find(text)
    assert generation.text == PASSAGES[place]
    assert (generation.prompt_tokens, generation.output_tokens) == (0, 0)
    assert generation.finish_reason == "stop"


def test_top_gives_several_best_first() -> None:
    assert find("capital of Italy", top=2).text == f"{PASSAGES[1]}\n\n{PASSAGES[0]}"
    assert find("capital", top=9).text.count("\n\n") == 2


def test_of_equal_passages_the_first_is_found() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 2.0}
    found = best(list(scores), "x", lambda passages, text: np.array([*scores.values()]), 3)
    assert found == ["b", "c", "a"]


def test_without_passages_the_reply_is_empty() -> None:
    assert find("anything", Query("Where?", ())).text == ""
    assert find("anything", Query("Where?", (), passages=("...", ""))).text == "..."


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.text(max_size=30))
def test_tfidf_ranks_any_text_and_twice_alike(passages: list[str], text: str) -> None:
    scores = tfidf(passages, text)
    assert scores.shape == (len(passages),) and np.isfinite(scores).all()
    assert (scores == tfidf(passages, text)).all()


def test_passages_travel_in_the_messages() -> None:
    ask = SearchSettings().ask(QUERY, "capital")
    assert ask.messages == (
        *(Message("passage", passage) for passage in PASSAGES),
        Message("user", "capital"),
    )
    assert ask.role == "search"
    key = request_for(ask, 0, "").key
    assert key == request_for(SearchSettings().ask(QUERY, "capital"), 5, "").key
    other = Query("Where?", (), passages=PASSAGES[:2])
    assert key != request_for(SearchSettings().ask(other, "capital"), 0, "").key


def test_tool_is_what_it_finds_with_wherever_its_model_lies() -> None:
    def fingerprint(**settings: Any) -> str:
        return SearchSettings(**settings).arm().fingerprint

    model = {"method": "sentence-transformers"}
    here, there = (fingerprint(**model, path=path, content="1") for path in ("a", "b"))
    assert here == there
    others = [fingerprint(), fingerprint(top=2), fingerprint(**model, path="a", content="2")]
    assert len({here, *others}) == 4
    price = SearchSettings().arm().config.price
    assert (price.input, price.output) == (0, 0)


def test_path_goes_with_the_encoder() -> None:
    for settings in ({"method": "sentence-transformers"}, {"path": "x"}):
        with pytest.raises(ValidationError, match="goes with sentence-transformers"):
            SearchSettings.model_validate(settings)


def test_path_is_found_beside_the_experiment_and_read_once(tmp_path: Path) -> None:
    model = tmp_path / "encoder"
    (model / "pooling").mkdir(parents=True)
    (model / "pooling" / "config.json").write_text("{}")
    settings = {"method": "sentence-transformers", "path": "encoder"}
    filled = with_content(settings, tmp_path, "workflow.search")
    assert filled["path"] == str(model) and filled["content"] == encoder_digest(model)
    (model / "pooling" / "config.json").write_text("[]")
    assert encoder_digest(model) != filled["content"]
    moved = {**filled, "path": "moved away"}
    assert with_content(moved, tmp_path, "workflow.search") == moved
    with pytest.raises(ConfigError, match=r"workflow\.search\.path: nowhere does not exist"):
        with_content({**settings, "path": "nowhere"}, tmp_path, "workflow.search")


class FakeModel:
    """Its vectors say whether a text has an x."""

    def __init__(self, path: str, device: str, **how: object) -> None:
        self.path = path

    def encode(self, texts: list[str], **how: object) -> Any:
        """See `SentenceTransformer`."""
        return np.array([[1.0, 0.0] if "x" in text else [0.0, 1.0] for text in texts], "float32")


def test_sentence_encoder_ranks_by_cosine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = type(sys)("sentence_transformers")
    fake.SentenceTransformer = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    monkeypatch.setattr("hcache.engines.search.version", lambda package: "1")
    query = Query("Where?", (), passages=("a", "x1", "x2"))
    how = {"method": "sentence-transformers", "path": str(tmp_path)}
    assert find("box", query, **how).text == "x1"
    assert find("no", query, **how).text == "a"
    with pytest.raises(EngineError, match=r"workflow\.search\.path: .* does not exist"):
        find("x", query, **how | {"path": str(tmp_path / "none")})


def test_missing_package_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EngineError, match=r"not installed\. Install it with: pip install"):
        find("x", method="sentence-transformers", path=str(tmp_path))
