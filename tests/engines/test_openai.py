"""Servers as engines: nothing is lost or doubled, whatever goes wrong, and nothing is believed."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import facts, load, settings, table, write_scripts
from helpers.paths import ROOT
from helpers.servers import (
    HANG,
    MALFORMED,
    RESET,
    TRUNCATED,
    Behaviour,
    Body,
    Fault,
    fake_server,
    free_port,
    listens,
    remote,
)

from hcache.checking import check_database
from hcache.engines import Request, transport
from hcache.engines.chat import chat_body, is_overflow, read_completion
from hcache.engines.openai import OpenaiEngine
from hcache.errors import ArmError, ConfigError, EngineError, HcacheError, RequestError
from hcache.experiment import Experiment
from hcache.sampling import Sampler, Tally
from hcache.workflows import Message

README = (ROOT / "README.md").read_text(encoding="utf-8")
KEY = "canary-of-the-key"
LATER = Fault(status=429, headers=(("retry-after", "0"),))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses; no key and no server in the environment."""
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def run(folder: Path, *urls: str, names: str = "ab", db: str = "small", **server: Any) -> Tally:
    raw = settings(names, models=remote(names, *urls, **server), db=f"{db}.duckdb")
    return Sampler(load(folder, raw)).run()


def engine_of(folder: Path, url: str, **server: Any) -> OpenaiEngine:
    experiment = load(folder, settings("a", models=remote("a", url, **server)))
    return OpenaiEngine(experiment.pool[0], False)


