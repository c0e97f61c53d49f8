"""Batch files: requests out and results in, hop by hop, give what asking gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import digest_of, load, settings, table
from helpers.servers import completion, fake_server, remote
from helpers.shell import Shell

from hcache.errors import DataError
from hcache.experiment import Experiment
from hcache.sampling import Sampler
from hcache.sampling.batches import read_results, write_batch

Line = dict[str, Any]


@pytest.fixture
def shell(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return Shell(folder, capsys, monkeypatch)


def experiment(folder: Path, names: str = "ab", **sections: Any) -> Experiment:
    return load(folder, settings(names, models=remote(names), **sections))


def requests(*files: Path) -> list[Line]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def hosted(line: Line) -> Line:
    """A result in the form of hosted services."""
    body = completion(line["body"])
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": None}


def refused(line: Line, message: str, form: str = "hosted") -> Line:
    """A result that is an error, as services and vLLM's run-batch say it."""
    error = {"message": message, "code": "400"}
    if form == "hosted":
        response = {"status_code": 400, "body": {"error": error}}
        return {"custom_id": line["custom_id"], "response": response, "error": None}
    response = {"status_code": 400, "request_id": "r", "body": None}
    return {"custom_id": line["custom_id"], "response": response, "error": {"error": error}}


def write(path: Path, lines: Iterable[Line | str]) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_alternating_gives_what_asking_gives(folder: Path, shell: Shell) -> None:
    made = experiment(folder)
    sizes = []
    for _ in range(5):
        out = shell("plan", "experiment.yaml", "--batch", "out.jsonl")
        if "nothing that can be asked" in out:
            break
        files = sorted(folder.glob("out.*.jsonl"))
        assert [file.name for file in files] == ["out.a.jsonl", "out.b.jsonl"]  # a model each
        sizes.append(len(requests(*files)))
        for line in requests(*files):
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        results = [write(file.with_suffix(".back"), map(hosted, requests(file))) for file in files]
        given = [part for path in results for part in ("--from", path.name)]
        said = shell("sample", "experiment.yaml", *given)
        assert ("requests are not in the results" in said) == (len(sizes) < 2)
    assert sizes == [10, 20] and "5 of 5 queries complete" in said
    with fake_server() as fake:
        raw = settings("ab", models=remote("ab", fake.url), db="asked.duckdb")
        asked = load(folder, raw)
        Sampler(asked).run()
    assert digest_of(made.db) == digest_of(asked.db)


def test_other_models_are_asked_as_ever(folder: Path, shell: Shell) -> None:
    models = settings("ab")["models"] | remote("b")
    load(folder, settings("ab", models=models))
    for _ in range(4):
        shell("plan", "experiment.yaml", "--batch", "out.jsonl")
        write(folder / "back.jsonl", map(hosted, requests(folder / "out.jsonl")))
        said = shell("sample", "experiment.yaml", "--from", "back.jsonl")
        if "5 of 5 queries complete" in said:
            break
    else:
        raise AssertionError(said)
    assert len(table(folder / "small.duckdb", "generations")) == 30


def test_a_part_comes_back(folder: Path, shell: Shell) -> None:
    """What failed stays missing, is said, and is in the next file."""
    experiment(folder, "a")
    shell("plan", "experiment.yaml", "--batch", "out.jsonl")
    sent = requests(folder / "out.jsonl")
    assert len(sent) == 5
    back = [hosted(sent[0]), refused(sent[1], "busy"), refused(sent[2], "bad", "vllm"),
            refused(sent[3], "maximum context length is 8 tokens", "vllm")]  # fmt: skip
    write(folder / "back.jsonl", back)
    said = " ".join(shell("sample", "experiment.yaml", "--from", "back.jsonl").split())
    assert "2 lines of results hold no reply; the first is back.jsonl:2: busy" in said
    rows = table(folder / "small.duckdb", "generations")
    assert sorted(rows["finish_reason"]) == ["stop", "too_long"]
    shell("plan", "experiment.yaml", "--batch", "next.jsonl")
    again = {line["custom_id"] for line in requests(folder / "next.jsonl")}
    assert {sent[n]["custom_id"] for n in (1, 2, 4)} < again and len(again) == 4
    assert sent[0]["custom_id"] not in again
    # The same results once more change nothing.
    said = shell("sample", "experiment.yaml", "--from", "back.jsonl")
    assert "0 generations made" in said


