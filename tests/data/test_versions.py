r"""The versions of extractors and metrics, pinned with what each makes of a table of replies.

A score is stored with its version, and made again only if the version is another one. So whoever
changes what an extractor or a metric makes of any text raises its number in `VERSIONS`, and then
writes the new row here.
"""

from __future__ import annotations

import json

import pytest

from hcache.data import extractors, metrics
from hcache.data.extractors import EXTRACTORS, extractor, version_of
from hcache.data.metrics import METRICS, RECORDED, score_many
from hcache.keys import digest
from hcache.plugins import Source

REPLIES = [
    "", "Paris", "A", "The The", "!!!", "B", "(B) Paris", "Answer: Paris", "Answer： Paris",
    "Line one\n\n  Line two ", "The answer is Paris.\nIt is.", "It is Paris.\n**Lyon**",
    "```python\n    return 1\n```", "<answer> Paris </answer>", '{"answer": "b"}',
    r"\boxed{\text{Paris}}", r"so \boxed{9{,}500} it is", "48 + 24 = 72\n#### 72",
    "The answer is 5, since 3 + 2 = 5.", "9 500", "2½ cups", "18 m^2", "10^3", "–5", "3:45",
    r"10\sqrt{2}", r"\frac{1}{2}", "1.5 × 10^3", "1/0", "H2O", "20%", "答案：B", "Answer: d",
    "Therefore, B is the correct answer.", "The answer is B, C is wrong.", "The answer is B or C.",
    "The answer to this question is C.", "yes", "no way", "<think>Lyon</think> B",
    "[THINK]Lyon[/THINK] 5", "◁think▷Lyon",
]  # fmt: skip
REFERENCES = {
    "f1": ["Paris", "A", "The The", "!!!", "no", "New York City"],
    "em": ["Paris", "A", "The The", "!!!", "no"],
    "numeric": ["5", "-5", "9500", "2.5", "18", "1000", "1/2", "1,500", "20", "72"],
    "choice": ["B", "C", "(d)"],
    "pass@1": ["said = r'''\n{answer}\n'''\nassert 'Paris' in said"],
}
# Version, and the digest of what it makes of the table
EXTRACTED = {
    "boxed": (3, "7046a56ecfc2"),
    "choice": (3, "b5992041faad"),
    "code": (3, "a296e958ab7b"),
    "last_line": (3, "3fff155a21ef"),
    "line": (3, "95f33f38aa7a"),
    "number": (3, "ab54ace83969"),
    "short": (3, "d52f19773870"),
    "text": (3, "9b09ea7e91f6"),
}
SCORED = {
    "choice": (3, "454553255454"),
    "em": (2, "e5dd05d33781"),
    "f1": (2, "d549de97e398"),
    "numeric": (3, "772c1fe91d84"),
    "pass@1": (2, "ad2f4df517b2"),
}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_answers_of_an_extractor_belong_to_its_version(name: str) -> None:
    made = digest([extractor(name)(reply) for reply in REPLIES])[:12]
    assert (extractors.VERSIONS.get(name, 1), made) == EXTRACTED[name], (
        f"the extractor {name!r} has changed: raise its version and pin the new row"
    )


@pytest.mark.parametrize("name", [name for name in METRICS if name != RECORDED])
def test_scores_of_a_metric_belong_to_its_version(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_allowed", True)
    pairs = [(reply, [reference]) for reference in REFERENCES[name] for reply in REPLIES]
    made = digest([json.dumps(score) for score in score_many(name, *zip(*pairs, strict=True))])[:12]
    assert (metrics.VERSIONS.get(name, 1), made) == SCORED[name], (
        f"the metric {name!r} has changed: raise its version and pin the new row"
    )


@pytest.mark.parametrize(
    ("extract", "metric", "version"),
    [
        ("text", "f1", "text-3/f1-2"),
        ("number", "numeric", "number-3/numeric-3"),
        ("boxed", "em", "boxed-3/em-2"),
    ],
)
def test_version_names_both(extract: str, metric: str, version: str) -> None:
    assert version_of(extract, metric) == version


def test_version_of_what_comes_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("own.py", "abc")
    monkeypatch.setitem(METRICS.entries, "own", lambda answer, references: 0.5)
    monkeypatch.setattr(METRICS, "source", lambda name: source if name == "own" else None)
    outside = digest(["", "abc"])[:12]
    assert version_of("number", "own") == f"number-3/{outside}"


def test_first_versions_need_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (extractors, metrics):
        monkeypatch.setattr(module, "VERSIONS", {})
    assert version_of("text", "f1") == ""
