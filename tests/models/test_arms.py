"""Arms: the fingerprint follows what can change an output, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hcache.config.schema import ArmConfig, ModelConfig
from hcache.engines import build_pool, vllm_arguments
from hcache.errors import ConfigError, EngineError
from hcache.keys import digest_file
from hcache.models import files
from hcache.models.arms import Arm
from hcache.models.files import locate

FILES = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "model.safetensors": "weights",
    "tokenizer.json": "tokens",
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "template",
}


def checkpoint(folder: Path, name: str = "model") -> Path:
    """A folder with the files of a checkpoint."""
    path = folder / name
    path.mkdir()
    for file, text in FILES.items():
        (path / file).write_text(text)
    return path


def arm_of(folder: Path, *, name: str = "arm", path: str = "model", **settings: Any) -> Arm:
    """The arm with these settings; those that belong to the model go there."""
    of_model = {key: settings.pop(key) for key in list(settings) if key in ModelConfig.model_fields}
    model = ModelConfig(path=path, **of_model)
    (arm,) = build_pool({"m": model}, {name: ArmConfig(model="m", **settings)}, folder)
    return arm


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path)


# What is in the fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"stop": ("\n",)},
        {"dtype": "float32"},
        {"max_model_len": 512},
        {"quantization": "awq"},
        {"chat_template_args": {"enable_thinking": False}},
        {"chat_template": "other.jinja"},
        {"adapter": "lora"},
        {"engine_args": {"hf_overrides": {"rope_parameters": {"rope_theta": 3}}}},
        {"engine_args": {"kv_cache_dtype": "fp8"}},
        {"engine_args": {"load_format": "dummy"}},
        {"engine_args": {"tokenizer": "another"}},
        {"engine_args": {"trust_remote_code": True}},
        {"engine_args": {"speculative_config": {"method": "ngram"}}},
        {"engine_args": {"enforce_eager": True, "generation_config": "vllm"}},
    ],
)
def test_setting_that_changes_what_is_said(
    tmp_path: Path, model: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "other.jinja").write_text("other")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_model.safetensors").write_text("adapter")
    assert arm_of(tmp_path, **settings).fingerprint != arm_of(tmp_path).fingerprint


@pytest.mark.parametrize("file", list(FILES))
def test_file_that_changes_what_is_said(tmp_path: Path, model: Path, file: str) -> None:
    before = arm_of(tmp_path).fingerprint
    (model / file).write_text(FILES[file].upper() + " ")
    changed = arm_of(tmp_path).fingerprint
    assert changed != before
    (model / file).write_text(FILES[file])
    assert arm_of(tmp_path).fingerprint == before


def test_new_weights_or_template_file_change_what_is_said(tmp_path: Path, model: Path) -> None:
    before = arm_of(tmp_path).fingerprint
    (model / "model-2.safetensors").write_text("more")
    assert arm_of(tmp_path).fingerprint != before


NEW_FILES = (
    "modeling_own.py",
    "qwen.tiktoken",
    "tokenizer.model",
    "tokenizer.model.v3",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template_tools.jinja",
    "additional_chat_templates/tools.jinja",
)


@pytest.mark.parametrize("file", NEW_FILES)
def test_file_that_a_checkpoint_may_have_besides(tmp_path: Path, model: Path, file: str) -> None:
    prints = [arm_of(tmp_path).fingerprint]
    (model / file).parent.mkdir(exist_ok=True)
    for text in ("one", "another"):
        (model / file).write_text(text)
        prints.append(arm_of(tmp_path).fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    "file",
    ["README.txt", "README.md", "LICENSE", "LICENSE.txt", "NOTICE.txt", "USE_POLICY.md",
     ".gitattributes", "picture.png", "model.onnx", "requirements.txt", "optimizer.pt",
     "scheduler.pt"],
)  # fmt: skip
def test_file_for_readers_changes_nothing(tmp_path: Path, model: Path, file: str) -> None:
    before = arm_of(tmp_path).fingerprint
    (model / file).write_text("for readers")
    assert arm_of(tmp_path).fingerprint == before


def test_files_that_arguments_name_count_by_content(tmp_path: Path, model: Path) -> None:
    def fingerprint(draft: Path) -> str:
        speculative = {"model": str(draft), "num_speculative_tokens": 2}
        arguments = {"speculative_config": speculative, "logits_processors": ["a.b:C"]}
        return arm_of(tmp_path, engine_args=arguments).fingerprint

    (tmp_path / "drafts").mkdir()
    draft = checkpoint(tmp_path, "draft")
    before = fingerprint(draft)
    assert fingerprint(checkpoint(tmp_path / "drafts", "copy")) == before
    (draft / "model.safetensors").write_text("other weights")
    assert fingerprint(draft) != before


@pytest.mark.parametrize(
    "arguments",
    [
        {"tokenizer_mode": "mistral"},
        {"load_format": "dummy"},
        {"generation_config": "vllm"},
        {"speculative_config": {"method": "mistral", "model": "ngram"}},
        {"hf_overrides": {"architectures": ["mistral"], "names": {"deep": "dummy"}}},
    ],
)
def test_a_word_is_no_file_whatever_the_working_directory_holds(
    tmp_path: Path, model: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = arm_of(tmp_path, engine_args=arguments).fingerprint
    for word in ("mistral", "dummy", "vllm", "ngram"):
        checkpoint(tmp_path / "work", word)
    assert arm_of(tmp_path, engine_args=arguments).fingerprint == before


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ({"tokenizer": "own"}, "tokenizer.json"),
        ({"hf_config_path": "own"}, "config.json"),
        ({"generation_config": "own"}, "generation_config.json"),
        ({"speculative_config": {"model": "own"}}, "model.safetensors"),
        ({"default_mm_loras": {"audio": "own"}}, "adapter_model.pt"),
        ({"model_loader_extra_config": {"beside": "./own"}}, "model.safetensors"),
        ({"reasoning_parser_plugin": "own/parser.py"}, "parser.py"),
    ],
)
def test_a_path_counts_by_content_wherever_it_is_read_from(
    tmp_path: Path,
    model: Path,
    arguments: dict[str, Any],
    file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prints = set()
    for place in ("work", "copy"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        own = checkpoint(tmp_path / place, "own")
        (own / file).write_text("one")
        prints.add(arm_of(tmp_path, engine_args=arguments).fingerprint)
    assert len(prints) == 1
    (own / file).write_text("another")
    assert arm_of(tmp_path, engine_args=arguments).fingerprint not in prints


def test_a_folder_without_content_keeps_its_name(tmp_path: Path, model: Path) -> None:
    prints = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        arguments = {"tokenizer": str(tmp_path / name)}
        prints.add(arm_of(tmp_path, engine_args=arguments).fingerprint)
    assert len(prints) == 2


@examples(max_examples=50)
@given(text=st.text(max_size=300))
def test_any_text_may_stand_in_an_argument(text: str) -> None:
    assert files.by_content({"x": [text, 1, None]}) is not None


# Arguments of the engine that are refused


@pytest.mark.parametrize(
    ("argument", "value", "hint"),
    [
        ("model", "other", "Set models.m.path."),
        ("dtype", "float16", "Set models.m.dtype."),
        ("max_model_len", 64, "Set models.m.max_model_len."),
        ("quantization", "fp8", "Set models.m.quantization."),
        ("chat_template", "x", "Set models.m.chat_template."),
        ("enable_lora", True, "models.m.adapter"),
        ("max_lora_rank", 32, "follows from the adapter"),
        ("seed", 1, "arms.NAME.seed"),
        ("override_generation_config", {"temperature": 1}, "temperature, top_p and max_tokens"),
        ("logprobs_mode", "raw_logits", "sampling.logprobs"),
        ("hf_token", "secret", "Remove it"),
    ],
)
def test_argument_that_overrides_a_setting(
    tmp_path: Path, model: Path, argument: str, value: object, hint: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^models\.m\.engine_args\.{argument}: ") as caught:
        arm_of(tmp_path, engine_args={argument: value})
    assert hint in caught.value.hint


def test_unknown_argument(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset({"max_num_seqs", "hf_overrides"})
    monkeypatch.setattr(vllm_arguments, "_known", lambda: known)
    with pytest.raises(ConfigError, match=r"max_num_seq: vLLM has no .* mean 'max_num_seqs'\?"):
        arm_of(tmp_path, engine_args={"max_num_seq": 8})
    arm_of(tmp_path, engine_args={"max_num_seqs": 8})


@pytest.mark.parametrize(
    "file",
    ["adapter_config.json", *(f"adapter_model.{kind}" for kind in ("safetensors", "bin", "pt"))],
)
def test_whatever_is_loaded_of_an_adapter_counts_by_content(
    tmp_path: Path, model: Path, file: str
) -> None:
    (tmp_path / "lora").mkdir()
    prints = [arm_of(tmp_path, adapter="lora").fingerprint]
    for text in ("one", "another"):
        (tmp_path / "lora" / file).write_text(text)
        prints.append(arm_of(tmp_path, adapter="lora").fingerprint)
    assert len(set(prints)) == 3


def test_adapter_and_template_files_count_by_content(tmp_path: Path, model: Path) -> None:
    (tmp_path / "lora").mkdir()
    prints = set()
    for weights in ("one", "another"):
        for template in ("x", "y"):
            (tmp_path / "lora" / "adapter_model.safetensors").write_text(weights)
            (tmp_path / "t.jinja").write_text(template)
            prints.add(arm_of(tmp_path, adapter="lora", chat_template="t.jinja").fingerprint)
    assert len(prints) == 4


# What is not


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "another"},
        {"price": 3},
        {"instruction": "Be brief."},
        {"system": "You are kind."},
        {"engine_args": {"enforce_eager": True}},
        {"engine_args": {"gpu_memory_utilization": 0.5, "kv_cache_memory_bytes": 1 << 30}},
        {"engine_args": {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}},
        {"engine_args": {"max_num_seqs": 8, "max_num_batched_tokens": 4096}},
        {"engine_args": {"enable_prefix_caching": False, "disable_log_stats": True}},
        {"top_p": 0.5},
        {"seed": 3},
    ],
)
def test_setting_that_changes_nothing_that_is_said(
    tmp_path: Path, model: Path, settings: dict[str, Any]
) -> None:
    assert arm_of(tmp_path, **settings).fingerprint == arm_of(tmp_path).fingerprint


def test_place_of_the_files_changes_nothing(tmp_path: Path, model: Path) -> None:
    before = arm_of(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    checkpoint(tmp_path / "elsewhere", "copy")
    moved = arm_of(tmp_path, path="elsewhere/copy")
    assert (moved.fingerprint, moved.id) == (before.fingerprint, before.id)
    (model / "README.md").write_text("a note")
    assert arm_of(tmp_path).fingerprint == before.fingerprint


@pytest.mark.parametrize("settings", [{"top_p": 0.5}, {"seed": 3}])
def test_randomness_matters_above_temperature_zero(
    tmp_path: Path, model: Path, settings: dict[str, Any]
) -> None:
    warm = arm_of(tmp_path, temperature=1)
    assert arm_of(tmp_path, temperature=1, **settings).fingerprint != warm.fingerprint
    assert not warm.deterministic and arm_of(tmp_path).deterministic


def test_identity_of_the_choice_is_what_is_said_and_what_it_is_called(
    tmp_path: Path, model: Path
) -> None:
    arm = arm_of(tmp_path)
    assert arm_of(tmp_path, price=9) == arm and hash(arm_of(tmp_path, price=9)) == hash(arm)
    for settings in ({"name": "x"}, {"instruction": "x"}, {"system": "x"}, {"max_tokens": 1}):
        assert arm_of(tmp_path, **settings) != arm


def test_one_engine_serves_the_arms_of_one_model(tmp_path: Path, model: Path) -> None:
    arm = arm_of(tmp_path)
    assert arm_of(tmp_path, name="x", max_tokens=9, temperature=1).engine_key == arm.engine_key
    assert arm_of(tmp_path, dtype="float32").engine_key != arm.engine_key


def test_fingerprint_stays_what_it_is(tmp_path: Path, model: Path) -> None:
    # A change makes every stored generation unreachable.
    settings: dict[str, Any] = {"max_tokens": 16, "stop": ("\n",), "dtype": "float32"}
    assert arm_of(tmp_path, **settings).fingerprint == "15bab173641e25238694cd37cb91c7c1"
    assert (
        arm_of(tmp_path, **settings, temperature=0.5).fingerprint
        == "60f8d9456a6d1446d7c8e6999552737f"
    )


# What is no model


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_path_that_is_not_there_fails_at_once(
    tmp_path: Path, no_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(
        ConfigError, match=r"models\.m\.path: none does not exist.*--set models\.m\.path=PATH"
    ):
        arm_of(tmp_path, path="none")
    with pytest.raises(ConfigError, match=r"fetch it first: hf download org/name$"):
        arm_of(tmp_path, path="org/name")


@pytest.mark.parametrize("field", ["chat_template", "adapter"])
def test_other_file_of_a_model_that_is_not_there(
    tmp_path: Path, model: Path, no_hub: Path, field: str
) -> None:
    with pytest.raises(ConfigError, match=rf"models\.m\.{field}: nothing here does not exist"):
        arm_of(tmp_path, **{field: "nothing here"})


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("config.json", r"no checkpoint \(it has no config.json\)"),
        ("model.safetensors", "no weights"),
    ],
)
def test_folder_that_is_no_checkpoint(
    tmp_path: Path, model: Path, lacking: str, message: str
) -> None:
    (model / lacking).unlink()
    with pytest.raises(EngineError, match=rf"models\.m\.path: .*{message}.*save_pretrained"):
        arm_of(tmp_path)


def test_file_that_is_no_checkpoint(tmp_path: Path, model: Path) -> None:
    with pytest.raises(EngineError, match="is no checkpoint"):
        arm_of(tmp_path, path="model/model.safetensors")


def test_folder_that_is_no_script(tmp_path: Path, model: Path) -> None:
    with pytest.raises(EngineError, match=r"models\.m\.path: .* is no script"):
        arm_of(tmp_path, engine="scripted")


# Where files are looked for


def test_beside_the_experiment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("beside", "working"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "both").write_text(place)
    (tmp_path / "working" / "one").write_text("")
    monkeypatch.chdir(tmp_path / "working")
    folder = tmp_path / "beside"
    assert locate("both", folder, "x") == folder / "both"
    assert locate("one", folder, "x") == tmp_path / "working" / "one"
    assert locate(str(tmp_path / "beside"), folder, "x") == folder


def test_name_of_the_hub_is_looked_up_in_its_cache(tmp_path: Path, no_hub: Path) -> None:
    repo = no_hub / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots").mkdir()
    snapshot = checkpoint(repo / "snapshots", "abc")
    assert locate("org/name", tmp_path, "x") == snapshot
    assert arm_of(tmp_path, path="org/name").path == snapshot


# Digests of weights


def test_weights_are_read_once(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(files, "digest_file", counting)
    first = arm_of(tmp_path).fingerprint
    assert read.count("model.safetensors") == 1
    assert arm_of(tmp_path).fingerprint == first
    assert read.count("model.safetensors") == 1


def test_weights_changed_in_place_are_noticed(tmp_path: Path, model: Path) -> None:
    weights = model / "model.safetensors"
    before, stat = arm_of(tmp_path).fingerprint, weights.stat()
    weights.write_text("WEIGHTS")  # same file, same size …
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # … same time
    assert arm_of(tmp_path).fingerprint != before


@pytest.mark.parametrize("content", ["{not json", "[]", '"text"'])
def test_memory_of_digests_that_is_damaged_is_made_anew(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = arm_of(tmp_path).fingerprint
    memory = tmp_path / "cache" / "hcache" / "digests.json"
    assert len(json.loads(memory.read_text())) == 2  # one digest and that of the file
    memory.write_text(content)
    assert arm_of(tmp_path).fingerprint == before
    assert len(json.loads(memory.read_text())) == 2  # one digest and that of the file


def test_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = arm_of(tmp_path).fingerprint
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert arm_of(tmp_path).fingerprint == before