def request(engine_folder: Path, url: str, key: str = "00" * 16, **server: Any) -> Request:
    experiment = load(engine_folder, settings("a", models=remote("a", url, **server)))
    return Request(key, experiment.pool[0], (Message("user", "one two"),), "", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    """What sampling finds where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_scripts(folder, "ab")
    with fake_server() as fake:
        tally = run(folder, fake.url)
        assert sum(tally.generated.values()) == len(fake.bodies) == 5 * (2 + 4)
    return facts(folder / "small.duckdb")


def test_replies_are_stored_with_what_they_took_and_who_gave_them(folder: Path) -> None:
    with fake_server() as fake:
        tally = run(folder, fake.url)
    assert tally.complete == 5 and not tally.missing
    rows = table(folder / "small.duckdb", "generations join provenance using (provenance_id)")
    assert len(rows) == 30
    for row in rows.iter_rows(named=True):
        words = row["text"].split()
        assert words[0] in "ab" and row["token_ids"] == [] and row["finish_reason"] == "stop"
        assert (row["prompt_tokens"], row["output_tokens"]) == (len(words) - 1, len(words))
        assert row["cached_tokens"] == row["reasoning_tokens"] == 1
        said = json.loads(row["facts"])
        assert said["asked"] == said["model"] == words[0] and said["system_fingerprint"] == "fp_1"
        assert said["endpoint"] == fake.url
    assert not check_database(folder / "small.duckdb").faults


def chance(seed: int) -> Behaviour:
    """A third of the requests fail, in ways drawn by a seed."""
    draw = random.Random(seed)
    kinds = [RESET, TRUNCATED, MALFORMED, LATER, Fault(), Fault(status=503), Fault(status=408)]
    return lambda number, body: draw.choice(kinds) if draw.random() < 1 / 3 else None


FAULTS: dict[str, Behaviour] = {
    **{
        fault.kind: lambda number, body, fault=fault: fault if number % 3 == 0 else None  # type: ignore[misc]
        for fault in (RESET, TRUNCATED, MALFORMED)
    },
    "hang": lambda number, body: HANG if number in (0, 5, 20) else None,
    "empty": lambda number, body: {"choices": []} if number % 3 == 0 else None,
    "no usage": lambda number, body: {"usage": None} if number % 3 == 0 else None,
    **{
        str(status): lambda number, body, status=status: (  # type: ignore[misc]
            Fault(status=status, headers=(("retry-after", "0"),)) if number % 3 == 0 else None
        )
        for status in (408, 409, 429, 500, 502, 503)
    },
    "all of them": chance(1),
    "all of them, otherwise": chance(2),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_lose_and_double_nothing(
    folder: Path, kind: str, undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    with fake_server(FAULTS[kind]) as fake:
        tally = run(folder, fake.url, retries=30)
        assert len(fake.bodies) > 30
    assert sum(tally.generated.values()) == 30 and tally.complete == 5
    assert facts(folder / "small.duckdb") == undisturbed


@pytest.mark.parametrize(
    ("fault", "message", "hint", "most"),
    [
        (Fault(status=401), "refuses without a key (status 401)", "Set OPENAI_API_KEY", 10),
        (Fault(status=403), "refuses without a key (status 403)", "Set OPENAI_API_KEY", 10),
        (Fault(status=404), "does not serve a (out of order)", "/models)", 10),
        (
            Fault(status=429, error={"message": "pay first", "code": "insufficient_quota"}),
            "(status 429, pay first)", "what was finished is kept", 10,
        ),
        (Fault(status=500), "(status 500, out of order)", "what was finished is kept", 30),
        (MALFORMED, "a broken reply", "what was finished is kept", 30),
        (HANG, "no reply within 1 s", "what was finished is kept", 30),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_one_message(
    folder: Path, fault: Fault, message: str, hint: str, most: int
) -> None:
    with fake_server(lambda number, body: fault) as fake:
        with pytest.raises(EngineError) as caught:
            run(folder, fake.url, names="a", retries=2)
        assert len(fake.bodies) <= most  # five questions
    assert message in caught.value.message and fake.url in caught.value.message
    assert hint in caught.value.hint and str(caught.value).count("no reply from") <= 1


def test_what_was_finished_before_a_failure_is_kept(
    folder: Path, undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    with fake_server(lambda number, body: Fault(status=401) if number >= 12 else None) as fake:
        with pytest.raises(EngineError, match="status 401"):
            run(folder, fake.url, concurrency=1)
        before = len(table(folder / "small.duckdb", "generations"))
        assert 0 < before <= 12
        fake.behaviour = lambda number, body: None
        tally = run(folder, fake.url)
    assert sum(tally.generated.values()) == 30 - before
    assert facts(folder / "small.duckdb") == undisturbed


def test_a_server_that_is_not_there_is_said_at_once(folder: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    since = time.monotonic()
    with pytest.raises(EngineError) as caught:
        run(folder, url, names="a", retries=50)
    assert time.monotonic() - since < 30
    assert f"no reply from {url} (" in caught.value.message and "efused" in caught.value.message
    assert "models.a.server.endpoints (or OPENAI_BASE_URL)" in caught.value.hint


def test_a_reply_of_another_model_is_an_error_unless_it_is_named(folder: Path) -> None:
    with fake_server(lambda number, body: {"model": "a-2026"}) as fake:
        with pytest.raises(EngineError, match="a was asked, and 'a-2026' has replied") as caught:
            run(folder, fake.url, names="a")
        assert "set models.a.server.served_as=a-2026" in caught.value.hint
        assert not len(table(folder / "small.duckdb", "generations"))
        assert run(folder, fake.url, names="a", served_as="a-2026").complete == 5


def test_a_prompt_that_is_refused_is_missing_and_the_rest_is_there(folder: Path) -> None:
    def refuse(number: int, body: Body) -> Fault | None:
        asked = body["messages"][0]["content"] == "train1\n\na train1"  # at the second hop
        return Fault(status=400, error={"message": "a filter"}) if asked else None

    with fake_server(refuse) as fake, pytest.raises(RequestError) as caught:
        run(folder, fake.url, names="a", concurrency=1)
    assert "refuses a prompt (status 400, a filter)" in caught.value.message
    assert len(table(folder / "small.duckdb", "trajectories")) == 5 + 4


def test_a_reply_that_was_withheld_is_missing(folder: Path) -> None:
    def withhold(number: int, body: Body) -> Body | None:
        message = {"content": ""}
        filtered = [{"message": message, "finish_reason": "content_filter"}]
        return {"choices": filtered} if "valid0" in body["messages"][0]["content"] else None

    with fake_server(withhold) as fake, pytest.raises(RequestError, match="'content_filter'"):
        run(folder, fake.url, names="a")
    assert len(table(folder / "small.duckdb", "generations")) == 4 * 2


def test_an_arm_whose_settings_are_refused_is_given_up_alone(folder: Path) -> None:
    def picky(number: int, body: Body) -> Fault | None:
        bad = body["temperature"] != 1
        return Fault(status=400, error={"message": "only 1 is taken"}) if bad else None

    models = remote("a", "")
    arms = {"good": {"model": "a", "temperature": 1}, "bad": {"model": "a", "temperature": 0.5}}
    with fake_server(picky) as fake:
        models["a"]["server"]["endpoints"] = [fake.url]
        raw = settings("a", models=models, workflow={"name": "relay", "hops": 1})
        raw["arms"] = arms
        with pytest.raises(EngineError, match=r"arms.bad: .* \(status 400, only 1 is taken\)"):
            Sampler(load(folder, raw)).run()
    assert len(table(folder / "small.duckdb", "generations")) == 5


def test_a_prompt_that_is_too_long_is_an_outcome(folder: Path) -> None:
    error = {"message": "This model's maximum context length is 8 tokens.", "code": 400}

    def overflow(number: int, body: Body) -> Fault | None:
        return Fault(status=400, error=error) if "test0" in body["messages"][0]["content"] else None

    with fake_server(overflow) as fake:
        tally = run(folder, fake.url, names="a")
    assert tally.complete == 5 and not tally.missing
    rows = table(folder / "small.duckdb", "generations")
    long = rows.filter(rows["finish_reason"] == "too_long")
    assert len(long) and set(long["prompt_tokens"]) == {0} and set(long["text"]) == {""}
    assert not check_database(folder / "small.duckdb").faults


@pytest.mark.parametrize(
    ("status", "code", "words", "overflows"),
    [
        (400, "context_length_exceeded", "", True),
        (400, "", "This model's maximum context length is 256 tokens. However, …", True),
        (400, "", "the request exceeds the available context size", True),
        (400, "", "prompt is too long: 210000 tokens > 200000 maximum", True),
        (400, "", "The input (300 tokens) is longer than the model's context length", True),
        (413, "", "payload too large", True),
        (400, "", "temperature must be at most 2", False),
        (400, "", "max_tokens is too large", False),
        (429, "", "too many tokens per minute", False),
    ],
)
def test_prompts_that_do_not_fit_are_told_from_other_refusals(
    status: int, code: str, words: str, overflows: bool
) -> None:
    assert is_overflow(status, code, words) is overflows


def test_work_is_shared_among_endpoints_and_bounded(folder: Path) -> None:
    with fake_server() as one, fake_server() as two:
        one.delay = two.delay = 0.02
        tally = run(folder, one.url, two.url, names="a", concurrency=2)
        assert tally.complete == 5
        assert dict(tally.endpoints) == {each.url: len(each.bodies) for each in (one, two)}
        assert one.most <= 2 and two.most <= 2
        assert len(one.bodies) > 2 and len(two.bodies) > 2
        assert len(one.bodies) + len(two.bodies) == 10


def test_an_endpoint_that_dies_leaves_its_work_to_the_other(
    folder: Path, undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    dead: Behaviour = lambda number, body: RESET if number >= 2 else None  # noqa: E731
    with fake_server(dead) as one, fake_server() as two:
        assert run(folder, one.url, two.url, concurrency=2).complete == 5
        assert len(two.bodies) >= 20
    assert facts(folder / "small.duckdb") == undisturbed


def test_a_server_that_goes_and_comes_back_is_waited_for(
    folder: Path,
    undisturbed: dict[str, list[tuple[Any, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.05)
    port, gone, done = free_port(), threading.Event(), threading.Event()
    asked: list[int] = []

    def serve() -> None:
        with fake_server(lambda number, body: RESET if gone.is_set() else None, port) as first:
            first.delay = 0.02
            while len(first.bodies) < 8:
                time.sleep(0.005)
            gone.set()
        time.sleep(0.5)
        with fake_server(port=port) as second:
            done.wait(60)
            asked.append(len(second.bodies))

    thread = threading.Thread(target=serve)
    thread.start()
    url, ends = f"http://127.0.0.1:{port}/v1", time.monotonic() + 10
    while time.monotonic() < ends and not listens(port):
        time.sleep(0.01)
    try:
        tally = run(folder, url, concurrency=1, retries=40)
    finally:
        done.set()
        thread.join()
    assert asked[0] >= 20 and sum(tally.generated.values()) == 30
    assert facts(folder / "small.duckdb") == undisturbed


def test_a_proxy_that_is_none_is_said_and_not_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", "nothing://u:canary@x")
    with pytest.raises(EngineError, match="proxy or the certificates") as caught:
        run(folder, "https://example.org/v1", names="a")
    assert "canary" not in str(caught.value)


def test_retry_after_is_kept_to(folder: Path) -> None:
    times: list[float] = []

    def later(number: int, body: Body) -> Fault | None:
        times.append(time.monotonic())
        fault = Fault(status=429, headers=(("retry-after", "0.7"),))
        return fault if number == 0 else None

    with fake_server(later) as fake:
        engine = engine_of(folder, fake.url)
        engine.submit(request(folder, fake.url))
        assert [each.text for each in until(engine)] == ["a one two"]
        engine.close()
    assert times[1] - times[0] >= 0.7


@pytest.mark.parametrize("text", ["0", "3", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", ""])
def test_any_retry_after_is_read(text: str) -> None:
    said = transport._retry_after(text)
    assert said == (3.0 if text == "3" else None if text in ("soon", "") else 0.0)


def until(engine: OpenaiEngine, seconds: float = 20.0) -> list[Any]:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if finished := engine.step():
            return finished
    raise AssertionError("nothing finished")


def test_the_driver_never_waits_and_what_is_aborted_stays_away(folder: Path) -> None:
    with fake_server(lambda number, body: HANG if number < 40 else None) as fake:
        engine = engine_of(folder, fake.url, timeout=60)
        since = time.monotonic()
        for number in range(40):
            engine.submit(request(folder, fake.url, f"{number:032x}"))
        assert engine.step() == []
        engine.abort()
        assert engine.step() == []
        while len(fake.bodies) < 32 and time.monotonic() - since < 1:
            time.sleep(0.01)
        fake.behaviour = lambda number, body: None
        engine.submit(request(folder, fake.url, "aa" * 16))
        assert [each.key for each in until(engine)] == ["aa" * 16]
        engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "hcache-http"]


# What is asked


def body_of(folder: Path, arm: dict[str, Any], **model: Any) -> Body:
    models = {"m": {"path": "org/name", "engine": "openai", **model}}
    raw = settings("a", models=models) | {"arms": {"a": {"model": "m", **arm}}}
    arm_of = load(folder, raw).pool[0]
    return dict(chat_body(Request("0f" * 16, arm_of, (Message("user", "Hi"),), "", 0), False))


def test_a_request_says_what_the_arm_says(folder: Path) -> None:
    plain = {"model": "org/name", "messages": [{"role": "user", "content": "Hi"}]}
    assert body_of(folder, {}) == plain | {"max_tokens": 64, "temperature": 0.0}
    drawn = {"temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "max_tokens": 5}
    assert body_of(
        folder,
        drawn,
        server={"length_field": "max_completion_tokens"},
        chat_template_args={"enable_thinking": False},
        engine_args={"reasoning_effort": "low", "seed": None},
    ) == plain | {
        "max_completion_tokens": 5, "temperature": 0.7, "top_p": 0.9, "stop": ["\n"],
        "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low",
    }  # fmt: skip
    assert body_of(folder, {"temperature": 1})["seed"] == int("0f0f0f0f", 16) >> 1


def test_identity_is_the_model_that_replies_and_what_it_is_asked(folder: Path) -> None:
    def fingerprint(**model: Any) -> str:
        models = {"a": {"path": "a", "engine": "openai", **model}}
        return load(folder, settings("a", models=models)).pool[0].fingerprint

    same = [
        fingerprint(server={"endpoints": ["http://x/v1"], "timeout": 3, "retries": 1}),
        fingerprint(server={"api_key_env": "MINE", "concurrency": 5}),
        fingerprint(engine_args={"return_token_ids": True, "user": "me"}),
        fingerprint(path="alias", server={"served_as": "a"}),
    ]
    assert set(same) == {fingerprint()}
    other = [
        fingerprint(path="b"),
        fingerprint(server={"served_as": "a-2026"}),
        fingerprint(engine_args={"reasoning_effort": "low"}),
        fingerprint(chat_template_args={"enable_thinking": False}),
        fingerprint(engine="scripted", path="a.json"),
    ]
    assert len({*other, *same}) == 6


def test_ids_and_thoughts_that_a_server_gives_are_kept(folder: Path) -> None:
    message = {"role": "assistant", "content": "42", "reasoning_content": "6 times 7"}
    choice = {"message": message, "finish_reason": "length", "token_ids": [5, 6]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 9}
    told = {"choices": [choice], "usage": usage, "prompt_token_ids": [1, 2, 3]}
    with fake_server(lambda number, body: told) as fake:
        engine = engine_of(folder, fake.url)
        engine.submit(request(folder, fake.url))
        (said,) = until(engine)
        engine.close()
    assert said.text == "<think>6 times 7</think>42" and said.token_ids == (5, 6)
    assert said.finish_reason == "length" and said.output_tokens == 6 and len(said.prompt_key) == 32


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"model": "a", "choices": [], "usage": {}}', '{"model": "a"', "\x00",
     '{"model":"a","choices":[{"message":{"content":"x"},"finish_reason":"stop"}],'
     '"usage":{"prompt_tokens":0,"completion_tokens":1}}', b"\xff\xfe"],
)  # fmt: skip
def test_what_is_no_reply_is_none(content: str | bytes) -> None:
    with pytest.raises(ValueError):
        read_completion(content)


def test_the_example_of_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"^```\n(db: api.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert example.count("\n") == 10
    (folder / "mine.yaml").write_text(example, encoding="utf-8")
    rows = [{"question": f"question {number}", "answer": "small"} for number in range(30)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")

    def dated(number: int, body: Body) -> Body:
        return {"model": f"{body['model']}-2025-04-14"}

    with fake_server(dated) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        experiment = Experiment.load(folder / "mine.yaml", db=folder / "api.duckdb")
        tally = Sampler(experiment).run()
    assert tally.complete == 30 and 0 < tally.spent < 5


# Settings that do not hold, and secrets


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"server": {"endpoints": ["ftp://x"]}}, "server.endpoints.0: is no base URL"),
        ({"server": {"endpoints": ["http://x/v1?key=canary"]}}, "is no base URL"),
        ({"server": {"endpoints": ["http://canary@x/v1"]}}, "is no base URL"),
        ({"server": {"endpoints": ["http://u:canary@x/v1"]}}, "holds a secret"),
        ({"server": {"api_key_env": "sk-canary"}}, "api_key_env: is no name of an environment"),
        ({"server": {"retires": 3}}, "did you mean 'retries'"),
        ({"engine": "scripted", "server": {}}, "a model with engine scripted has none"),
        ({"engine_args": {"max_tokens": 3}}, "follows arms.A.max_tokens"),
        ({"engine_args": {"stream": None}}, "engine_args.stream: follows nothing"),
        ({"chat_template": "x.jinja"}, "it is the server that has the model"),
        ({"adapter": "folder"}, "it is the server that has the model"),
        ({"quantization": "fp8"}, "it is the server that has the model"),
    ],
)
def test_settings_that_do_not_hold_are_refused(
    folder: Path, model: dict[str, Any], message: str
) -> None:
    models = {"a": {"path": "a", "engine": "openai", **model}}
    with pytest.raises(ConfigError) as caught:
        _ = load(folder, settings("a", models=models)).pool
    assert message in str(caught.value) and "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("urls", "environment", "message"),
    [
        ([], {}, "endpoints: missing, and OPENAI_BASE_URL is not set"),
        ([], {"OPENAI_BASE_URL": "http://u:canary@x"}, "OPENAI_BASE_URL is no base URL"),
        (["https://example.org/v1"], {}, "OPENAI_API_KEY is not set"),
        (["http://127.0.0.1:1/v1"], {"OPENAI_API_KEY": "canary\nary"}, "holds is no key"),
    ],
)
def test_an_environment_that_does_not_hold_is_said(
    folder: Path,
    urls: list[str],
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError) as caught:
        run(folder, *urls, names="a")
    assert message in str(caught.value) and "canary" not in str(caught.value)


@pytest.mark.parametrize("status", [0, 200, 400, 401, 404, 500])
def test_the_key_is_sent_and_kept_nowhere(
    folder: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the server repeats it."""
    monkeypatch.setenv("MY_KEY", KEY)
    repeat = Fault(status=status, error={"message": f"the key {KEY} is bad"})
    told = {"system_fingerprint": "x"} if status == 200 else repeat
    with fake_server(lambda number, body: told if status else RESET) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        try:
            run(folder, names="a", api_key_env="MY_KEY", retries=1)
            said = ""
        except HcacheError as error:
            said = str(error)
        assert set(fake.keys) == {f"Bearer {KEY}"}
    assert bool(said) == (status != 200) and KEY not in said
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_an_arm_that_is_refused_is_not_asked_further(folder: Path) -> None:
    with fake_server(lambda number, body: Fault(status=422)) as fake:
        engine = engine_of(folder, fake.url)
        engine.submit(request(folder, fake.url))
        with pytest.raises(RequestError):
            until(engine)
        with pytest.raises(ArmError, match="status 422"):
            engine.submit(request(folder, fake.url, "bb" * 16))
        engine.close()
        assert len(fake.bodies) == 1
