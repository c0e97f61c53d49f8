"""Readers: each format as published, and each defect with its exact place."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import SHARED

from hcache.data.metrics import METRICS, program_of
from hcache.data.queries import Query
from hcache.data.readers import READERS, read
from hcache.data.source import Source
from hcache.errors import ConfigError, DataError

real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")

ROW = {"question": "Where?", "answer": "Paris"}
HOTPOT = {
    "_id": "1",
    "question": " Who lives in the Andes? ",
    "answer": "Ann",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Ann", 1], ["Andes", 0], ["Ann", 0]],
    "context": [
        ["Andes", ["The Andes are high.", " Very high."]],
        ["Lyon", ["Lyon is a city."]],
        ["Ann", ["Ann said: ", '"Hi!"', " She lives high."]],
    ],
}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, content: str | bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"question": " Where? ", "answer": " Paris ", "kind": "place"}\n'
        "\n"
        '{"question": "How many?", "answer": 3.50}\r\n'
        '{"question": "Who?", "answer": ["Ann", 7], "context": "Ann is here.", "kind": null}\n'
        '{"question": "When?", "answers": ["now"], "context": ["One.", " ", "Two."]}',
    )
    assert read("jsonl", path, dataset="own") == [
        Query("Where?", ("Paris",), "own", "place"),
        Query("How many?", ("3.50",), "own"),
        Query("Ann is here.\n\nQuestion: Who?", ("Ann", "7"), "own"),
        Query("One.\n\nTwo.\n\nQuestion: When?", ("now",), "own"),
    ]


def test_jsonl_takes_the_fields_it_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, lines({"q": "Where?", "gold": "Paris", "text": "T.", "task": "geo"}))
    options = {"question": "q", "answer": "gold", "context": "text", "kind": "task"}
    assert read("jsonl", path, dataset="d", options=options) == [
        Query("T.\n\nQuestion: Where?", ("Paris",), "d", "geo")
    ]
    options["passages"] = "text"
    (query,) = read("jsonl", path, dataset="d", options=options)
    assert query.passages == ("T.",)


def test_jsonl_passages_stand_beside_the_question(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "answer": "x", "passages": [" Ann is here. ", " ", "Bob is not."]},
        {"question": "What?", "answer": "x", "passages": "One."},
        {"question": "When?", "answer": "x", "passages": None},
    ]
    read_rows = read("jsonl", write(tmp_path, lines(*rows)), dataset="d")
    assert read_rows == [
        Query("Who?", ("x",), "d", passages=("Ann is here.", "Bob is not.")),
        Query("What?", ("x",), "d", passages=("One.",)),
        Query("When?", ("x",), "d"),
    ]


@pytest.mark.parametrize("field", ["question", "answer", "context", "kind", "passages"])
def test_a_field_that_an_option_names_must_be_there(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, lines(ROW | {"answers": ["Paris"]}))
    with pytest.raises(DataError, match=r"data\.jsonl:1: 'other' is missing.*answers"):
        read("jsonl", path, dataset="d", options={field: "other"})


def test_the_id_holds_the_data_set(tmp_path: Path) -> None:
    path = write(tmp_path, lines(ROW))
    (one,), (other,) = (read("jsonl", path, dataset=name) for name in ("one", "other"))
    assert one.id != other.id


SUPPORTING = """\
Andes: The Andes are high. Very high.

Ann: Ann said: "Hi!" She lives high.

