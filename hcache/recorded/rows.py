"""Cells as the rows that sampling would have written, level by level of the trees.

Keys are those of `keys.py`, and prompts those of the workflow `recorded`: `hcache check` rebuilds
the same trees with the enumerator that sampling uses. A call without a recorded reply is a
generation without text, whose finish reason says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from hcache.data.extractors import extractor, version_of
from hcache.data.metrics import RECORDED, score_many
from hcache.data.queries import Query
from hcache.experiment import Experiment
from hcache.keys import canonical, digest, digest_text, generation_key
from hcache.models.arms import Arm
from hcache.recorded.cells import Checked
from hcache.store.frames import ASKS, SCHEMAS
from hcache.store.schema import UNIQUE
from hcache.workflows.recorded import Recorded

Tables = dict[str, pl.DataFrame]
UNRECORDED = "unrecorded"
"""Finish reason of a call of which no reply was recorded."""
NODE = ["id", "path", "sample"]


def tables(
    checked: Checked, experiment: Experiment, queries: Mapping[str, Query], facts: Mapping[str, Any]
) -> Tables:
    """Rows of what was recorded on some queries, given by id, as the experiment sees it."""
    provenance = canonical(facts)
    maker = _Maker(checked, experiment, queries, digest_text(provenance))
    found = maker.levels()
    found["provenance"] = pl.DataFrame(
        {"provenance_id": [digest_text(provenance)], "facts": [provenance]}
    )
    return found


class _Maker:
    """Grows the trees of all queries at once, a level at a time."""

    def __init__(
        self,
        checked: Checked,
        experiment: Experiment,
        queries: Mapping[str, Query],
        provenance: str,
    ) -> None:
        workflow = experiment.workflow
        assert isinstance(workflow, Recorded), "an import is an experiment of that workflow"
        self.workflow, self.queries, self.experiment = workflow, queries, experiment
        self.provenance, self.unit = provenance, checked.recording.unit
        self.pool = {arm.name: arm for arm in experiment.pool}
        self.samples = range(checked.samples)
        names = {"arm": list(checked.arms), "name": list(checked.arms.values())}
        self.cells = checked.recording.cells.filter(pl.col("id").is_in(list(queries)))
        self.cells = _renamed(self.cells, pl.DataFrame(names))
        self.priced = self.cells["cost"].is_not_null().any()
        self.parts: dict[str, list[pl.DataFrame]] = {}

    def levels(self) -> Tables:
        """The rows of every table, from the roots to the last call."""
        nodes = self._roots()
        for length in range(1, self.workflow.hops + 1):
            nodes = self._called(nodes, length)
        return {name: pl.concat(parts).unique(_key(name), keep="first", maintain_order=True)
                for name, parts in self.parts.items()}  # fmt: skip

    def _add(self, table: str, frame: pl.DataFrame) -> None:
        schema = SCHEMAS[table]
        self.parts.setdefault(table, []).append(
            frame.select(
                (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
                for name, kind in schema.items()
            )
        )

    def _roots(self) -> pl.DataFrame:
        """The state in which each query begins, once for each sample."""
        questions = [query.question for query in self.queries.values()]
        message = [canonical({"content": text, "role": "user"}) for text in questions]
        samples = pl.DataFrame({"sample": list(self.samples)}, {"sample": pl.Int32})
        roots = pl.DataFrame(
            {"id": list(self.queries), "message": message,
             "context": [[digest_text(text)] for text in questions]}
        ).join(samples, how="cross")  # fmt: skip
        self._texts(questions)
        nodes = roots.with_columns(
            path=pl.lit(""),
            decisions=pl.lit([], pl.List(pl.String)),
            asks=pl.lit([], ASKS),
            costs=pl.lit([], pl.List(pl.Float64)),
        )
        self._states(nodes)
        return nodes

    def _texts(self, texts: Sequence[str]) -> None:
        keys = list(map(digest_text, texts))
        self._add("texts", pl.DataFrame({"text_id": keys, "text": texts}))

    def _called(self, parents: pl.DataFrame, length: int) -> pl.DataFrame:
        """Nodes one call further on, whose rows are added to the tables."""
        level = self.cells.filter(pl.col("names").list.len() == length).with_columns(
            before=pl.col("names").list.slice(0, length - 1).list.join(">"),
            path=pl.col("names").list.join(">"),
            name=pl.col("names").list.last(),
        )
        nodes = level.join(parents, left_on=["id", "before", "sample"], right_on=NODE, how="inner")
        nodes = self._generated(nodes)
        ask = pl.struct(
            arm="arm_id", generation="generation_id",
            prompt_tokens=pl.col("prompt_tokens").fill_null(0).cast(pl.Int32),
            output_tokens=pl.col("output_tokens").fill_null(0).cast(pl.Int32),
            role=pl.lit(""),
        )  # fmt: skip
        nodes = nodes.with_columns(
            decisions=pl.concat_list("decisions", "arm_id"),
            asks=pl.concat_list("asks", ask),
            costs=pl.concat_list("costs", "cost"),
        )
        self._trajectories(nodes)
        return self._going_on(nodes.filter(pl.col("path").is_in(self._open_paths(length))))

    def _going_on(self, nodes: pl.DataFrame) -> pl.DataFrame:
        """Nodes after which somebody may be called, with what is said there; their states."""
        replies = [text.strip() for text in nodes["output"]]
        messages = [
            f"{before},{canonical({'content': text, 'role': name})}"
            for before, text, name in nodes.select("message", "output", "name").iter_rows()
        ]
        nodes = nodes.with_columns(
            message=pl.Series(messages, dtype=pl.String),
            part=pl.Series([digest_text(text) for text in replies], dtype=pl.String),
        ).with_columns(context=pl.concat_list("context", "part"))
        self._texts(replies)
        self._states(nodes)
        return nodes.select([*NODE, "message", "context", "decisions", "asks", "costs"])

    def _open_paths(self, length: int) -> list[str]:
        """Paths of this length after which somebody may be called."""
        return [">".join(s[:length]) for s in self.workflow.sequences if len(s) > length]

    def _generated(self, nodes: pl.DataFrame) -> pl.DataFrame:
        """The calls as generations; adds their keys, and what counts as the reply."""
        arms = pl.DataFrame(
            {"name": list(self.pool), "arm_id": [arm.id for arm in self.pool.values()],
             "fingerprint": [arm.fingerprint for arm in self.pool.values()],
             "drawn": [not arm.deterministic for arm in self.pool.values()]},
            schema_overrides={"name": pl.String, "arm_id": pl.String, "fingerprint": pl.String},
        )  # fmt: skip
        nodes = nodes.join(arms, "name")
        messages = [f"[{text}]" for text in nodes["message"]]
        keys = list(map(digest_text, messages))
        sample = nodes.select(
            pl.when("drawn").then("sample").otherwise(0).cast(pl.Int32)
        ).to_series()
        made = map(generation_key, nodes["fingerprint"], keys, sample)
        nodes = nodes.with_columns(
            generation_id=pl.Series(list(made), dtype=pl.String),
            messages_id=pl.Series(keys, dtype=pl.String),
            output=pl.Series(_answers(nodes, self.pool), dtype=pl.String),
        )
        self._add("messages", pl.DataFrame({"messages_id": keys, "messages": messages}))
        self._add("generations", nodes.select(
            "generation_id", "fingerprint", "messages_id", sample=sample,
            text=pl.col("reply").fill_null(""), token_ids=pl.lit([], pl.List(pl.Int32)),
            prompt_tokens=pl.col("prompt_tokens").fill_null(0),
            output_tokens=pl.col("output_tokens").fill_null(0), cached_tokens=0,
            finish_reason=pl.when(pl.col("reply").is_null()).then(pl.lit(UNRECORDED))
            .otherwise(pl.lit("stop")),
            seconds=0.0, provenance_id=pl.lit(self.provenance),
            created=pl.lit(datetime.now(UTC).replace(tzinfo=None)), thinking=False,
            prompt_key=pl.lit(""), reasoning_tokens=0,
        ))  # fmt: skip
        return nodes

    def _states(self, nodes: pl.DataFrame) -> None:
        """States in which somebody is called next."""
        for (path,), group in nodes.group_by("path", maintain_order=True):
            names = tuple(str(path).split(">")) if path else ()
            offered = self.workflow.offered(names, tuple(self.pool.values()))
            self._add("states", group.select(
                pl.col("id").alias("query_id"), pl.lit(self.workflow.fingerprint).alias("workflow"),
                "decisions", "context", "asks", replica="sample", depth=len(names), role=pl.lit(""),
                context_id=pl.Series([digest(ids) for ids in group["context"].to_list()]),
                actions=pl.lit([arm.id for arm in offered], pl.List(pl.String)),
                stop=pl.lit(names in self.workflow.sequences),
                costs=pl.col("costs") if self.priced else None,
            ))  # fmt: skip

    def _trajectories(self, nodes: pl.DataFrame) -> None:
        """Outcomes with their scores, as recorded and, where answers can be scored, made anew."""
        done = nodes.filter(pl.col("score").is_not_null())
        workflow = self.workflow.fingerprint
        ids = [
            digest([query, workflow, decisions, sample])[:16]
            for query, decisions, sample in zip(
                done["id"], done["decisions"].to_list(), done["sample"], strict=True
            )
        ]
        done = done.with_columns(trajectory_id=pl.Series(ids, dtype=pl.String))
        self._add("trajectories", done.select(
            "trajectory_id", pl.col("id").alias("query_id"), pl.lit(workflow).alias("workflow"),
            "decisions", "output", "asks", replica="sample",
            depth=pl.col("decisions").list.len(), sequence="path",
            notes=pl.lit([], pl.List(pl.String)), costs=pl.col("costs") if self.priced else None,
            unit=pl.lit(self.unit if self.priced else None, pl.String),
        ))  # fmt: skip
        dataset = pl.Series([self.queries[key].dataset for key in done["id"]], dtype=pl.String)
        for name, data in self.experiment.config.data.items():
            own = done.filter(dataset == name)
            take = extractor(data.extract)
            answers = [take(text) for text in own["output"]]
            for metric in data.metrics:
                self._add("scores", own.select(
                    "trajectory_id", extractor=pl.lit(data.extract), metric=pl.lit(metric),
                    answer=pl.Series(answers, dtype=pl.String),
                    value=self._values(own, answers, metric),
                    version=pl.lit(version_of(data.extract, metric)),
                ))  # fmt: skip

    def _values(self, own: pl.DataFrame, answers: list[str], metric: str) -> pl.Series:
        if metric == RECORDED:
            return own["score"]
        references = [self.queries[key].references for key in own["id"]]
        return pl.Series(score_many(metric, answers, references), dtype=pl.Float64)


def _answers(nodes: pl.DataFrame, pool: Mapping[str, Arm]) -> list[str]:
    """The replies without what was thought; of a reply that was not recorded, nothing."""
    return [
        pool[name].answer(reply) if reply else ""
        for name, reply in nodes.select("name", "reply").iter_rows()
    ]


def _renamed(cells: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Cells with `names`, the sequence by the names of the arms here."""
    return cells.with_columns(
        names=pl.col("sequence").list.eval(
            pl.element().replace_strict(names["arm"], names["name"], return_dtype=pl.String)
        )
    )


def _key(table: str) -> list[str]:
    return UNIQUE[table].split(", ")
