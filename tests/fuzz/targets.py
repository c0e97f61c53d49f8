"""The targets: for each, how a folder is prepared and how a case is made.

To add one: write a function of a folder that returns a function of a source of chance, which
returns the input as a text and what to do with it; enter it in `TARGETS`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import duckdb
import polars as pl
import yaml

from hcache.commands.export import export
from hcache.commands.inspect import sql
from hcache.commands.options import Format
from hcache.data.extractors import EXTRACTORS, extractor
from hcache.data.metrics import METRICS, score_many, unmet
from hcache.data.readers import READERS, read
from hcache.engines import Request
from hcache.engines.scripted import ScriptedEngine, read_script
from hcache.errors import HcacheError
from hcache.experiment import Experiment
from hcache.exports import EXPORTERS
from hcache.keys import digest_text
from hcache.models.arms import Arm
from hcache.recorded.importing import import_files
from hcache.sampling import Sampler, make_plan
from hcache.workflows import Message

from .formats import FORMATS, imports
from .harness import Case, Target
from .mutate import RAW, TEXTS, as_json, broken, damaged, garbled, text

Make = Callable[[Random], Case]


def prepared(folder: Path) -> dict[str, Any]:
    """A small scripted experiment in a folder; its settings."""
    (folder / "echo.json").write_text(json.dumps([["(?s)^(.*)$", r"said \1"]]), encoding="utf-8")
    for split in ("train", "valid", "test"):
        rows = [{"question": f"{split} {n}", "answer": "said"} for n in range(2)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return {
        "name": "fuzzed",
        "db": "fuzzed.duckdb",
        "runs": "runs",
        "workflow": {"name": "relay", "hops": 2, "separator": "\n"},
        "models": {"m": {"path": "echo.json", "engine": "scripted", "max_model_len": 64}},
        "arms": {
            "a": {
                "model": "m",
                "price": {"input": 1, "output": 1, "per": 1000},
                "max_tokens": 5,
                "seed": 1,
                "stop": ["x"],
            },
            "b": {"model": "m", "price": {"input": 1, "output": 2}, "temperature": 0.5},
        },
        "data": {
            "made": {
                "reader": "jsonl",
                "options": {"question": "question"},
                "extract": "text",
                "metrics": ["f1", "em"],
                "sources": {
                    "train": {"path": "train.jsonl", "limit": 2},
                    "valid": {"path": "valid.jsonl"},
                    "test": {"path": "test.jsonl"},
                },
            }
        },
        "quality": "f1",
        "sampling": {"replicas": 1, "seed": 0},
        "features": {"dim": 8, "seed": 0},
        "train": {"algo": "ppo", "alpha": 0.1, "seed": 0, "settings": {}, "also": {"sft": {}}},
        "evaluate": {"resamples": 100, "seed": 0},
    }


WORKFLOWS = (
    {"name": "cascade", "hops": 2},
    {"name": "teacher_student", "budget": 1, "roles": ["teacher", "student"]},
)


def config(folder: Path) -> Make:
    """Experiment files and overrides, up to the plan of what would be sampled."""
    base = prepared(folder)
    file = folder / "experiment.yaml"

    def make(random: Random) -> Case:
        raw = dict(base)
        if random.random() < 0.3:
            raw["workflow"] = random.choice(WORKFLOWS)
        content, overrides = json.dumps(raw, indent=1), []
        kind = random.random()
        if kind < 0.35:
            content = as_json(damaged(raw, random))
        elif kind < 0.55:
            content = garbled(content, random)
        elif kind < 0.75:
            content = _with_raw_value(raw, random)
        else:
            overrides = [_override(raw, random) for _ in range(random.choice((1, 1, 2)))]
        data = content.encode("utf-8", "surrogatepass")
        if random.random() < 0.05:
            data = broken(data, random)

        def run() -> None:
            file.write_bytes(data)
            experiment = Experiment.load(file, overrides)
            make_plan(experiment, show=1)
            experiment.tables(experiment.splits)

        return f"{data!r}\n--set {overrides!r}", run

    return make


def _with_raw_value(raw: dict[str, Any], random: Random) -> str:
    """Settings in which a value stands as YAML that JSON does not have."""
    mark = "HERE"
    tree = damaged(raw, random)
    key = random.choice(list(raw))
    tree = tree if isinstance(tree, dict) else dict(raw)
    section = tree.get(key)
    if isinstance(section, dict) and section and random.random() < 0.8:
        tree[key] = section | {random.choice(list(section)): mark}
    else:
        tree[key] = mark
    return as_json(tree).replace(f'"{mark}"', random.choice(RAW))


def _override(raw: dict[str, Any], random: Random) -> str:
    place = [random.choice(list(raw))]
    node = raw[place[0]]
    while isinstance(node, dict) and node and random.random() < 0.8:
        place.append(random.choice(list(node)))
        node = node[place[-1]]
    said = random.choice((random.choice(RAW), text(random), str(random.random())))
    override = f"{'.'.join(place)}={said}"
    return garbled(override, random) if random.random() < 0.2 else override


ROWS: dict[str, Any] = {
    "jsonl": {"question": "q", "answer": ["a", 1.50], "context": ["c"], "passages": "p"},
    "hotpotqa": {
        "question": "q",
        "answer": "a",
        "type": "bridge",
        "context": [["t", ["one.", " two."]], ["u", ["three."]]],
        "supporting_facts": [["t", 0]],
    },
    "gsm8k": {"question": "q", "answer": "so #### 1,200"},
    "mmlu": {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "s"},
    "humaneval": {"prompt": "def f():\n", "canonical_solution": "    return 1\n"},
}
OPTIONS: dict[str, Any] = {
    "jsonl": {"question": "question", "context": "context"},
    "hotpotqa": {"passages": "all", "apart": True},
}
CSV = 'q,w,x,y,z,A\n"two\nlines",w,"x,",y,z,B\n'


def readers(folder: Path) -> Make:
    """Every reader, on broken files of its own kind and of others'."""
    (folder / "folder").mkdir(exist_ok=True)
    packed = {name: _parquet(row) for name, row in ROWS.items()}

    def make(random: Random) -> Case:
        name = random.choice([name for name in READERS if name != "recorded"])
        csv = name == "mmlu" and random.random() < 0.5
        said = garbled(CSV, random) if csv else _rows(name, random)
        data = said.encode("utf-8", "surrogatepass")
        data = broken(packed[name] if random.random() < 0.1 else data, random)
        options = OPTIONS.get(name, {})
        options = damaged(options, random) if random.random() < 0.1 else options
        file = folder / ("data.csv" if csv else "data.jsonl")
        path = random.choice((file,) * 20 + (folder / "folder", folder / "absent"))
        metrics = random.choices(list(METRICS), k=random.randrange(2))
        asked = options if isinstance(options, dict) else {}

        def run() -> None:
            file.write_bytes(data)
            queries = read(name, path, dataset="d", options=asked, limit=3, metrics=metrics)
            for query in queries:
                _ = query.id, query.wording, f"{query.question}{query.references}".encode()

        return f"{name} {path.name} {asked!r} {metrics} {data!r}", run

    return make