def changed(line: Line, **body: Any) -> Line:
    result = hosted(line)
    result["response"]["body"] |= body
    return result


BAD: dict[str, tuple[Callable[[list[Line]], list[Line | str]], str]] = {
    "cut": (lambda sent: [hosted(sent[0]), json.dumps(hosted(sent[1]))[:99]], ":2: malformed"),
    "no object": (lambda sent: [hosted(sent[0]), "3"], ":2: "),
    "no id": (lambda sent: [hosted(sent[0]), {"response": {}}], ":2: has no custom_id"),
    "nothing": (lambda sent: [{"custom_id": sent[0]["custom_id"]}], ":1: has neither"),
    "no reply": (lambda sent: [changed(sent[0], choices=[])], ":1: holds no chat completion"),
    "no usage": (lambda sent: [changed(sent[0], usage=None)], "no chat completion (usage"),
    "stranger": (
        lambda sent: [hosted(sent[0]), hosted(sent[1] | {"custom_id": "someone"})],
        ":2: custom_id 'someone' is no request",
    ),
    "other model": (
        lambda sent: [hosted(sent[0]), changed(sent[1], model="other")],
        ":2: models.a: a was asked, and 'other' has replied",
    ),
    "contradiction": (
        lambda sent: [
            hosted(sent[0]), hosted(sent[1]),
            changed(sent[0], choices=[{"message": {"content": "no"}, "finish_reason": "stop"}]),
        ],
        ":3: holds another reply than ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_line_that_does_not_hold_is_named_and_nothing_is_taken(
    folder: Path, shell: Shell, kind: str
) -> None:
    make, message = BAD[kind]
    loaded = experiment(folder, "a")
    write_batch(loaded, folder / "out.jsonl")
    path = write(folder / "back.jsonl", make(requests(folder / "out.jsonl")))
    with pytest.raises(DataError) as caught:
        read_results(loaded, [path])
    assert message in caught.value.message and str(path) in caught.value.message
    said = shell("sample", "experiment.yaml", "--from", "back.jsonl", code=1)
    assert message.strip(":") in " ".join(said.split()) and not (folder / "small.duckdb").exists()


def test_lines_that_agree_and_a_reply_after_an_error_are_taken(folder: Path) -> None:
    loaded = experiment(folder, "a")
    write_batch(loaded, folder / "out.jsonl")
    sent = requests(folder / "out.jsonl")
    lines = [refused(sent[0], "busy"), *map(hosted, sent), hosted(sent[1]), refused(sent[1], "x")]
    results = read_results(loaded, [write(folder / "back.jsonl", lines)])
    assert len(results.generations) == 5


def test_lines_may_hold_fractions(folder: Path) -> None:
    loaded = experiment(folder, "a")
    write_batch(loaded, folder / "batch.jsonl")
    lines = [hosted(line) for line in requests(folder / "batch.jsonl")]
    for line in lines:
        content = [{"token": "x", "logprob": -0.5}]
        line["response"]["body"]["choices"][0]["logprobs"] = {"content": content}
    found = read_results(loaded, [write(folder / "results.jsonl", lines)])
    assert len(found.generations) == len(lines)


def test_batch_files_are_for_servers(folder: Path, shell: Shell) -> None:
    load(folder, settings("a"))
    said = shell("plan", "experiment.yaml", "--batch", "out.jsonl", code=1)
    assert "no model has engine openai" in said
    experiment(folder, "a")
    said = shell("plan", "experiment.yaml", "--batch", "a.json/out.jsonl", code=1)
    assert "cannot be written" in said
    said = shell("sample", "experiment.yaml", "--from", "nowhere.jsonl", code=1)
    assert "nowhere.jsonl" in said
