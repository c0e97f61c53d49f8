"""Folders of models with code of their own, or with pickles: nothing of them is run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from hcache.errors import ConfigError
from hcache.models.causal_lm import checkpoint_config, load_checkpoint
from hcache.models.sentence import check_sentence_folder

RAN = "ran"
RESTRICTED = Path("recorded/pickles.py")  # its unpickler knows only what a frame is made of


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that names code of its own, which leaves a file behind; y is typed."""
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(tmp_path / RAN)!r}, 'w')\nclass Config: pass\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    settings = {
        "model_type": "own",
        "auto_map": {
            "AutoConfig": "own.Config",
            "AutoModel": "own.Config",
            "AutoModelForCausalLM": "own.Config",
        },
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    return folder


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForCausalLM"])
def test_code_of_a_checkpoint_is_not_run(hostile: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    for load in (
        lambda: checkpoint_config(hostile, "features.path"),
        lambda: load_checkpoint(hostile, kind, "features.path"),
    ):
        with pytest.raises(ConfigError, match=r"features\.path: .*cannot be loaded") as refused:
            load()
        assert "is not run here" in refused.value.hint
    assert not (hostile.parent / RAN).exists()
    assert "own" not in sys.modules


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([{"type": "own.Module", "path": ""}], "wants to run own.Module"),
        ([{"type": "os.system", "path": ""}], "wants to run os.system"),
        ([{"path": ""}], "lists no modules"),
        ("x", "lists no modules"),
        ({"a": 1}, "lists no modules"),
    ],
)
def test_modules_of_others_are_refused(tmp_path: Path, modules: object, message: str) -> None:
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        check_sentence_folder(tmp_path, "features.path")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_pickled_weights_of_an_encoder_are_refused(tmp_path: Path, file: str) -> None:
    modules = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    weights = tmp_path / file
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="is a pickle"):
        check_sentence_folder(tmp_path, "features.path")
    weights.with_name("model.safetensors").write_bytes(b"")
    check_sentence_folder(tmp_path, "features.path")


def test_nothing_is_unpickled_and_no_folder_may_ask() -> None:
    root = Path(__file__).resolve().parents[2] / "hcache"
    for file in root.rglob("*.py"):
        code = file.read_text(encoding="utf-8")
        if file.relative_to(root) == RESTRICTED:
            used = set(re.findall(r"\bpickle\.(\w+)", code))
            assert used == {"Unpickler", "UnpicklingError"}, "only the restricted one may read"
            code = code.replace("import pickle\n", "")
        for word in ("import pickle", "import joblib", "torch.load(", "allow_pickle"):
            assert word not in code, f"{file}: {word}"
        for line in code.splitlines():
            if ".from_pretrained(" in line and "PreTrainedTokenizerFast" not in line:
                after = code[code.index(line) :][:300]
                assert "SAFE" in after or "trust_remote_code" in after, f"{file}: {line}"
