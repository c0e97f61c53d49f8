"""Each format: what is in it, from which splits, and that no question leaves unasked."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.experiments import load, settings, table, write_questions, write_script, write_scripts
from helpers.servers import remote

from hcache.engines import ScriptedEngine
from hcache.engines.scripted import read_script
from hcache.errors import ConfigError, HcacheError, StoreError
from hcache.experiment import Experiment
from hcache.exports import EXPORTERS, Export, Selection
from hcache.exports.writing import write_out
from hcache.models.arms import Arm
from hcache.recorded.importing import import_files
from hcache.sampling import Sampler
from hcache.sampling.batches import write_batch
from hcache.store import Store

Rows = list[dict[str, Any]]
OF_PROMPTS = {"sft": "s.jsonl", "preferences": "p.jsonl", "routerbench": "r.parquet",
              "batch": "b.jsonl"}  # fmt: skip


def made(
    db: Path, to: str, out: str, splits: tuple[str, ...] = (), questions: bool = True, **how: Any
) -> Export:
    with Store(db) as store:
        [name] = store.experiments()
        return EXPORTERS[to](Selection(store, name, splits, questions), Path(out), **how)


def rows(export: Export) -> Rows:
    assert isinstance(export.content, bytes)
    return [json.loads(line) for line in export.content.decode().splitlines()]


def outcomes(db: Path, split: str) -> Rows:
    return table(db, "outcomes").filter(split=split).to_dicts()


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Three arms, one of which knows all answers, one some; twelve training questions."""
    folder = tmp_path_factory.mktemp("varied")
    write_scripts(folder, "abc")
    for split, count in (("train", 12), ("valid", 3), ("test", 3)):
        write_questions(folder, split, count)
    write_script(folder, "b", [["(?s)^.*$", "b a x"]])
    experiment = load(folder, settings("abc"))
    Sampler(experiment).run()
    return experiment


@pytest.mark.parametrize("to", OF_PROMPTS)
def test_formats_of_prompts_need_leave(sampled: Experiment, to: str) -> None:
    with pytest.raises(ConfigError, match=r"licence may forbid copies. .*--questions"):
        made(sampled.db, to, OF_PROMPTS[to], questions=False)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 3.0])
def test_sft_has_the_calls_of_the_best_outcomes(varied: Experiment, alpha: float) -> None:
    by_query: dict[str, Rows] = defaultdict(list)
    for row in outcomes(varied.db, "train"):
        by_query[row["query_id"]].append(row)
    generations = {
        (row["text"], row["messages"])
        for row in table(varied.db, "generations")
        .join(table(varied.db, "messages"), "messages_id")
        .to_dicts()
    }
    found: dict[str, Rows] = defaultdict(list)
    for row in rows(made(varied.db, "sft", "s.jsonl", alpha=str(alpha))):
        found[row["query_id"]].append(row)
        [said] = row["completion"]
        assert said["role"] == "assistant"
        asked = [json.loads(text) for reply, text in generations if reply == said["content"]]
        assert row["prompt"] in asked
    for query, own in by_query.items():
        best = max(own, key=lambda o: (o["quality"] - alpha * o["cost"], -o["cost"], -o["depth"]))
        if best["quality"] == 0:
            assert query not in found
        else:
            assert [row["arm"] for row in found[query]] == best["sequence"].split(">")
    assert found


def test_sft_takes_the_alpha_of_the_experiment(varied: Experiment) -> None:
    own = rows(made(varied.db, "sft", "s.jsonl"))
    assert own == rows(made(varied.db, "sft", "s.jsonl", alpha="0.1"))
    assert own != rows(made(varied.db, "sft", "s.jsonl", alpha="50"))
    for alpha in ("-1", "nan", "much"):
        with pytest.raises(ConfigError, match="alpha"):
            made(varied.db, "sft", "s.jsonl", alpha=alpha)


@pytest.mark.parametrize("to", ["sft", "preferences"])
def test_only_training_questions_unless_others_are_named(varied: Experiment, to: str) -> None:
    for splits, word in (((), "train"), (("test",), "test"), (("valid", "test"), "valid|test")):
        texts = [
            row["prompt"][0]["content"] for row in rows(made(varied.db, to, "s.jsonl", splits))
        ]
        assert texts and all(re.match(word, text) for text in texts)