def _parquet(row: dict[str, Any]) -> bytes:
    """The row in a file that data sets often come as, and that no reader takes."""
    data = BytesIO()
    pl.DataFrame({key: [json.dumps(value)] for key, value in row.items()}).write_parquet(data)
    return data.getvalue()


def _rows(name: str, random: Random) -> str:
    good = ROWS[random.choice(list(ROWS)) if random.random() < 0.1 else name]
    rows = [damaged(good, random) if random.random() < 0.6 else good for _ in range(2)]
    lines = [as_json(row) for row in rows]
    said = f"[{','.join(lines)}]" if random.random() < 0.3 else "\n".join(lines)
    return garbled(said, random) if random.random() < 0.4 else said


def scripts(folder: Path) -> Make:
    """Scripts of the scripted engine, and what it says by them."""
    file = folder / "script.json"
    config = prepared(folder)
    (folder / "experiment.yaml").write_text(json.dumps(config), encoding="utf-8")
    arm = Experiment.load(folder / "experiment.yaml").pool[0]

    def make(random: Random) -> Case:
        good = [["(?s)^(one) (two)?", r"\1 said"], ["(?P<w>a+)", r"\g<w>"], ["", "<think>x"]]
        kind = random.random()
        if kind < 0.4:
            said = as_json(damaged(good, random))
        elif kind < 0.8:
            rule = [garbled(part, random, TEXTS) for part in random.choice(good)]
            said = as_json([rule, *good])
        else:
            said = garbled(json.dumps(good), random)
        data = broken(said.encode("utf-8", "surrogatepass"), random)
        prompts = ["one two", "aaa", "", text(random).encode("utf-8", "replace").decode()]

        def run() -> None:
            file.write_bytes(data)
            engine = ScriptedEngine(read_script(file))
            for prompt in prompts:
                engine.submit(_request(arm, prompt))
            for generation in engine.step():
                generation.text.encode()

        return f"{data!r} {prompts!r}", run

    return make


