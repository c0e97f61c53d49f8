"""Completeness: what a report does not hold, and what part of its oracle is luck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from hcache.config.schema import ExperimentConfig
from hcache.errors import HcacheError
from hcache.evaluation.report import LeftOut, Report
from hcache.experiment import Experiment
from hcache.replay.loading import Replay

MISSING = 0.05
"""Share of the evaluated queries from which on their lack is a warning."""


def with_counts(report: Report, experiment: Experiment, replays: Mapping[str, Replay]) -> Report:
    """The report with the queries that it lacks; the first of the replays is evaluated."""
    left_out = (*_incomplete(replays), *_dropped(experiment, replays))
    warnings = list(report.warnings)
    test = next(iter(replays.values()))
    every = len(test.tree.queries) + test.incomplete
    if test.incomplete > MISSING * every:
        warnings.append(
            f"{test.incomplete:,} of {every:,} queries of {test.split} "
            f"({test.incomplete / every:.0%}) are left out, so the figures are of the others alone."
        )
    notes = list(report.notes)
    if left_out:
        notes.append(f"Queries left out: {'; '.join(map(str, left_out))}.")
    notes += luck(report, experiment.config)
    return replace(report, left_out=left_out, warnings=tuple(warnings), notes=tuple(notes))


def luck(report: Report, config: ExperimentConfig) -> list[str]:
    """Remark on the part of the oracle that is luck in sampled replies; none for greedy replies."""
    if all(arm.temperature == 0 for arm in config.arms.values()):
        return []
    reward = {row.role: row.reward.estimate for row in report.groups[0].rows}
    said = "Replies are sampled, and the oracle knows how each came out: "
    if report.replicas < 2:
        part = "part of its gap is luck, and one replica cannot tell how much"
        return [f"{said}{part} (sampling.replicas: 2 or more can)."]
    if (halves := reward.get("oracle of halves")) is None:
        return [f"{said}part of its gap is luck; no sequence is there in all replicas to tell it."]
    gap, lucky = reward["oracle"] - reward["static"], reward["oracle"] - halves
    part = "all" if lucky >= gap else f"{lucky:.4f}"
    return [
        f"{said}{part} of its gap of {gap:.4f} is luck, by what sequences chosen on one half "
        "of the replicas reach on the other."
    ]


def _incomplete(replays: Mapping[str, Replay]) -> Iterator[LeftOut]:
    for split, loaded in replays.items():
        every = len(loaded.tree.queries) + loaded.incomplete
        reasons = {
            "not sampled": loaded.unsampled,
            "sampled in part: an outcome is missing": loaded.incomplete - loaded.unsampled,
        }
        yield from (LeftOut(split, reason, n, every) for reason, n in reasons.items() if n)


def _dropped(experiment: Experiment, replays: Mapping[str, Replay]) -> Iterator[LeftOut]:
    """Questions dropped as duplicates, where the files that held them are here."""
    try:
        dropped = experiment.dropped
    except (HcacheError, OSError):
        return
    for (dataset, split, reason), count in sorted(dropped.items()):
        if split in replays:
            loaded = replays[split]
            every = len(loaded.tree.queries) + loaded.incomplete + count
            yield LeftOut(split, f"{reason}, {dataset}", count, every)