def replies_by_prompt(db: Path, split: str) -> dict[str, dict[str, float]]:
    """Quality of each last reply, by its prompt; a plain loop over the tables."""
    generations = {row["generation_id"]: row for row in table(db, "generations").to_dicts()}
    prompts = dict(table(db, "messages").select("messages_id", "messages").iter_rows())
    asks = dict(table(db, "trajectories").select("trajectory_id", "asks").iter_rows())
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in outcomes(db, split):
        last = generations[asks[row["trajectory_id"]][-1]["generation"]]
        found[prompts[last["messages_id"]]][last["text"]] = row["quality"]
    return found


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_preferences_are_better_and_worse_replies_to_one_prompt(
    varied: Experiment, margin: float
) -> None:
    wanted = set()
    for prompt, replies in replies_by_prompt(varied.db, "train").items():
        best = max(replies.values())
        wanted |= {(prompt, text) for text, quality in replies.items() if best - quality > margin}
    export = made(varied.db, "preferences", "p.jsonl", margin=margin)
    found = rows(export)
    scores = replies_by_prompt(varied.db, "train")
    for row in found:
        prompt = json.dumps(row["prompt"], separators=(",", ":"), sort_keys=True)
        [chosen], [rejected] = row["chosen"], row["rejected"]
        assert chosen["role"] == rejected["role"] == "assistant"
        qualities = scores[prompt]
        assert row["score_chosen"] == qualities[chosen["content"]] == max(qualities.values())
        assert row["score_rejected"] == qualities[rejected["content"]]
        assert row["score_chosen"] - row["score_rejected"] > margin
        wanted.remove((prompt, rejected["content"]))
    assert not wanted and found
    assert made(varied.db, "preferences", "p.jsonl", margin=margin).content == export.content


def test_equal_replies_give_no_pairs(tmp_path: Path) -> None:
    write_scripts(tmp_path, "ab")
    for name in "ab":
        write_script(tmp_path, name, [["(?s)^.*$", "a"]])
    experiment = load(tmp_path, settings("ab"))
    Sampler(experiment).run()
    with pytest.raises(StoreError, match="no two replies to one prompt of which one is better"):
        made(experiment.db, "preferences", "p.jsonl")
    with pytest.raises(ConfigError, match="margin is 1"):
        made(experiment.db, "preferences", "p.jsonl", margin=1.0)


def test_replies_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    write_scripts(tmp_path, "ab")
    write_script(tmp_path, "a", [["(?s)^.*$", "a b a x b a"]])
    raw = settings("ab", workflow={"name": "relay", "hops": 1})
    raw["arms"]["a"]["max_tokens"] = 1
    experiment = load(tmp_path, raw)
    Sampler(experiment).run()
    assert {row["finish_reason"] for row in table(experiment.db, "generations").to_dicts()} == {
        "length", "stop"
    }  # fmt: skip
    export = made(experiment.db, "sft", "s.jsonl")
    assert {row["arm"] for row in rows(export)} == {"b"}
    assert "1 calls left out" in export.notes[0]


