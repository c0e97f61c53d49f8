"""vLLM's arguments and errors, without vLLM: what is identity, which rank, in which words."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from hcache.config.schema import ModelConfig
from hcache.engines import vllm_arguments
from hcache.engines.vllm_arguments import NEUTRAL, OURS, RANKS, rank_for
from hcache.engines.vllm_errors import hint_for, reasons
from hcache.errors import EngineError

GONE = {"swap_space"}  # of earlier versions
NOT_OF_THE_ENGINE = {"chat_template"}  # taken by `LLM` alone


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_lists_name_arguments_that_vllm_has() -> None:
    known = vllm_arguments._known()
    assert "hf_overrides" in known and len(known) > 100
    assert known >= NEUTRAL - GONE and OURS.keys() - NOT_OF_THE_ENGINE <= known
    assert not NEUTRAL & OURS.keys()


# Ranks of adapters


def adapter(folder: Path, **settings: object) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (16, 16), (24, 32), (300, 320)])
def test_room_for_the_rank_of_an_adapter(tmp_path: Path, rank: int, room: int) -> None:
    assert rank_for(adapter(tmp_path, r=rank), "models.m") == room
    assert rank_for(adapter(tmp_path, r=1, rank_pattern={"q_proj": rank}), "models.m") == room
    assert room in RANKS


def test_rank_above_all(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"models\.m\.adapter: its rank is 600; .* up to 512"):
        rank_for(adapter(tmp_path, r=600), "models.m")


@pytest.mark.parametrize("settings", [{}, {"r": "many"}, {"r": None}])
def test_folder_that_is_no_adapter(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(EngineError, match=r"models\.m\.adapter: .* is no LoRA adapter"):
        rank_for(adapter(tmp_path, **settings), "models.m")
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(EngineError, match="PEFT"):
        rank_for(tmp_path, "models.m")


# Errors


class Part(BaseModel):
    """A configuration that refuses, as those of vLLM do."""

    window: int = Field(1)

    @field_validator("window")
    @classmethod
    def _not_so_long(cls, value: int) -> int:
        if value > 512:
            raise ValueError("max_model_len (1000) is greater than the derived max_model_len (512)")
        return value


def refusal(**values: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Part.model_validate(values)
    return caught.value


def test_reason_in_later_lines_is_kept_and_the_frame_left_out() -> None:
    said = reasons(refusal(window=1000))
    assert said == "window: max_model_len (1000) is greater than the derived max_model_len (512)"
    assert (
        reasons(RuntimeError("failed\n  because\n\nof this"))
        == "RuntimeError: failed because of this"
    )


def test_reason_in_a_cause_is_kept() -> None:
    root = OSError("no space left")
    middle, top = RuntimeError("worker 0"), ValueError("Engine core initialization failed")
    middle.__cause__, top.__cause__ = root, middle
    said = (
        "ValueError: Engine core initialization failed; from RuntimeError: worker 0; from OSError: "
    )
    assert reasons(top) == said + "no space left"
    root.__cause__ = top  # a circle of causes
    assert reasons(top).count("worker") == 1


def test_long_reason_keeps_both_ends() -> None:
    said = reasons(ValueError("begins " + "x, " * 5000 + "ends"))
    assert said.startswith("ValueError: begins") and said.endswith("ends") and len(said) < 700


@pytest.mark.parametrize(
    ("error", "setting"),
    [
        (refusal(window=1000), "Lower models.m.max_model_len."),
        (ValueError("Unknown quantization method: nonsense."), "models.m.quantization"),
        (ValueError("Cannot find the config file for awq"), "models.m.quantization"),
        (ValueError("No available memory for the cache blocks."), "kv_cache_memory_bytes"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu_memory_utilization"),
        (ValueError("LoRA rank 32 is greater than max_lora_rank 16."), "models.m.adapter"),
        (ValueError("bfloat16 is not supported on this device."), "models.m.dtype"),
        (ValueError("cannot instantiate the tokenizer"), "models.m.path"),
        (
            ValueError("tensor parallel size (64) divides nothing"),
            "engine_args.tensor_parallel_size",
        ),
        (MemoryError(), "settings of models.m"),
    ],
)
def test_what_to_set(error: Exception, setting: str) -> None:
    model = ModelConfig(path="x", quantization="awq", engine_args={"tensor_parallel_size": 64})
    assert setting in hint_for(error, "m", model)