def _request(arm: Arm, prompt: str) -> Request:
    messages = (Message("user", prompt),)
    key = digest_text(prompt)
    return Request(key, arm, messages, key, 0)


WORDS = (
    "answer",
    "The answer is ",
    "(A)",
    "B.",
    "42",
    "3.5",
    "1,000",
    "½",
    "\n",
    " ",
    "**",
    "####",
    "\\boxed{",
    "}",
    "\\frac{1}{0}",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    '{"answer": ',
    '"\\ud800"',
    '"\\u0000"',
    "```python\n",
    "```",
    "10^",
    "^-",
    "e9",
    "E+99999",
    "not",
    "$",
    "%",
)


def extractors(folder: Path) -> Make:
    """Extractors and metrics on texts as models might say them."""

    def make(random: Random) -> Case:
        words = random.choices((*WORDS, *WORDS, *TEXTS), k=random.choice((1, 3, 8, 20)))
        said = "".join(words).encode("utf-8", "replace").decode()
        reference = random.choice(("42", "A", "yes", text(random)))
        name, metric = random.choice(list(EXTRACTORS)), random.choice(list(METRICS))

        def run() -> None:
            answer = extractor(name)(said)
            answer.encode()
            if not unmet(metric, [reference]):
                (score,) = score_many(metric, [answer], [[reference]])
                assert math.isfinite(score)

        return f"{name} {metric} {reference!r} {said!r}", run

    return make


def sampled(folder: Path) -> Path:
    """A database with the rows of a small scripted experiment."""
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(prepared(folder)), encoding="utf-8")
    Sampler(Experiment.load(file)).run()
    return folder / "fuzzed.duckdb"


COLUMNS = (
    "*",
    "1",
    "quality",
    "sequence",
    "count(*)",
    "null",
    "'\\x00'::blob",
    "interval 1 day",
    "1/0",
    "'infinity'::date",
    "'infinity'::timestamp",
    "'-infinity'::timestamptz",
    "'nan'::float",
    "time '1:0'",
    "170141183460469231731687303715884105727::hugeint",
    "[1, null]",
    "{'a': 1}",
    "map {1: 2}",
    "340282366920938463463374607431768211455::uhugeint",
    "union_value(a := 1)",
    "uuid()",
    "'101'::bit",
    "1.5::decimal(38, 9)",
    "'a'::enum('a', 'b')",
    "row(1, 2)",
    "repeat('x', 9)",
    "chr(0)",
    "e'\\x1b[0m'",
    "[[[]]]",
    "timetz '1:0+1'",
    "date '9999-12-31'",
    "date '-4000-1-1'",
    "make_timestamp_ns(1)",
    "$1",
    "?",
    "varint",
    "array_value(1, 2)",
    "json('{}')",
    "typeof(1)",
    "current_setting('threads')",
    '1 as ""',
    "1 as a, 2 as a",
    "'{{a}}'",
    "x -> x",
    "list_transform([1], x -> x)",
    "range(5)",
    "unnest([1, 2])",
)
SOURCES = (
    "",
    "from outcomes",
    "from sequences",
    "from generations",
    "from nothing",
    "from range(3)",
)
ENDINGS = (
    "",
    "limit 1",
    "limit -1",
    "limit 'a'",
    "order by 1",
    "group by all",
    "where 1",
    ";",
    "; select 2",
)
STATEMENTS = ("explain select 1", "describe outcomes", "show tables", "pragma version", "begin", "")