def test_routerbench_is_read_as_such(varied: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "routerbench_0shot.parquet"
    write_out(file, made(varied.db, "routerbench", file.name).content)
    import_files("routerbench", [file], tmp_path / "db.duckdb", name="rb", split="test")
    columns = "sequence, quality, cost, t.output"
    sql = f"select {columns} from outcomes o join trajectories t using (trajectory_id) order by all"
    sql = sql.replace("select sequence", "select replace(o.sequence, '>', '_')")
    with Store(varied.db) as one, Store(tmp_path / "db.duckdb") as two:
        assert one.sql(sql).rows() == two.sql(sql).rows()
        assert set(two.sql("select item from queries")["item"]) == {
            *one.sql("select query_id from queries")["query_id"]
        }
    assert set(pl.read_parquet(file).columns) >= {"a", "a>b", "a>b|model_response", "c|total_cost"}


def test_routerbench_keeps_a_text_that_looks_like_a_list(tmp_path: Path) -> None:
    write_scripts(tmp_path, "a")
    write_script(tmp_path, "a", [["(?s)^.*$", "['x', 'y']"]])
    experiment = load(tmp_path, settings("a", workflow={"name": "relay", "hops": 1}))
    Sampler(experiment).run()
    file = tmp_path / "routerbench_0shot.parquet"
    write_out(file, made(experiment.db, "routerbench", file.name).content)
    import_files("routerbench", [file], tmp_path / "db.duckdb")
    assert set(table(tmp_path / "db.duckdb", "generations")["text"]) == {"['x', 'y']"}


def test_replicas_are_samples_of_their_own(tmp_path: Path) -> None:
    write_scripts(tmp_path, "a")
    raw = settings("a", sampling={"replicas": 2})
    raw["arms"]["a"]["temperature"] = 1
    experiment = load(tmp_path, raw)
    Sampler(experiment).run()
    found = rows(made(experiment.db, "routerbench", "r.jsonl"))
    assert len(found) == 10 and len({row["sample_id"] for row in found}) == 10


def test_batch_is_what_was_asked(folder: Path) -> None:
    raw = settings("ab", models=remote("ab"), workflow={"name": "relay", "hops": 1})
    raw["arms"]["a"] |= {"temperature": 1, "stop": ["x"], "system": "Be brief."}
    experiment = load(folder, raw)
    written = write_batch(experiment, folder / "planned.jsonl")
    planned = b"".join(file.read_bytes() for file in written.requests)

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return ScriptedEngine(read_script(folder / f"{arm.name}.json"))

    Sampler(experiment, factory).run()
    export = made(experiment.db, "batch", "b.jsonl")
    assert isinstance(export.content, bytes)
    assert sorted(export.content.splitlines()) == sorted(planned.splitlines())


def test_batch_of_local_models_has_no_arguments_of_their_engine(folder: Path) -> None:
    raw = settings("ab")
    raw["models"]["a"]["engine_args"] = {"gpu_memory_utilization": 0.5}
    experiment = load(folder, raw)
    Sampler(experiment).run()
    found = rows(made(experiment.db, "batch", "b.jsonl"))
    generations = table(experiment.db, "generations")["generation_id"]
    assert sorted(row["custom_id"] for row in found) == sorted(generations)
    assert {key for row in found for key in row["body"]} == {
        "model", "messages", "max_tokens", "temperature"
    }  # fmt: skip
    with pytest.raises(ConfigError, match="a file of JSON lines"):
        made(experiment.db, "batch", "b.parquet")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A database of what others have recorded: two arms, one asked after the other."""
    file = tmp_path / "t.csv"
    pl.DataFrame(
        [
            {
                "query": f"q{n}?",
                "who": who,
                "score": float((n + who.startswith("o")) % 2),
                "reply": f"{who}!",
            }
            for n in range(4)
            for who in ("m", "o", "m>o")
        ]
    ).write_csv(file)
    import_files("long", [file], tmp_path / "r.duckdb", split="train", options={"sequence": "who"})
    return tmp_path / "r.duckdb"


def test_what_was_recorded_is_asked_with_no_settings(recorded: Path) -> None:
    export = made(recorded, "batch", "b.jsonl")
    assert export.notes == ("4 calls left out, whose prompt is not known",)
    for row in rows(export):
        assert row["body"].keys() == {"model", "messages"} and row["body"]["model"] in ("m", "o")
        assert [message["role"] for message in row["body"]["messages"]] == ["user"]


def test_prompts_that_are_not_known_are_not_learned_from(recorded: Path) -> None:
    export = made(recorded, "sft", "s.jsonl")
    assert {row["completion"][0]["content"] for row in rows(export)} <= {"m!", "o!"}
    for row in rows(made(recorded, "preferences", "p.jsonl")):
        assert [message["role"] for message in row["prompt"]] == ["user"]


def test_calls_without_a_reply_are_none_to_learn_from(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    pl.DataFrame({"query": ["q?"] * 2, "arm": ["m", "o"], "score": [1.0, 0.0]}).write_csv(file)
    import_files("long", [file], tmp_path / "r.duckdb", split="train")
    for to in ("sft", "preferences"):
        with pytest.raises(StoreError, match="has no"):
            made(tmp_path / "r.duckdb", to, "s.jsonl")


def test_splits_choose_what_a_table_has(sampled: Experiment) -> None:
    for splits, count in (((), 30), (("test",), 6), (("train", "valid"), 24)):
        assert len(rows(made(sampled.db, "table", "t.jsonl", splits))) == count


def test_errors_are_one_line(sampled: Experiment, tmp_path: Path) -> None:
    for to, out, words in (
        ("table", "t.csv", "unknown format '.csv'"),
        ("sft", "s", "unknown format ''"),
        ("hf", "t.parquet", "format 'hf' is a folder"),
    ):
        with pytest.raises(HcacheError) as found:
            made(sampled.db, to, out)
        assert words in str(found.value) and "\n" not in str(found.value)
    with pytest.raises(StoreError, match="holds no trajectories of small in split test"):
        write_scripts(tmp_path, "a")
        raw = settings("a")
        del raw["data"]["made"]["sources"]["test"]
        Sampler(load(tmp_path, raw)).run()
        made(tmp_path / "small.duckdb", "table", "t.jsonl", ("test",))
