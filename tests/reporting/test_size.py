"""A page that can be sent and opened, however long texts are and however many kinds there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.experiments import load, settings, write_script
from helpers.reports import short_runs

from hcache.data.visible import visible
from hcache.evaluation.groups import MOST
from hcache.evaluation.report import Report
from hcache.experiment import Experiment
from hcache.reporting import write_report
from hcache.reporting.page import TEXTS
from hcache.sampling import Sampler

MOST_BYTES = 3_000_000
ACTING = "\x1b]0;title\x07 \u202e \x00 \u2066 \ufeff \uffff \U000e0041"
UGLY = "<&>\"' 🙂 \x1b\u202e"  # characters that take most bytes in a page


def experiment_of(folder: Path, reply: str, question: str, kinds: int, hops: int) -> Experiment:
    for arm in "ab":
        write_script(folder, arm, [["(?s)^.*$", f"{arm} {reply}"]])
    for split, count in {"train": 4, "valid": 2, "test": max(8, kinds)}.items():
        rows = [
            {
                "question": f"{split}{number} {question}",
                "answer": ("a", "b")[number % 2],
                "kind": f"kind {number % kinds} {question}"[:2_000],
            }
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = settings("ab", runs=str(folder / "runs"))
    raw |= {"name": "small", "workflow": {"name": "relay", "hops": hops}}
    experiment = load(folder, raw)
    Sampler(experiment).run()
    return experiment


def report_of(experiment: Experiment, out: Path) -> tuple[Report, str, str]:
    report = write_report(experiment, short_runs(experiment)[:1], out)
    return report, (out / "index.html").read_text(), (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("reply", "question", "kinds", "hops"),
    [
        (UGLY * 2_000, UGLY * 2_000, 6, 2),
        ("x" * 100_000, "why?", 2, 1),
        ("short", UGLY * 100, MOST + 5, 1),
    ],
)  # fmt: skip
def test_the_page_stays_small(
    tmp_path: Path, reply: str, question: str, kinds: int, hops: int
) -> None:
    experiment = experiment_of(tmp_path, reply, question, kinds, hops)
    report, page, markdown = report_of(experiment, tmp_path / "report")
    assert len(page.encode()) < MOST_BYTES and len(markdown.encode()) < MOST_BYTES
    if len(reply) * 12 > TEXTS:
        assert "characters left out; see hcache show" in page
        assert "characters left out; see hcache show" in markdown
    if kinds > MOST:
        assert sum(group.by == "kind" for group in report.groups) == MOST
        said = f"Of {kinds} kinds the {MOST} with most queries have tables of their own."
        assert said in report.notes and said in page and said in markdown


def test_controls_are_shown_and_do_nothing(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, ACTING, ACTING, 2, 1)
    _, page, markdown = report_of(experiment, tmp_path / "report")
    written_out = "\\x1b]0;title\\x07 \\u202e \\x00 \\u2066 \\ufeff \\uffff \\U000e0041"
    for text in (page, markdown):
        assert visible(text) == text
        assert written_out in text.replace("\\\\", "\\").replace("\\]", "]")
