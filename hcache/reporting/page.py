"""The report as one HTML page and as Markdown: what stands in both, and how it is made safe.

Whatever comes from models, data or names is text and stays text: HTML is escaped by the template
engine, Markdown by `_plain`, and figures go through an XML parser on their way into the page.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hcache.data.visible import in_markdown, visible
from hcache.evaluation.leaderboard import HEADER, footnotes, label, title
from hcache.evaluation.report import Group, Report, Row
from hcache.evaluation.statistics import BETTER, WORSE, Interval
from hcache.experiment import Experiment
from hcache.reporting.examples import Examples
from hcache.reporting.figures import Picture
from hcache.reporting.numbers import DASH, number, printable, reason, signed, spans

CUT = 320  # a longer text is shown by its beginning and its end, and can be opened
TEXTS = 300_000  # characters of all questions, replies and answers of a page, in equal shares
BADGES = {BETTER: "better", WORSE: "worse"}  # verdicts with a colour of their own
SVG = "http://www.w3.org/2000/svg"
LINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Cell:
    """A number of a table: its text, its interval behind it, and why one is missing."""

    text: str
    spans: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Content:
    """All that a report says."""

    experiment: Experiment
    split: str
    command: tuple[str, ...]
    created: str
    database: str
    report: Report
    pictures: tuple[Picture, ...]
    examples: Examples | None

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """Facts of the evaluation: on which trees, how, when."""
        report = self.report
        replicas = f", {report.replicas} replicas" if report.replicas > 1 else ""
        yield "experiment", self.experiment.name
        yield "queries", f"{report.queries:,} of {self.split}{replicas}"
        yield "reward", f"R = Q − {report.alpha:g}·C; Q is {self._qualities()}"
        yield "STOP", "allowed from the second hop on" if report.stop else "not allowed"
        yield "models", ", ".join(self.experiment.config.arms)
        seeds = [f"{name} ({count})" for name, count in report.seeds.items()]
        yield "routers (seeds)", ", ".join(seeds) or "none"
        yield "best static sequence", f"{report.best_static}, chosen on {self._chosen()}"
        yield "intervals", f"{report.level:.0%}, over seeds and queries"
        yield "verdicts", f"at {1 - report.level:.0%} for all routers of a table together (Holm)"
        yield "date", self.created
        yield "database", self.database
        yield "command", shlex.join(self.command) or DASH

    def _qualities(self) -> str:
        config = self.experiment.config
        own = {name: config.quality_of(name) for name in config.data}
        if len(set(own.values())) == 1:
            return next(iter(own.values()))
        return ", ".join(f"{metric} on {name}" for name, metric in own.items())

    def _chosen(self) -> str:
        return f"{self.report.selection_queries:,} other queries"

    @property
    def headlines(self) -> Iterator[tuple[str, str, str]]:
        """The tiles at the top: label, number, and whose it is."""
        rows = self.report.groups[0].rows
        static = next(row for row in rows if row.role == "static")
        yield "best static sequence", number(static.reward.estimate), static.sequence
        best = self._row(self.examples.router) if self.examples else None
        if best is not None:
            yield "best router by validation", number(best.reward.estimate), best.name
            closed = best.gap_closed
            said = reason(closed) if math.isnan(closed.estimate) else "0: static, 1: oracle"
            yield "gap closed by it", number(closed.estimate), said
        oracle = next(row for row in rows if row.role == "oracle")
        yield "oracle", number(oracle.reward.estimate), self._known

    @property
    def _known(self) -> str:
        """A note on what the oracle knows."""
        share = self.report.share
        if share == 1:
            return "knows every outcome"
        return f"knows the {share:.1%} of outcomes that are there; see the warning"

    def _row(self, name: str) -> Row | None:
        rows = self.report.groups[0].rows
        return next((row for row in rows if (row.role, row.name) == ("router", name)), None)

    @property
    def verdicts(self) -> Iterator[tuple[str, str]]:
        """The answer and the sentence for each router."""
        for row in self.report.groups[0].rows:
            if row.role == "router":
                yield row.verdict, self.report.verdicts[row.name]

    @property
    def areas(self) -> Iterator[tuple[str, Cell]]:
        """One number each for a whole plane."""
        plane = self.report.plane
        free = "every sequence is free"
        yield "AIQ, static sequences mixed", _alone(plane.static_aiq, free)
        for row in self.report.groups[0].rows:
            if row.role in ("router", "oracle"):
                yield f"AIQ, {row.name}", _of(row.aiq)
        yield "area under static sequences", _alone(plane.static_area, free)
        yield "area with the routers", _alone(plane.area, free)
        for name, found in self.report.two_models.items():
            yield f"APGR, {name}", _alone(found.apgr, found.note)
            yield f"CPT(50%), {name}", _alone(found.cpt50, found.note)

    @property
    def replies(self) -> Iterator[tuple[str, ...]]:
        """For each arm its distinct replies, and how many were cut or not even begun."""
        for one in self.report.replies:
            shares = [
                f"{part:,} ({part / one.replies:.1%})" if part else "0"
                for part in (one.truncated, one.too_long)
            ]
            yield one.arm, f"{one.replies:,}", *shares

    @cached_property
    def share(self) -> int:
        """Characters that each text may have, so that a page can be sent and opened."""
        told = (*self.examples.gains, *self.examples.losses) if self.examples else ()
        sides = [side for example in told for side in example.sides]
        texts = 2 * len(told) + sum(len(side.hops) + 1 + len(side.notes) for side in sides)
        return TEXTS // max(1, texts)

    def folded(self, text: str) -> str:
        """A text whose controls are written out, without the middle of one that is too long."""
        shown, half = visible(text), self.share // 2
        left = len(shown) - 2 * half
        if left <= 0:
            return shown
        return f"{shown[:half]}\n[{left:,} characters left out; see hcache show]\n{shown[-half:]}"

    @cached_property
    def figures(self) -> list[tuple[Picture, Markup]]:
        """Each figure with the markup that stands in the page."""
        return [(picture, Markup(_inline(picture))) for picture in self.pictures]

    def heading(self, group: Group) -> str:
        """Description of a group."""
        return title(self.report, group)


def html(content: Content) -> str:
    """The page."""
    environment = _environment(autoescape=True, finalize=_visible)
    return environment.get_template("page.html.j2").render(page=content)


def markdown(content: Content) -> str:
    """The same in Markdown."""
    environment = _environment(autoescape=False, finalize=_plain, trim_blocks=True)
    return environment.get_template("page.md.j2").render(page=content)


def cells(row: Row) -> list[Cell]:
    """The figures of a row, under HEADER without its first."""
    return [
        _of(row.quality),
        _of(row.cost),
        _of(row.reward),
        _alone(row.hops, "no hops"),
        _of(row.difference, signed),
        _of(row.gap_closed),
        _of(row.aiq),
    ]


def _of(interval: Interval, write: Any = number) -> Cell:
    return Cell(write(interval.estimate), spans(interval), reason(interval))


def _alone(value: float, why: str) -> Cell:
    text = number(value)
    return Cell(text, why=why if text == DASH else "")


def _environment(**settings: Any) -> Environment:
    loader = PackageLoader("hcache.reporting", "")
    made = Environment(loader=loader, undefined=StrictUndefined, lstrip_blocks=True, **settings)
    made.globals |= {"header": HEADER, "cells": cells, "label": label, "cut": CUT}
    made.globals |= {"footnotes": footnotes, "badges": BADGES}
    made.filters |= {"number": number, "signed": signed, "fenced": fenced}
    return made


def _inline(picture: Picture) -> str:
    """A figure as an element of a page: ids of its own, a name, a size that follows the page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(picture.svg)
    for unneeded in root.findall(f"{{{SVG}}}metadata"):
        root.remove(unneeded)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _renamed(key, value, picture.name))
    root.attrib.pop("height", None)
    root.attrib.pop("width", None)
    root.set("role", "img")
    root.set("aria-label", f"{picture.title}. {printable(picture.words)}")
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(key: str, value: str, prefix: str) -> str:
    """References and ids with a prefix: one page holds several figures."""
    if key == "id":
        return f"{prefix}-{value}"
    if key in ("href", f"{{{LINK}}}href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", value)


def _visible(value: Any) -> Any:
    """Text with its controls written out; markup made here passes."""
    return visible(value) if type(value) is str else value


def _plain(value: Any) -> Any:
    """Text that Markdown shows as it is, in one line; markup made here passes."""
    if isinstance(value, Markup):
        return value
    return in_markdown(str(value))


def fenced(text: str) -> Markup:
    """Text of many lines for Markdown, behind a fence that is longer than any within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}text\n{text}\n{fence}")
