"""The search engine: replies with the passages of a request that are most like its last message.

Likeness is the cosine of TF-IDF vectors, fitted to the passages of the request, or that of a
sentence encoder. Something is always found: of passages that are equally like the text, the first.
Where there are no passages the reply is "". It counts no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hcache.config.schema import ModelConfig
from hcache.engines.base import ENGINES, Generation, QueueEngine, Request
from hcache.errors import ConfigError, EngineError
from hcache.models.arms import Arm
from hcache.models.sentence import load_sentence_encoder

Scores = npt.NDArray[np.float64]
Ranker = Callable[[Sequence[str], str], Scores]
"""(passages, text) to how like the text each passage is."""

SEPARATOR = "\n\n"  # between passages of a reply


@ENGINES.register("search")
class SearchEngine(QueueEngine):
    """Serves the search tool of a workflow."""

    def __init__(self, arm: Arm) -> None:
        """Load the model of `arm`, if its method has one.

        Raises:
            EngineError: a package or the model is missing.
        """
        super().__init__()
        settings = arm.model_config.engine_args
        method, self.top = str(settings["method"]), int(str(settings["top"]))
        self.likeness: Ranker = tfidf if method == "tfidf" else _sentence_encoder(arm.path)
        package = "scikit-learn" if method == "tfidf" else "sentence-transformers"
        self.provenance = {"engine": "search", "method": method, package: version(package)}

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: a workflow makes the arm of its tool itself."""
        raise ConfigError(
            f"{place}.engine: search is no model.",
            "Name the engine of a model; search is a tool of some workflows: workflow.search.",
        )

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> SearchEngine:
        """See `EngineType`."""
        return SearchEngine(arm)

    def reply(self, request: Request) -> Generation:
        """See `QueueEngine`."""
        *passages, text = (message.content for message in request.messages)
        found = best(passages, text, self.likeness, self.top)
        return Generation(request.key, SEPARATOR.join(found), (), 0, "stop")


def best(passages: Sequence[str], text: str, likeness: Ranker, top: int) -> list[str]:
    """The `top` passages most like the text, the best first; the earlier of equals first."""
    if not passages:
        return []
    order = np.argsort(-likeness(passages, text), kind="stable")
    return [passages[place] for place in order[:top]]


def tfidf(passages: Sequence[str], text: str) -> Scores:
    """Cosines of TF-IDF vectors; stop words stay, since a name may be made of them."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"\b\w+\b", sublinear_tf=True)
    try:
        vectors = vectorizer.fit_transform(passages)
    except ValueError:  # no word in any of them
        return np.zeros(len(passages))
    likeness: Scores = (vectors @ vectorizer.transform([text]).T).toarray()[:, 0]
    return likeness


def _sentence_encoder(path: Path) -> Ranker:
    try:
        encode = load_sentence_encoder(path, "workflow.search.path")
    except ConfigError as error:  # the sampler gives up this engine and goes on with the others
        raise EngineError(error.message, error.hint) from error

    def likeness(passages: Sequence[str], text: str) -> Scores:
        vectors = encode([*passages, text])
        cosines: Scores = (vectors[:-1] @ vectors[-1]).astype(np.float64)
        return cosines.round(6)  # a batch leaves noise on equal passages

    return likeness
