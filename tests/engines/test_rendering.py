"""Chat templates that refuse: found with a tokenizer alone, in words that say what to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.paths import DEMO

from hcache.config.schema import ArmConfig, ModelConfig
from hcache.engines import Request, build_pool, check_request
from hcache.engines.base import render
from hcache.engines.rendering import tokenizer_of
from hcache.errors import ArmError
from hcache.workflows import Message

pytest.importorskip("transformers")

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system role here') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
UNCLOSED = "{% for m in messages %}{{ m['content'] }}"


def check(folder: Path, template: str | None, system: str = "", **model: object) -> None:
    """Check a prompt for the demo's generalist, with its own template where none is given."""
    settings: dict[str, object] = {"path": str(DEMO / "models" / "generalist"), **model}
    if template is not None:
        (folder / "own.jinja").write_text(template)
        settings["chat_template"] = "own.jinja"
    models = {"m": ModelConfig.model_validate(settings)}
    (arm,) = build_pool(models, {"a": ArmConfig(model="m", system=system)}, folder)
    messages = (*([Message("system", system)] if system else []), Message("user", "What is it?"))
    check_request(Request("key", arm, messages, "", 0))


def test_template_that_takes_the_prompt(tmp_path: Path) -> None:
    check(tmp_path, None)
    check(tmp_path, None, system="Be brief.")
    check(tmp_path, NO_SYSTEM)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SYSTEM, "no system role here"),
        (UNCLOSED, "Unexpected end of template"),
        ("{{ messages[0]['tool'].name }}", "has no attribute 'tool'"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
    ],
)
def test_template_that_refuses(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(ArmError, match=r"^arms\.a: .* models\.m .*system, user") as caught:
        check(tmp_path, template, system="Be brief.")
    assert words in caught.value.message and "\n" not in str(caught.value)
    assert "arms.a.system" in caught.value.hint and "models.m.chat_template" in caught.value.hint


def test_no_template_at_all(tmp_path: Path) -> None:
    shutil.copytree(DEMO / "models" / "generalist", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(ArmError, match="chat_template is not set"):
        check(tmp_path, None, path="bare")
    check(tmp_path, "{{ messages[0]['content'] }}", path="bare")


def test_tokenizer_that_cannot_be_read_is_left_to_the_engine(tmp_path: Path) -> None:
    shutil.copytree(DEMO / "models" / "generalist", tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text("{")
    check(tmp_path, UNCLOSED, path="damaged")


def test_prompts_are_the_same_together_and_alone() -> None:
    """Of any length, empty ones and one that opens a thought among them."""
    model = ModelConfig.model_validate({"path": str(DEMO / "models" / "generalist")})
    tokenizer = tokenizer_of(model)
    conversations = [
        (Message("user", text),) for text in ("", "a", "What is it?\n" * 9, "<think>", "é 語")
    ]
    together = render(tokenizer, conversations, model)
    assert together == [render(tokenizer, [each], model)[0] for each in conversations]
    assert len({prompt.key for prompt in together}) > 2
    assert render(tokenizer, [], model) == []