Question: Who lives in the Andes?"""


@pytest.mark.parametrize(
    ("passages", "question"),
    [
        (None, SUPPORTING),
        ("supporting", SUPPORTING),
        ("all", SUPPORTING.replace("Ann: ", "Lyon: Lyon is a city.\n\nAnn: ", 1)),
        ("none", "Who lives in the Andes?"),
    ],
)
def test_hotpotqa(tmp_path: Path, passages: str | None, question: str) -> None:
    options = {"passages": passages} if passages else None
    (query,) = read("hotpotqa", write(tmp_path, lines(HOTPOT)), dataset="h", options=options)
    assert query == Query(question, ("Ann",), "h", "bridge")


def columns(pairs: object, second: str) -> dict[str, list[object]]:
    """Pairs as the hub has them: an object of two lists."""
    assert isinstance(pairs, list)
    return {"title": [pair[0] for pair in pairs], second: [pair[1] for pair in pairs]}


@pytest.mark.parametrize("passages", ["supporting", "all", "none"])
def test_hotpotqa_with_the_columns_of_the_hub(tmp_path: Path, passages: str) -> None:
    row = HOTPOT | {
        "context": columns(HOTPOT["context"], "sentences"),
        "supporting_facts": columns(HOTPOT["supporting_facts"], "sent_id"),
    }
    hub, published = (
        read("hotpotqa", write(tmp_path, lines(item)), dataset="h", options={"passages": passages})
        for item in (row, HOTPOT)
    )
    assert hub == published


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("blank", ["", " \n\n"])
def test_one_json_array_reads_as_lines_do(tmp_path: Path, indent: int | None, blank: str) -> None:
    rows = [HOTPOT, HOTPOT | {"question": "Who else?"}]
    wanted = read("hotpotqa", write(tmp_path, lines(*rows)), dataset="h")
    array = blank + json.dumps(rows, indent=indent) + blank
    assert read("hotpotqa", write(tmp_path, array, "array.json"), dataset="h") == wanted


def test_gsm8k(tmp_path: Path) -> None:
    path = write(tmp_path, lines({"question": "How many?", "answer": "1 + 1079\n#### 1,080"}))
    assert read("gsm8k", path, dataset="g") == [Query("How many?", ("1,080",), "g")]


@pytest.mark.parametrize(
    "name",
    ["world_facts.csv", "world_facts_test.csv", "world_facts_dev.csv.gz", "world_facts_val.csv"],
)
def test_mmlu(tmp_path: Path, name: str) -> None:
    text = '"Which, of\nthese?",one, two ,"3, or 4",5,C\nWhich?,1,2,3,4,A\n'
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    assert read("mmlu", write(tmp_path, content, name), dataset="m") == [
        Query("Which, of\nthese?\nA. one\nB. two\nC. 3, or 4\nD. 5", ("C",), "m", "world_facts"),
        Query("Which?\nA. 1\nB. 2\nC. 3\nD. 4", ("A",), "m", "world_facts"),
    ]


MMLU = {"question": " Which? ", "subject": "facts", "choices": ["1", " 2", "3", "4"], "answer": 2}


@pytest.mark.parametrize("name", ["test.jsonl", "test.json", "test.jsonl.gz"])
def test_mmlu_in_json_reads_as_csv_does(tmp_path: Path, name: str) -> None:
    bare = {key: value for key, value in MMLU.items() if key != "subject"}
    content = lines(MMLU, bare | {"question": "Who?", "answer": 0}).encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    one, other = read("mmlu", write(tmp_path, content, name), dataset="m")
    assert [one] == read("mmlu", write(tmp_path, "Which?,1,2,3,4,C\n", "facts.csv"), dataset="m")
    assert other == Query("Who?\nA. 1\nB. 2\nC. 3\nD. 4", ("A",), "m")


def test_humaneval_has_tests_with_a_place_for_the_answer(tmp_path: Path) -> None:
    row = {
        "prompt": "def one():\n    'One.'\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(f):\n    assert f() == 1\n",
        "entry_point": "one",
    }
    path = write(tmp_path, lines(row))
    [query] = read("humaneval", path, dataset="c", metrics=["pass@1", "f1"])
    assert query.references == ("    return 1\n",)
    for answer in ("    return 1", "def one():\n    return 1"):
        exec(program_of(answer, query.tests), {})
    with pytest.raises(AssertionError):
        exec(program_of("    return 2", query.tests), {})


def test_metric_that_runs_tests_needs_some(tmp_path: Path) -> None:
    for row in ({}, {"tests": "assert True"}):
        path = write(tmp_path, lines({"question": "q", "answer": "a"} | row))
        with pytest.raises(DataError, match=r"data\.jsonl:1: .*needs tests with a line {answer}"):
            read("jsonl", path, dataset="c", metrics=["pass@1"])
    path = write(tmp_path, lines({"question": "q", "answer": "a", "check": "{answer}"}))
    [query] = read("jsonl", path, dataset="c", metrics=["pass@1"], options={"tests": "check"})
    assert query.tests == "{answer}"


def test_humaneval_keeps_every_space(tmp_path: Path) -> None:
    row = {"prompt": "\n\ndef f():\n", "canonical_solution": "    return 1\n", "test": "assert 0"}
    path = write(tmp_path, lines(row))
    assert read("humaneval", path, dataset="c") == [
        Query("\n\ndef f():\n", ("    return 1\n",), "c")
    ]


def test_gzip_is_known_by_content_and_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"\xef\xbb\xbf" + lines(ROW).encode()), "no_suffix")
    assert read("jsonl", path, dataset="d") == [Query("Where?", ("Paris",), "d")]


def test_limit_takes_the_first_rows_and_reads_no_further(tmp_path: Path) -> None:
    rows = [ROW | {"question": str(n)} for n in range(3)]
    path = write(tmp_path, lines(*rows) + "not JSON\n")
    first = read("jsonl", path, dataset="d", limit=2)
    assert [query.question for query in first] == ["0", "1"]
    assert len(read("jsonl", path, dataset="d", limit=3)) == 3
    with pytest.raises(DataError, match=r"data\.jsonl:4: malformed JSON"):
        read("jsonl", path, dataset="d", limit=4)
    whole = write(tmp_path, lines(*rows), "whole.jsonl")
    assert len(read("jsonl", whole, dataset="d", limit=99)) == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_is_at_least_one(tmp_path: Path, limit: int) -> None:
    with pytest.raises(ConfigError, match="limit"):
        read("jsonl", write(tmp_path, lines(ROW)), dataset="d", limit=limit)


def test_references_that_a_metric_cannot_meet(tmp_path: Path) -> None:
    answers: list[object] = ["18", r"10\sqrt{2}", "3:45", ["three", "3"], "72%"]
    rows = [{"question": str(n), "answer": answer} for n, answer in enumerate(answers)]
    path = write(tmp_path, lines(*rows))
    assert len(read("jsonl", path, dataset="d", metrics=["f1", "em"])) == 5
    assert len(read("jsonl", path, dataset="d", metrics=["numeric"], limit=1)) == 1
    with pytest.raises(DataError) as caught:
        read("jsonl", path, dataset="d", metrics=["f1", "numeric"])
    assert str(caught.value).startswith(f"{path}:2: the metric 'numeric' needs a number")
    assert "sqrt{2}' (2 of 5 rows have none). Give these rows" in str(caught.value)
    with pytest.raises(DataError, match=r":1: the metric 'choice' needs a letter .*5 of 5 rows"):
        read("jsonl", path, dataset="d", metrics=["choice"])


def test_plain_functions_as_metrics_take_any_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS.entries, "own", lambda answer, references: 0.5)
    path = write(tmp_path, lines(ROW))
    assert read("jsonl", path, dataset="d", metrics=["own"])


def test_mmlu_by_the_default_metrics(tmp_path: Path) -> None:
    path = write(tmp_path, "Which?,1,2,3,4,A\nWho?,1,2,3,4,B\n", "facts.csv")
    for query in read("mmlu", path, dataset="m", metrics=["f1", "em"]):
        for metric in ("f1", "em"):
            scores = [METRICS.find(metric)(reply, query.references) for reply in "ABCD"]
            assert scores == [float(letter == query.references[0]) for letter in "ABCD"]


def test_unknown_reader(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown reader 'squad'.*gsm8k, hotpotqa, humaneval"):
        read("squad", tmp_path, dataset="d")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsonl", {"query": "q"}, "'jsonl' has no option 'query'.*question, answer, context, kind"),
        ("gsm8k", {"passages": "all"}, "'gsm8k' has no option 'passages'.*none"),
        ("jsonl", {"answer": 3}, "option 'answer' is 3.*such as 'answer'"),
        ("hotpotqa", {"passages": True}, "option 'passages' is True.*such as 'supporting'"),
        ("hotpotqa", {"passages": "some"}, "passages is 'some'.*supporting, all, none"),
    ],
)
def test_bad_options(tmp_path: Path, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(name, write(tmp_path, lines(HOTPOT)), dataset="d", options=options)


JSONL_DEFECTS: dict[str, tuple[str | bytes, str]] = {
    "cut off": ('{"question": "Who?"\n', ":2: malformed JSON: Expecting ',' delimiter"),
    "two on a line": ("{} {}\n", ":2: malformed JSON: text after the end of the object"),
    "not a number": ('{"question": "Who?", "answer": NaN}', ":2: malformed JSON: NaN"),
    "too deep": ("[" * 100_000, ":2: malformed JSON"),
    "too long a number": ('{"answer": ' + "9" * 5_000 + "}", ":2: malformed JSON"),
    "a list": ("[1]", ":2: a list where an object is needed"),
    "null": ("null", ":2: null where an object is needed"),
    "no question": ('{"answer": "x"}', ":2: 'question' is missing. Fields here: answer."),
    "empty question": ('{"question": " ", "answer": "x"}', ":2: 'question' is empty."),
    "question type": ('{"question": 3, "answer": "x"}', ":2: 'question' is a number; need"),
    "no answer": ('{"question": "Who?"}', ":2: 'answer' is missing. Fields here: question."),
    "null answer": ('{"question": "Who?", "answer": null}', ":2: 'answer' is null; need"),
    "empty answer": ('{"question": "Who?", "answer": ""}', ":2: 'answer' is empty."),
    "no answers": ('{"question": "Who?", "answers": []}', ":2: 'answers' is empty."),
    "one empty": ('{"question": "Who?", "answers": ["x", ""]}', ":2: 'answers' is empty."),
    "boolean": ('{"question": "Who?", "answer": true}', ":2: 'answer' is a boolean; need"),
    "nested": ('{"question": "Who?", "answer": [["x"]]}', ":2: 'answer' is a list; need"),
    "context": (
        '{"question": "Who?", "answer": "x", "context": {}}',
        ":2: 'context' is an object; need a string or a list of strings",
    ),
    "passages": (
        '{"question": "Who?", "answer": "x", "passages": ["y", 1]}',
        ":2: 'passages' is a list; need a string or a list of strings",
    ),
    "kind": ('{"question": "Who?", "answer": "x", "kind": 1}', ":2: 'kind' is a number; need"),
    "surrogate": (r'{"question": "Who \ud800", "answer": "x"}', ":2: holds half a surrogate"),
    "surrogate passage": (
        r'{"question": "Who", "answer": "x", "passages": "\ud800"}',
        ":2: holds half a surrogate",
    ),
    "not UTF-8": (b'{"question": "Who\xff"}', ":2: is not UTF-8"),
}


@pytest.mark.parametrize("case", JSONL_DEFECTS)
def test_defects_of_json_lines(tmp_path: Path, case: str) -> None:
    bad, message = JSONL_DEFECTS[case]
    content = lines(ROW).encode() + (bad.encode() if isinstance(bad, str) else bad)
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read("jsonl", path, dataset="d")
    assert str(caught.value).startswith(f"{path}{message.replace('{path}', str(path))}")


ARRAY_DEFECTS = {
    "cut off": ("[%s,\n%s", ":2 (item 2): malformed JSON: no ',' or ']'"),
    "cut off inside": ('[%s,\n{"question":\n', ":3 (item 2): malformed JSON"),
    "comma at the end": ("[%s,\n]", ":2 (item 2): malformed JSON"),
    "no comma": ("[%s\n%s]", ":1 (item 1): malformed JSON: no ',' or ']'"),
    "text after": ("[%s\n] x", ":2 (item 1): malformed JSON: text after the end"),
    "not an object": ("[\n%s,\n3]", ":3 (item 2): a number where an object is needed"),
    "no answer": ('\n\n[%s,\n\n{"question": "Who?"}]', ":5 (item 2): 'answer' is missing."),
}


@pytest.mark.parametrize("case", ARRAY_DEFECTS)
def test_defects_of_json_arrays(tmp_path: Path, case: str) -> None:
    template, message = ARRAY_DEFECTS[case]
    content = template
    for number in range(template.count("%s")):
        content = content.replace("%s", json.dumps(ROW | {"question": str(number)}), 1)
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read("jsonl", path, dataset="d")
    assert str(caught.value).startswith(f"{path}{message.replace('{path}', str(path))}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": None}, "'context' is null; need a list of [title, [sentences]]"),
        ({"context": "text"}, "'context' is a string; need"),
        ({"context": {"title": []}}, "'context' is an object; need"),
        (
            {"context": {"title": ["Ann"], "sentences": []}},
            "'context' is an object; need a list of [title, [sentences]], or an object with "
            "equally many items in 'title' and 'sentences'",
        ),
        ({"context": {"title": [1], "sentences": [[]]}}, "'context' has an item that is not"),
        ({"context": {"title": [], "sentences": []}}, "'context' lacks the supporting"),
        ({"context": {"title": ["Ann"], "sentences": ["x"]}}, "'context' has an item that is"),
        ({"supporting_facts": {"title": ["Ann"], "sent_id": 0}}, "'supporting_facts' is an object"),
        ({"supporting_facts": {"title": [], "sent_id": []}}, "'supporting_facts' is empty"),
        ({"context": [["Ann"]]}, "'context' has an item that is not [title, [sentences]]"),
        ({"context": [["Ann", "text"]]}, "'context' has an item that is not"),
        ({"context": [["Ann", [1]]]}, "'context' has a sentence that is not a string"),
        ({"context": []}, "'context' lacks the supporting paragraph 'Ann'. Read the file with"),
        ({"supporting_facts": [["Bob", 0]]}, "'context' lacks the supporting paragraph 'Bob'"),
        ({"supporting_facts": []}, "'supporting_facts' is empty. Read the file with the option"),
        ({"supporting_facts": [["Ann", "0"]]}, "'supporting_facts' has an item that is not"),
        ({"answer": ""}, "'answer' is empty"),
        ({"type": 3}, "'type' is a number; need a string"),
    ],
)
def test_defects_of_hotpotqa(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path, lines(HOTPOT, HOTPOT | {"question": "Who?"} | change))
    with pytest.raises(DataError) as caught:
        read("hotpotqa", path, dataset="h")
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_passages_need_only_the_fields_they_show(tmp_path: Path) -> None:
    bare = {key: HOTPOT[key] for key in ("question", "answer")}
    path = write(tmp_path, lines(bare))
    assert read("hotpotqa", path, dataset="h", options={"passages": "none"})
    path = write(tmp_path, lines(bare | {"context": HOTPOT["context"]}))
    assert read("hotpotqa", path, dataset="h", options={"passages": "all"})


@pytest.mark.parametrize("answer", ["72", "no number ####", "#### many", "#### 3:45"])
def test_defects_of_gsm8k(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path, lines({"question": "How many?", "answer": answer}))
    with pytest.raises(DataError, match=r"data\.jsonl:1: 'answer' does not end in ####"):
        read("gsm8k", path, dataset="g")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("Who?,1,2,3,A\n", "5 columns; need question, four options and letter"),
        ("Who?,1,2,3,4,E\n", "the answer is 'E', not a letter from A to D"),
        ("Who?,1,2, ,4,A\n", "column 4 is empty"),
        ("Who?,1,2,3,4,\n", "column 6 is empty"),
        (",1,2,3,4,A\n", "column 1 is empty"),
        ('"Who?,1,2,3,4,A\nWhy?,1,2,3,4,A\n', "malformed CSV: unexpected end of data"),
        ('"Who"?,1,2,3,4,A\n', "malformed CSV: ',' expected after"),
    ],
)
def test_defects_of_mmlu(tmp_path: Path, bad: str, message: str) -> None:
    path = write(tmp_path, f'"Which\none?",1,2,3,4,A\n\n{bad}', "facts.csv")
    with pytest.raises(DataError) as caught:
        read("mmlu", path, dataset="m")
    assert str(caught.value).startswith(f"{path}:4: {message.replace('{path}', str(path))}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": None}, "'choices' is null; need a list of four strings"),
        ({"choices": ["1", "2", "3"]}, "'choices' is a list; need a list of four strings"),
        ({"choices": [1, 2, 3, 4]}, "'choices' is a list; need a list of four strings"),
        ({"choices": ["1", "2", " ", "4"]}, "item 3 of 'choices' is empty"),
        ({"answer": "C"}, "'answer' is a string; need a whole number from 0 to 3"),
        ({"answer": True}, "'answer' is a boolean; need"),
        ({"answer": 4}, "'answer' is 4, not a whole number from 0 to 3"),
        ({"answer": -1}, "'answer' is -1, not"),
        ({"question": ""}, "'question' is empty"),
        ({"subject": 3}, "'subject' is a number; need a string"),
    ],
)
def test_defects_of_mmlu_in_json(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path, lines(MMLU, MMLU | {"question": "Who?"} | change))
    with pytest.raises(DataError) as caught:
        read("mmlu", path, dataset="m")
    assert str(caught.value).startswith(f"{path}:2: {message.replace('{path}', str(path))}")


@pytest.mark.parametrize("name", [name for name in READERS if name != "recorded"])
@pytest.mark.parametrize("content", ["", "\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=r"data\.jsonl: holds no rows"):
        read(name, path, dataset="d")


def test_an_empty_array(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read("jsonl", write(tmp_path, "[ ]\n"), dataset="d")
    with pytest.raises(DataError, match=r":1: malformed JSON: text after the end"):
        read("jsonl", write(tmp_path, "[]]"), dataset="d")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file\. Looked for /"):
        read("jsonl", tmp_path / "none.jsonl", dataset="d")
    with pytest.raises(DataError, match="holds no rows"):
        read("jsonl", tmp_path, dataset="d")


def test_hotpotqa_passages_may_stand_apart(tmp_path: Path) -> None:
    path = write(tmp_path, lines(HOTPOT))
    (within,) = read("hotpotqa", path, dataset="d", options={"passages": "all"})
    (apart,) = read("hotpotqa", path, dataset="d", options={"passages": "all", "apart": True})
    assert within.passages == ()
    assert [text.split(":")[0] for text in apart.passages] == ["Andes", "Lyon", "Ann"]
    assert within.question == "\n\n".join([*apart.passages, f"Question: {apart.question}"])
    assert apart.id != Query(apart.question, apart.references, "d", apart.kind).id


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    for name, question in (("b", "Two?"), ("a", "One?"), (".hidden", "Never?")):
        row = {"question": question, "answer": "x"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / ".hidden.jsonl").rename(tmp_path / ".hidden")
    assert [query.question for query in read("jsonl", tmp_path, dataset="d")] == ["One?", "Two?"]
    (tmp_path / "c.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    again = read("jsonl", tmp_path, dataset="d")
    assert [query.question for query in again] == ["One?", "Two?", "One?"]
    assert [query.place for query in again] == [f"{tmp_path / name}.jsonl:1" for name in "abc"]


@pytest.mark.parametrize("cut", [12, -4])
def test_a_download_that_was_cut_off(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, gzip.compress(lines(ROW).encode())[:cut])
    with pytest.raises(DataError, match="cannot be read after line"):
        read("jsonl", path, dataset="d")


def test_a_new_reader_is_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS, "entries", {})

    @READERS.register("pairs")
    def pairs(source: Source, *, answer: str = "x") -> Iterator[Query]:
        """One question per line."""
        for line in source.lines():
            yield Query(line.strip(), (answer,))

    path = write(tmp_path, "Who?\nWhere?\nWho?\n")
    options = {"answer": "y"}
    assert read("pairs", path, dataset="p", options=options, limit=1) == [
        Query("Who?", ("y",), "p")
    ]
    assert [query.place for query in read("pairs", path, dataset="p")] == [
        f"{path}:{line}" for line in (1, 2, 3)
    ]


@real_data
@pytest.mark.parametrize(("split", "rows"), [("train", 300), ("valid", 100)])
def test_real_hotpotqa(split: str, rows: int) -> None:
    path = SHARED / "hotpotqa" / f"{split}.jsonl"
    read_as = {
        passages: read("hotpotqa", path, dataset="hotpotqa", options={"passages": passages})
        for passages in ("supporting", "all", "none")
    }
    assert [len(queries) for queries in read_as.values()] == [rows] * 3
    assert {query.kind for query in read_as["all"]} == {"bridge", "comparison"}
    shown = zip(*read_as.values(), strict=True)
    for line, (some, full, bare) in zip(path.read_bytes().splitlines(), shown, strict=True):
        row = json.loads(line)
        *paragraphs, question = some.question.split("\n\n")
        assert question == f"Question: {bare.question}" == f"Question: {row['question'].strip()}"
        titles = {title for title, _ in row["supporting_facts"]}
        assert len(paragraphs) == len(titles) == 2
        assert all(paragraph in full.question for paragraph in paragraphs)
        assert full.question.count("\n\n") == len(row["context"])
        assert some.references == full.references == bare.references == (row["answer"].strip(),)


@real_data
def test_real_gsm8k_humaneval_and_mmlu() -> None:
    gsm8k = read("gsm8k", SHARED / "gsm8k" / "train.jsonl", dataset="gsm8k")
    assert (len(gsm8k), gsm8k[0].references) == (600, ("72",))
    humaneval = read("humaneval", SHARED / "humaneval" / "HumanEval.jsonl.gz", dataset="humaneval")
    assert len(humaneval) == 164
    assert all("def " in query.question for query in humaneval)
    mmlu = [
        query
        for path in sorted((SHARED / "mmlu").glob("*.csv"))
        for query in read("mmlu", path, dataset="mmlu")
    ]
    assert Counter(query.kind for query in mmlu) == {
        "clinical_knowledge": 80,
        "elementary_mathematics": 80,
        "global_facts": 70,
        "high_school_computer_science": 70,
        "miscellaneous": 80,
    }
    assert {query.references[0] for query in mmlu} == set("ABCD")
