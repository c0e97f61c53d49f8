"""Reports: whole, safe against what models and data say, and true to the store."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from helpers.reports import (
    ARMS,
    COMMAND,
    HOSTILE,
    Written,
    hostile_experiment,
    hostile_report,
    short_runs,
)
from matplotlib.figure import Figure
from matplotlib.text import Text
from typer.testing import CliRunner

from hcache.commands.app import app
from hcache.data.visible import visible
from hcache.evaluation.report import Point
from hcache.evaluation.statistics import Interval
from hcache.experiment import Experiment
from hcache.policies import load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.loading import load_replay
from hcache.replay.tree import Tree
from hcache.reporting import write_report
from hcache.reporting.examples import leaves_of_sequence, tell
from hcache.reporting.figures import pictures
from hcache.reporting.labels import Label, place
from hcache.reporting.numbers import number, printable, reason, short, signed, spans
from hcache.reporting.page import Content, fenced
from hcache.reporting.plane import draw_plane
from hcache.reporting.style import STYLE
from hcache.runs.methods import methods
from hcache.store import Store

FIGURES = ("plane", "training", "flows", "rewards")
VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return hostile_report(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_folder_is_whole(written: Written) -> None:
    names = {str(path.relative_to(written.folder)) for path in written.folder.rglob("*.*")}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    assert names == {"index.html", "report.md", "report.json", "recipe.json"} | figures
    stored = json.loads((written.folder / "report.json").read_text())
    assert stored == json.loads(json.dumps(written.report.to_dict()))
    for name in FIGURES:
        assert (written.folder / "figures" / f"{name}.png").read_bytes()[1:4] == b"PNG"
        ElementTree.parse(written.folder / "figures" / f"{name}.svg")


def test_each_run_keeps_the_report_and_the_look_is_recorded(written: Written) -> None:
    for run in written.runs:
        assert (run.folder / "eval-test.json").exists()
        assert (run.folder / "looks.jsonl").read_text().count("\n") == 1


def test_what_models_and_data_say_stays_text(written: Written) -> None:
    page = Page(written.page)
    assert not page.open
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "foreignobject"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert visible(HOSTILE.strip()) in page.text
    assert all(name in page.text for name in ARMS)
    assert " ".join(COMMAND[:2]) in page.text and "<b>it</b>" in page.text


def test_the_page_stands_alone(written: Written) -> None:
    page = Page(written.page)
    targets = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "src", "xlink:href") and value
    ]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(t == "data:," or (t[0] == "#" and t[1:] in ids) for t in targets)
    referred = set(re.findall(r"url\(#([^)]+)\)", written.page))
    assert referred and referred <= set(ids)
    assert "@import" not in written.page


def test_the_page_is_accessible(written: Written) -> None:
    page = Page(written.page)
    assert ("html", {"lang": "en"}) in page.tags
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == len(FIGURES)
    assert all(d["role"] == "img" and len(d["aria-label"] or "") > 20 for d in drawings)
    heads = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert heads and set(heads) == {"col", "row"}


def test_markdown_holds_no_markup_outside_fences(written: Written) -> None:
    assert written.markdown.count("\n````text\n") >= 2  # longer than the fence within
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", written.markdown)
    assert "<" not in outside
    for name in FIGURES:
        assert f"](figures/{name}.svg)" in outside
    rows = [line for line in outside.splitlines() if line.startswith("| ") and "queries" in line]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def test_names_in_figures_are_no_mathematics(written: Written) -> None:
    for name in ("flows", "plane"):
        svg = ElementTree.parse(written.folder / "figures" / f"{name}.svg")
        texts = ["".join(element.itertext()) for element in svg.iter() if "text" in element.tag]
        assert any(text.startswith("_a $x_1$ <") for text in texts), name


def test_the_same_report_gives_the_same_bytes(written: Written) -> None:
    first, second = (pictures(written.report, methods(written.runs)) for _ in range(2))
    assert first == second
    for picture in first:
        stored = (written.folder / "figures" / f"{picture.name}.svg").read_bytes()
        assert picture.svg == stored
        assert b"<dc:date>" not in stored


def test_rows_and_methods_have_the_same_names(written: Written) -> None:
    (sft, ppo) = methods(written.runs)
    assert [sft.name, ppo.name] == list(written.report.seeds)
    assert (sft.name, len(sft.runs), len(ppo.runs)) == ("sft", 2, 1)
    points = {point[0]: point for point in sft.curve()}
    lines = [
        {m["iteration"]: m.get("valid_reward", 0.0) for m in run.metrics()} for run in sft.runs
    ]
    for iteration, mean, low, high in points.values():
        own = [line[iteration] for line in lines]
        assert sorted(own) == [low, high] and mean == pytest.approx(sum(own) / 2)


def trees(experiment: Experiment, split: str) -> Tree:
    with Store(experiment.db) as store:
        return load_replay(store, experiment.config, split).tree


def test_stories_are_the_extremes_and_true_to_the_store(written: Written) -> None:
    config, db = written.experiment.config, written.experiment.db
    tree = trees(written.experiment, "test")
    leaf_T = greedy_leaves(load_policy(written.runs[0].policy_folder), tree)
    static = min(tree.arms, key=lambda arm: arm != "b")
    static_T = leaves_of_sequence(tree, static)
    reward_M = tree.reward_M(config.train.alpha)
    gain_T = reward_M[leaf_T] - reward_M[static_T]
    with Store(db) as store:
        told = tell(store, config, tree, ("sft", leaf_T), (static, static_T))
        outcomes = store.sql("select * from outcomes").rows_by_key("trajectory_id", named=True)
        texts = set(store.sql("select text from generations")["text"])
    assert told.gains or told.losses
    for examples, sign in ((told.gains, 1), (told.losses, -1)):
        gains = [sign * example.gain for example in examples]
        assert gains == sorted(gains, reverse=True)
        assert len({example.query_id for example in examples}) == len(examples)
        largest = max(0.0, float((sign * gain_T).max()))
        assert gains[:1] == ([pytest.approx(largest)] if largest > 1e-9 else [])
        for example in examples:
            one, other = example.sides
            assert example.gain == pytest.approx(one.reward - other.reward)
            for side in example.sides:
                (row,) = outcomes[side.trajectory_id]
                assert row["query_id"] == example.query_id and row["sequence"] == side.sequence
                assert (row["answer"], row["quality"]) == (side.answer, side.quality)
                assert sum(hop.cost for hop in side.hops) == pytest.approx(side.cost)
                assert [hop.arm for hop in side.hops] == side.sequence.split(">")
                assert all(hop.reply in texts for hop in side.hops)


def test_kinds_take_turns_among_the_stories(written: Written) -> None:
    tree = trees(written.experiment, "test")
    worst_T, best_T = (leaves_of_sequence(tree, name) for name in tree.arms)
    with Store(written.experiment.db) as store:
        pair = (("one", best_T), ("two", worst_T))
        told = tell(store, written.experiment.config, tree, *pair, count=2)
    gaining = {
        tree.kinds[int(tree.query_T[t])]
        for t in range(len(tree))
        if float(tree.reward_M(0.1)[best_T[t]] - tree.reward_M(0.1)[worst_T[t]]) > 1e-9
    }
    assert len({example.kind for example in told.gains}) == min(len(gaining), len(told.gains))


def test_a_report_without_routers(written: Written, tmp_path: Path) -> None:
    report = write_report(written.experiment, [], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "No router was evaluated." in page and 'id="examples"' not in page
    assert not (tmp_path / "figures" / "training.svg").exists()
    assert report.seeds == {}


def test_routers_of_another_experiment_stand_beside(written: Written, tmp_path: Path) -> None:
    other = hostile_experiment(tmp_path / "other", "deeper", hops=3)
    theirs = short_runs(other)[:1]
    given, out = written.experiment, tmp_path / "report"
    report = write_report(given, written.runs, out, others=[(other, theirs)])
    assert list(report.seeds) == ["sft", "ppo", "sft (deeper)"]
    flows = ElementTree.parse(out / "figures" / "flows.svg")
    texts = {"".join(element.itertext()) for element in flows.iter() if "text" in element.tag}
    assert {"sft (deeper)", "hop 3"} <= texts


def test_a_missing_number_says_why(sampled: Experiment, tmp_path: Path) -> None:
    """The sampled experiment has one test query, which has no interval."""
    write_report(sampled, [], tmp_path)
    assert 'title="one query has no interval"' in (tmp_path / "index.html").read_text()
    assert "No gap closed: one query has no interval." in (tmp_path / "index.html").read_text()
    assert "– (one query has no interval)" in (tmp_path / "report.md").read_text()
    assert "command" in (tmp_path / "report.md").read_text()


def test_the_command_writes_beside_the_runs(written: Written) -> None:
    runs = [str(run.folder) for run in written.runs[:2]]
    done = CliRunner().invoke(app, ["report", *runs, "--db", str(written.experiment.db)])
    assert done.exit_code == 0, done.output
    page = written.runs[0].folder.parent / "report" / "index.html"
    assert str(page) in done.output and "against the best static sequence: " in done.output
    out = written.folder.parent / "elsewhere"
    arguments = [str(written.experiment.source), "--split", "valid", "--out", str(out)]
    done = CliRunner().invoke(app, ["report", *arguments, "--db", str(written.experiment.db)])
    assert done.exit_code == 0, done.output
    assert "evaluated on valid" in (out / "index.html").read_text()


def test_headlines_and_facts(written: Written) -> None:
    content = Content(
        database="small.duckdb",
        experiment=written.experiment,
        split="test",
        command=(),
        created="now",
        report=written.report,
        pictures=(),
        examples=None,
    )
    assert [what for what, _, _ in content.headlines] == ["best static sequence", "oracle"]
    facts = dict(content.facts)
    assert facts["command"] == "–" and facts["queries"] == "12 of test"
    free = replace(written.report.plane, static_aiq=math.nan)
    shown = dict(replace(content, report=replace(written.report, plane=free)).areas)
    assert shown["AIQ, static sequences mixed"].why == "every sequence is free"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (0.04649, "0.0465"), (-0.5, "−0.500"), (123.4, "123"),
        (12345.6, "12,346"), (1e-7, "1.00e−07"), (math.nan, "–"), (math.inf, "–"), (999.7, "1,000"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_intervals_and_names_in_words() -> None:
    assert (signed(0.5), signed(-0.5), signed(0.0)) == ("+0.500", "−0.500", "0")
    assert spans(Interval(1.0, 0.5, 1.5, 0.1)) == ("[0.500, 1.50]", "± 0.100")
    assert spans(Interval(1.0)) == ()
    assert reason(Interval(math.nan, note="the denominator is 0")) == "the denominator is 0"
    assert reason(Interval(1.0, 0.5, 1.5)) == ""
    assert printable("a\x00b\u202e\n c\uffff") == "a\\x00b\\u202e c\\uffff"
    assert short("x" * 40) == "x" * 23 + "…" and short("") == "(none)"
    assert fenced("a ```` b").startswith("`````text\n")


def overlapping(texts: Iterable[Text]) -> list[tuple[str, str]]:
    """Labels that cover each other; the lines that tie them to their points may cross."""
    boxes = {}
    for text in texts:
        text.get_window_extent()  # an annotation finds its place, and is measured with its line
        boxes[text.get_text()] = Text.get_window_extent(text)
    return [(a, b) for a in boxes for b in boxes if a < b and boxes[a].overlaps(boxes[b])]


def test_a_crowd_of_routers_is_enlarged(written: Written) -> None:
    report = written.report
    far = tuple(Point(str(i), 0.01 * 1.5**i, 0.02 * i) for i in range(12))
    (group, *others) = report.groups
    rows = [row for row in group.rows if row.role != "router"]
    rows = [replace(row, cost=Interval(0.03), quality=Interval(0.97), front=()) for row in rows]
    router = next(row for row in group.rows if row.role == "router")
    crowd = [
        replace(router, name=f"r{i}", cost=Interval(0.03 + i / 2000), quality=Interval(0.95))
        for i in range(5)
    ]
    crowded = replace(
        report,
        plane=replace(report.plane, statics=far),
        groups=(replace(group, rows=(*rows, *crowd)), *others),
    )
    with matplotlib.rc_context(STYLE):
        axes = Figure(figsize=(4.6, 3.4), layout="constrained").add_subplot()
        draw_plane(axes, crowded)
    (inset,) = axes.child_axes
    assert {text.get_text() for text in inset.texts} == {*(row.name for row in crowd), "oracle"}
    assert not overlapping(inset.texts)


@pytest.mark.parametrize("seed", range(5))
def test_labels_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = Figure(figsize=(4.6, 3.4)).add_subplot()
    points = rng.uniform(0, 1, (10, 2)) * (0.3, 1)
    axes.scatter(*points.T)
    axes.margins(0.1)
    labels = [Label(x, y, f"label {i}", "black") for i, (x, y) in enumerate(points.tolist())]
    place(axes, labels, points)
    assert len(axes.texts) == 10 and not overlapping(axes.texts)
