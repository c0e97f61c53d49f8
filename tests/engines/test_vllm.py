"""Sampling with real vLLM on the committed checkpoints: kill, resume, live against cached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT

import hcache
from hcache.store import Store, spool_path

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]

DEMO = "data/demo/experiment.yaml"
SMALL = [f"data.demo.sources.{split}.limit={n}" for split, n in
         (("train", 16), ("valid", 8), ("test", 8))]  # fmt: skip
COLUMNS = "generation_id, fingerprint, messages_id, sample, text, token_ids, prompt_tokens"


def command(*arguments: str, sets: list[str] = SMALL) -> list[str]:
    overrides = [part for value in sets for part in ("--set", value)]
    return [sys.executable, "cli.py", *arguments, *overrides]


def run(*arguments: str, sets: list[str] = SMALL) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments, sets=sets), cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return done


def generations(db: Path) -> list[tuple[object, ...]]:
    with Store(db) as store:
        frame = store.sql(f"select {COLUMNS} from generations order by generation_id")
    return frame.rows()


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the demo, sampled without interruption."""
    db = tmp_path_factory.mktemp("vllm") / "demo.duckdb"
    run("sample", DEMO, "--db", str(db))
    return db


def test_a_chat_template_of_the_experiment_is_what_the_model_reads(tmp_path: Path) -> None:
    """It says the same to every question, so every reply is that to `What is: 12 + 30`."""
    template, db = tmp_path / "one.jinja", tmp_path / "demo.duckdb"
    template.write_text("What is: 12 + 30\n")
    sets = [*SMALL, "workflow.hops=1", f"models.calculator.chat_template={template}"]
    run("sample", DEMO, "--db", str(db), sets=sets)
    with Store(db) as store:
        said = store.sql(
            "select distinct g.text, g.prompt_tokens from generations g "
            "join arms a using (fingerprint) where a.name = 'calculator'"
        ).rows()
    assert len(said) == 1 and said[0][0].strip() == "42"