def sql_queries(folder: Path) -> Make:
    """Queries as people type them, and what is printed of their results."""
    db = sampled(folder)

    def make(random: Random) -> Case:
        columns = ", ".join(random.choices(COLUMNS, k=random.choice((1, 1, 2, 3))))
        query = f"select {columns} {random.choice(SOURCES)} {random.choice(ENDINGS)}"
        if random.random() < 0.1:
            query = random.choice(STATEMENTS)
        if random.random() < 0.2:
            query = garbled(query, random, (*TEXTS, *COLUMNS))
        form = random.choice(list(Format))

        def run() -> None:
            _silently(lambda: sql(query, db, format=form))

        return f"{form} {query!r}", run

    return make


DAMAGE = (
    "update generations set text = $said",
    "update queries set question = $said, dataset = $said",
    'update queries set "references" = [$said, null]',
    "update trajectories set output = $said, sequence = $said",
    "update scores set answer = $said",
    "update scores set metric = $said",
    "update scores set value = 'nan'",
    "update arms set name = $said, settings = $said",
    "update messages set messages = $said",
    "update splits set split = $said",
    "update provenance set facts = $said",
    "update states set actions = [$said]",
    "delete from states",
    "update experiments set config = $said",
    "update experiments set experiment = $said",
    "delete from experiments",
    "delete from generations",
    "delete from arms",
    "drop table scores",
    "alter table trajectories drop column notes",
)


def exports(folder: Path) -> Make:
    """Exports of databases whose rows are damaged, under names of any kind."""
    good = sampled(folder)
    db, whole = folder / "damaged.duckdb", good.read_bytes()

    def make(random: Random) -> Case:
        said = text(random).encode("utf-8", "replace").decode()
        damage = random.choices(DAMAGE, k=random.choice((0, 1, 1, 2)))
        name = random.choice(("out.jsonl", "out.parquet", "out.csv", "out", "folder.jsonl", said))
        experiment = random.choice((None, None, "fuzzed", said))
        to = random.choice(("table", *EXPORTERS))
        questions = random.random() < 0.5

        def run() -> None:
            db.write_bytes(whole)
            with contextlib.suppress(duckdb.Error), duckdb.connect(str(db)) as connection:
                for statement in damage:
                    connection.execute(statement, {"said": said} if "$" in statement else None)
            out = folder / "exports" / Path(name).name
            _silently(lambda: export(out, db, None, experiment, questions, to, force=True))

        return f"{damage} {said!r} {name!r} {experiment!r} {questions} {to}", run

    return make


def _silently(run: Callable[[], None]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run()


def folders(folder: Path) -> Make:
    """Folders of `hcache export --to hf` whose card or rows are damaged."""
    place, db = folder / "shared", folder / "imported.duckdb"
    good = sampled(folder)
    _silently(lambda: export(place, good, questions=True, to="hf"))
    card = (place / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    file = min((place / "data").iterdir())
    rows = pl.read_parquet(file).to_dicts()

    def make(random: Random) -> Case:
        said = as_json(damaged(header, random)) if random.random() < 0.5 else as_json(header)
        table = damaged(rows, random) if random.random() < 0.7 else rows
        data = _packed(table)
        if random.random() < 0.1:
            data = broken(data, random)

        def run() -> None:
            for old in folder.glob("i*.*"):
                old.unlink()
            text = f"---\n{said}\n---\n".encode("utf-8", "surrogatepass")
            (place / "README.md").write_bytes(text)
            file.write_bytes(data)
            try:
                import_files("hf", [place], db, name="i")
            except HcacheError as error:
                assert "\n" not in str(error), str(error)
                assert not db.exists()
                raise

        return f"{said} {table!r}", run

    return make


def _packed(table: object) -> bytes:
    """Rows as parquet, or as text where they are none."""
    data = io.BytesIO()
    try:
        pl.DataFrame(table, infer_schema_length=None, strict=False).write_parquet(data)  # type: ignore[arg-type]
    except Exception:  # whatever polars raises at what is no table
        return as_json(table).encode("utf-8", "surrogatepass")
    return data.getvalue()


TARGETS = MappingProxyType[str, Target](
    {
        "config": config,
        "readers": readers,
        "scripts": scripts,
        "extractors": extractors,
        "sql": sql_queries,
        "export": exports,
        **{f"imports-{kind}": imports(kind) for kind in FORMATS},
        "imports-hf": folders,
    }
)
