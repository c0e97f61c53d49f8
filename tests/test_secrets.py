"""What is secret stays so: no file that any command writes has a value of the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.experiments import load, settings
from helpers.paths import ROOT
from helpers.servers import fake_server, remote

from hcache.errors import ConfigError

NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY",
    "AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", "VLLM_SECRET_OF_MINE", "DATABASE_PASSWORD", "ANYTHING",
    "VLLM_S3_PASSWD", "VLLM_PASSPHRASE", "VLLM_AUTHORIZATION", "VLLM_CREDENTIALS",
)  # fmt: skip
URLS = ("HF_ENDPOINT", "VLLM_MIRROR", "VLLM_PROXY_URL", "HTTPS_PROXY")

# All commands in one process, as at a prompt; then what vLLM's engine would keep of its settings.
CHAIN = """
import json, sys
from hcache.commands import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["hcache", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
from hcache.engines.vllm import ENVIRONMENT
print("kept:", json.dumps(ENVIRONMENT))
"""
EXPERIMENT, DB = "experiment.yaml", ("--db", "small.duckdb")
COMMANDS = [
    ["plan", EXPERIMENT],
    ["sample", EXPERIMENT],
    ["rescore", EXPERIMENT],
    ["train", EXPERIMENT],
    ["bench", EXPERIMENT, "--algos", "sft"],
    ["eval", EXPERIMENT, "--format", "json"],
    ["eval", EXPERIMENT, "--format", "csv"],
    ["report", EXPERIMENT, "--out", "page"],
    ["export", "replies.jsonl", *DB],
    ["export", "replies.parquet", *DB, "--questions"],
    ["check", "small.duckdb"],
    ["verify", EXPERIMENT],
    ["digest", "small.duckdb"],
    ["sql", "from experiments", *DB, "--format", "json"],
    ["runs", "list"],
    ["doctor"],
]
SERVED = [
    ["plan", "served.yaml", "--batch", "requests.jsonl"],
    ["sample", "served.yaml"],
    ["train", "served.yaml"],
    ["eval", "served.yaml"],
    ["check", "served.duckdb"],
    ["verify", "served.yaml"],
    ["export", "served.jsonl", "--db", "served.duckdb"],
]


def test_no_value_of_the_environment_is_ever_written(folder: Path) -> None:
    train = {"iterations": 5, "also": {"sft": {"iterations": 5}}}
    load(folder, settings("ab", train=train))
    with fake_server() as fake:
        models = remote("ab", fake.url)
        models["b"]["server"]["api_key_env"] = "ANYTHING"
        served = settings("ab", models=models, train=train, name="served", db="served.duckdb")
        (folder / "served.yaml").write_text(json.dumps(served))
        check_nothing_is_written(folder)
        assert len(fake.bodies) > 30 and all(key and "canary" in key for key in fake.keys)


def check_nothing_is_written(folder: Path) -> None:
    canaries = {name: f"canary-{number}-{name[::-1]}" for number, name in enumerate(NAMES)}
    canaries |= {name: f"http://user:canary-{name[::-1]}@127.0.0.1:9" for name in URLS}
    environment = os.environ | canaries | {"PYTHONPATH": str(ROOT), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", CHAIN, json.dumps(COMMANDS + SERVED)],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode()
    *_, kept = done.stdout.decode().split("kept: ")
    assert json.loads(kept)["VLLM_LOGGING_LEVEL"] == "ERROR"
    written = {str(file.relative_to(folder)): file.read_bytes() for file in files(folder)}
    assert {"small.duckdb", "page/index.html", "replies.parquet"} <= written.keys()
    assert any(name.endswith("manifest.json") for name in written)
    for place, data in {**written, "output": done.stdout, "errors": done.stderr}.items():
        assert b"canary" not in data, place


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("models.a.engine_args.hf_token", "canary"),
        ("models.a.engine_args.nested.api_key", "canary"),
        ("data.made.options.password", "canary"),
        ("models.a.path", "https://user:canary@example.org/model"),
        ("data.made.sources.train.path", "s3://key:canary@bucket/train.jsonl"),
        ("models.a.engine_args.endpoints", "[http://x, 'http://:canary@x']"),
    ],
)
def test_a_secret_among_the_settings_is_refused_and_not_repeated(
    folder: Path, place: str, value: str
) -> None:
    with pytest.raises(ConfigError, match="holds a secret") as caught:
        load(folder, settings("ab"), f"{place}={value}")
    assert place in str(caught.value) and "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("models.a.engine_args.hf_token", "true"),
        ("models.a.engine_args.max_num_batched_tokens", "10"),
        ("models.a.engine_args.tokenizer_mode", "auto"),
        ("models.a.chat_template_args.bos_token", "<s>"),
        ("arms.a.instruction", "Write to me@example.org about http://example.org:80/a@b"),
    ],
)
def test_what_is_no_secret_is_taken(folder: Path, place: str, value: str) -> None:
    load(
        folder,
        settings("ab"),
        f"{place}={json.dumps(value)}" if " " in value else f"{place}={value}",
    )