def test_second_run_generates_nothing_and_loads_no_engine(sampled: Path) -> None:
    before = generations(sampled)
    script = (
        "import sys; from hcache import Experiment, Sampler\n"
        f"tally = Sampler(Experiment.load({DEMO!r}, {SMALL!r}, {str(sampled)!r})).run()\n"
        "assert not tally.generated and tally.complete == 32, tally\n"
        "print(sorted({'torch', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert generations(sampled) == before


def test_drawn_replies_of_more_prompts_than_fit_a_step(tmp_path: Path) -> None:
    words = " ".join(["one two three"] * 16)
    rows = [{"question": f"{number}: {words}", "answer": "x"} for number in range(99)]
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    db = tmp_path / "drawn.duckdb"
    sets = [
        f"data.demo.sources.train.path={file}",
        *(f"arms.{arm}.temperature=1.0" for arm in ("reader", "calculator", "generalist")),
        "workflow.hops=1",
    ]
    run("sample", DEMO, "--db", str(db), "--budget", "350", sets=[*SMALL[1:], *sets])
    with Store(db) as store:
        tokens = store.sql("select sum(prompt_tokens) from generations").item()
        assert store.sql("select count(*) from generations").item() >= 3 * 99
    assert tokens > 3 * 4096  # else every prompt would have had its step at once


def test_killed_in_the_middle_it_resumes_to_the_same_rows(sampled: Path, tmp_path: Path) -> None:
    db = tmp_path / "killed.duckdb"
    process = subprocess.Popen(
        command("sample", DEMO, "--db", str(db)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    spool = spool_path(db)
    while process.poll() is None:
        if spool.exists() and spool.read_bytes().count(b"\n") >= 40:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    kept = {json.loads(line.split(b" ", 1)[1])["generation_id"]: line for line in
            spool.read_bytes().split(b"\n")[:-1]}  # fmt: skip
    committed = generations(db) if db.exists() else []
    safe = len(kept.keys() | {row[0] for row in committed})
    assert 0 < safe < len(generations(sampled))

    done = run("sample", DEMO, "--db", str(db))
    made = int(done.stdout.split()[0])
    assert made == len(generations(sampled)) - safe  # nothing that was safe is made again
    assert generations(db) == generations(sampled)  # float32: equal to the uninterrupted run


def test_sql_answers_while_sampling_runs(tmp_path: Path) -> None:
    db = tmp_path / "busy.duckdb"
    sampler = subprocess.Popen(
        command("sample", DEMO, "--db", str(db), sets=[*SMALL, "data.demo.sources.train.limit=96"]),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    query = "select sequence, f1 from sequences order by f1 desc limit 5"
    answers = []
    while sampler.poll() is None:
        if db.exists():
            done = subprocess.run(
                command("sql", query, "--db", str(db), "--format", "json", sets=[]),
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            if sampler.poll() is None:
                assert done.returncode == 0, done.stderr
                answers.append(json.loads(done.stdout))
        time.sleep(0.5)
    assert sampler.returncode == 0
    assert any(answers), "no rows were seen while it ran"
    assert all(set(row["sequence"].split(">")) <= {"reader", "calculator", "generalist"}
               for rows in answers for row in rows)  # fmt: skip


def test_live_replies_equal_cached_ones(sampled: Path, tmp_path: Path) -> None:
    """Greedy decoding in float32: the live router and the replay may not drift apart."""
    sets = [*SMALL, "train.algo=sft", "train.iterations=40", f"runs={tmp_path}"]
    experiment = hcache.Experiment.load(ROOT / DEMO, sets, sampled)
    trained = hcache.train(experiment)
    questions = experiment.splits["test"]
    stored = "select output from trajectories where query_id = $1 and sequence = $2"
    with hcache.live_router(trained.folder) as router:
        routes = {query.id: router.route(query.question) for query in questions}
    with Store(sampled) as store:
        for query_id, route in routes.items():
            assert store.sql(stored, [query_id, route.sequence]).item() == route.answer
            for step in route.steps:
                cached = "select count(*) from generations where text = $1 and prompt_tokens = $2"
                assert store.sql(cached, [step.reply, step.prompt_tokens]).item() > 0


def test_the_notebook_runs(sampled: Path, tmp_path: Path) -> None:
    sets = [*SMALL, f"db={sampled}", f"runs={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "examples/notebook.py", *sets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "16 trees" in done.stdout and "->" in done.stdout


def test_prompt_longer_than_the_window_is_an_outcome(tmp_path: Path) -> None:
    db = tmp_path / "long.duckdb"
    sets = [*SMALL, "models.reader.max_model_len=16", "workflow.hops=1"]
    run("sample", DEMO, "--db", str(db), sets=sets)
    with Store(db) as store:
        rows = store.sql(
            "select finish_reason, text, output_tokens, prompt_tokens from generations "
            "where finish_reason = 'too_long'"
        )
        scores = store.sql("select avg(f1), min(cost) from outcomes o where sequence = 'reader' "
                           "and exists (select 1 from trajectories t join generations g on "
                           "g.generation_id = t.asks[1].generation where g.finish_reason = "
                           "'too_long' and t.trajectory_id = o.trajectory_id)")  # fmt: skip
    assert rows.height > 0
    assert set(rows["text"]) == {""} and set(rows["output_tokens"]) == {0}
    assert rows["prompt_tokens"].min() >= 16  # type: ignore[operator]
    assert scores.row(0)[0] == 0.0 and scores.row(0)[1] > 0


def test_one_engine_at_a_time_gives_the_same_with_few_loads(sampled: Path, tmp_path: Path) -> None:
    db = tmp_path / "swap.duckdb"
    script = (
        "from hcache import Experiment, Sampler\n"
        f"sets = {SMALL!r} + ['sampling.schedule=swap', 'workflow.hops=2']\n"
        f"print(Sampler(Experiment.load({DEMO!r}, sets, {str(db)!r})).run().loads)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * (3 - 1) + 1  # L·(K−1)+1
    known = {row[0]: row for row in generations(sampled)}
    assert all(known[row[0]] == row for row in generations(db))


def write_lora(folder: Path, rank: int) -> Path:
    """A LoRA adapter for the demo's generalist, as PEFT writes one."""
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    size = json.loads((ROOT / "data/demo/models/generalist/config.json").read_text())["hidden_size"]
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    tensors = {
        f"{name}.lora_A.weight": torch.ones(rank, size) / size,
        f"{name}.lora_B.weight": torch.ones(size, rank) / size,
    }
    safetensors.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_refused_arm_leaves_the_other_of_its_model_and_rank_and_arguments_are_found(
    tmp_path: Path,
) -> None:
    """One arm's system message is refused by the template, under an adapter above rank 16."""
    template, db = tmp_path / "own.jinja", tmp_path / "demo.duckdb"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}"
        "{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    adapter = write_lora(tmp_path / "lora", 32)
    sets = [
        *SMALL,
        "workflow.hops=1",
        f"models.generalist.chat_template={template}",
        f"models.generalist.adapter={adapter}",
        "models.calculator.max_model_len=100000",
        "arms.reader={model: generalist, max_tokens: 8, system: Be brief.}",
    ]
    done = subprocess.run(
        command("sample", DEMO, "--db", str(db), sets=sets),
        cwd=ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    said = " ".join(done.stderr.split())
    assert done.returncode == 1 and "Traceback" not in said
    assert "arms.reader: the chat template of models.generalist" in said
    assert "no system role here" in said and "arms.reader.system" in said
    assert "greater than the derived max_model_len" in said
    assert "Lower models.calculator.max_model_len." in said
    assert "Run the same command" not in said
    with Store(db) as store:
        made = store.sql("select sequence, count(*) from outcomes group by sequence").rows()
        facts = json.loads(store.sql("select facts from provenance").item())
    assert made == [("generalist", 32)]
    assert json.loads(facts["arguments"])["max_lora_rank"] == 32
