"""Scores computed again from stored outputs, by the extractors and metrics of today."""

from __future__ import annotations

from collections.abc import Iterable

from hcache.checking.findings import Findings, OnProgress
from hcache.checking.records import Recorded
from hcache.data.extractors import version_of
from hcache.data.metrics import RECORDED, may_score
from hcache.errors import ConfigError, DataError
from hcache.sampling.scoring import PAGE, score_rows
from hcache.store import Store
from hcache.store.checks import SCORED, SCORES, TO_COMPARE
from hcache.store.queries import UNSCORED

AGAIN = "`hcache rescore` makes it"


def check_scores(store: Store, findings: Findings, on_progress: OnProgress) -> None:
    """Compare every score with one made now; those by another version are outdated."""
    for extract, metric, version in store.sql(SCORED).iter_rows():
        if metric == RECORDED:
            continue  # a fact that somebody stated; its value is held against its range alone
        name = f"{metric} of {extract}"
        ids = store.sql(SCORES, [extract, metric, version])
        if not may_score(metric):
            findings.notes.append(
                f"{len(ids):,} scores {name} were not checked, since they run code that models "
                "wrote: --allow-code-execution checks them."
            )
            continue
        try:
            current = version_of(extract, metric)
        except ConfigError as error:
            findings.notes.append(f"{len(ids):,} scores {name} were not checked: {error.message}")
            continue
        if version != current:
            findings.add(
                "scores", f"{name} is by another version of its metric or extractor",
                str(ids.item(0, 0)), len(ids), AGAIN,
            )  # fmt: skip
            continue
        for place, chosen in enumerate(ids.iter_slices(PAGE)):
            rows = store.sql(TO_COMPARE, [extract, metric], chosen=chosen).to_dicts()
            try:
                made = score_rows(rows, extract, metric)
            except DataError as error:
                example = str(rows[0]["trajectory_id"])
                findings.add("scores", f"{name} cannot be made again: {error.message}", example)
                continue
            for row, new in zip(rows, made, strict=True):
                for column in ("answer", "value"):
                    if row[column] != new[column]:
                        fault = f"{column} of {name} is not what its output gives"
                        findings.add("scores", fault, row["trajectory_id"])
            findings.count("scores made again", len(rows))
            on_progress(f"scores {name}", min(len(ids), (place + 1) * PAGE), len(ids))


def check_scored(store: Store, experiments: Iterable[Recorded], findings: Findings) -> None:
    """Look for trajectories without a score that their experiment asks for."""
    for recorded in experiments:
        for name, data in recorded.config.data.items():
            for metric in data.metrics:
                if not may_score(metric):
                    continue  # noted with the scores there are
                wanted = [recorded.name, name, data.extract, metric]
                try:
                    found = store.sql(UNSCORED, [*wanted, version_of(data.extract, metric)])
                except ConfigError:
                    continue  # noted with the scores there are
                lacking = found.filter(found["before"].is_null())["trajectory_id"]
                fault = f"has no score {metric} of {data.extract}"
                findings.add_all("trajectories", fault, lacking, AGAIN)
