"""Files of models: where they are, and digests of what in them can change an output."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import JsonValue

from hcache.artefacts import read_object, write_object
from hcache.config.schema import ModelConfig
from hcache.errors import ConfigError, EngineError, RunError
from hcache.files import cache_folder, find
from hcache.keys import digest, digest_file

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
OF_TRAINING = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pt")  # never loaded to reply

TEXTS = (  # configuration, templates, tokenizers and their vocabularies, code of the model's own
    ".json", ".jinja", ".model", ".txt", ".tiktoken", ".spm", ".bpe", ".vocab", ".codes", ".py",
)  # fmt: skip
FOR_READERS = ("readme", "license", "licence", "notice", "copying", "changelog", "use_policy",
               "usage_policy", "requirements")  # fmt: skip
WORDS = ("auto", "vllm", "ngram", "[ngram]", "ngram_gpu", "suffix")  # in place of a path
TEMPLATES = "additional_chat_templates"  # the folder of those besides the default one


def locate(path: str, folder: Path, place: str, override: str = "") -> Path:
    """Place of a path of an experiment: beside its file, else below the working directory.

    `place` is the setting, and `override` what overrides it where that is another one.

    A name of the form org/name is also looked up in the local Hugging Face cache; the network is
    never asked.

    Raises:
        ConfigError: nothing is there.
    """
    if found := find(path, folder, Path()):
        return found
    if cached := _hub_snapshot(path):
        return cached
    hint = f"Change it, or override it with --set {override or f'{place}=PATH'}."
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        hint += f" If it is a model of the hub, fetch it first: hf download {path}"
    raise ConfigError(f"{place}: {path} does not exist or cannot be read.", hint)


def _hub_snapshot(name: str) -> Path | None:
    """Folder of a model in the local cache; None for what is not there or no name of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def digests_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Digest of each file that can change an output; those of weights are remembered."""
    memo = _Memo()
    for file in sorted([*folder.iterdir(), *(folder / TEMPLATES).glob("*.jinja")]):
        if is_weights(file):
            yield file.name, memo.digest(file)
        elif _is_text(file):
            yield file.relative_to(folder).as_posix(), digest_file(file)
    memo.save()


def is_weights(file: Path) -> bool:
    """True if a file holds weights that are loaded to reply."""
    return file.suffix in WEIGHTS and file.name not in OF_TRAINING


def _is_text(file: Path) -> bool:
    """True if a file besides the weights can change an output; a README.txt cannot."""
    if file.suffix == ".txt" and file.stem.lower().startswith(FOR_READERS):
        return False
    return file.suffix in TEXTS or ".model." in file.name  # as tokenizer.model.v3


def by_content(value: JsonValue, paths: Collection[str] = (), is_path: bool = False) -> JsonValue:
    """An argument of an engine with the contents of files in place of their names.

    A single word is the name of a file only under a name in `paths`: elsewhere `mistral` is a mode,
    whatever folders the working directory happens to have.
    """
    if isinstance(value, dict):
        return {
            name: by_content(part, paths, is_path or name in paths) for name, part in value.items()
        }
    if isinstance(value, list):
        return [by_content(part, paths, is_path) for part in value]
    if not isinstance(value, str):
        return value
    if value in WORDS or not (is_path or "/" in value):
        return value
    if value and (path := find(value, Path())):
        with contextlib.suppress(OSError):
            return _content_of(path) or value
    snapshot = _hub_snapshot(value) if value.count("/") == 1 else None
    return value if snapshot is None else _content_of(snapshot)


def _content_of(path: Path) -> JsonValue:
    return {**dict(digests_of(path))} if path.is_dir() else digest_file(path)


def encoder_digest(folder: Path) -> str:
    """Key of a sentence encoder: the names and contents of its files, wherever they lie."""
    files = sorted(file for file in folder.rglob("*") if is_weights(file) or _is_text(file))
    contents = [[file.relative_to(folder).as_posix(), digest_file(file)] for file in files]
    return digest(["sentence-transformers", contents])


class _Memo:
    """Digests of large files, remembered by path, inode, size, mtime and ctime."""

    def __init__(self) -> None:
        self.file = cache_folder() / "digests.json"
        self.known: dict[str, str] = {}
        self.changed = False
        with contextlib.suppress(RunError):  # none yet, or damaged: digests are made again
            self.known = read_object(self.file, "Remove it.")

    def digest(self, file: Path) -> str:
        stat = file.stat()
        identity = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = digest([str(file.resolve()), *identity])
        if key not in self.known:
            self.known[key] = digest_file(file)
            self.changed = True
        return self.known[key]

    def save(self) -> None:
        if not self.changed:
            return
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            write_object(self.file, self.known, indent=None)


def checkpoint_content(model: ModelConfig, place: str) -> dict[str, object]:
    """Digests of all files of a checkpoint, its template and its adapter that can change a reply.

    Raises:
        EngineError: the folder holds no checkpoint; `place` is where the model stands.
    """
    path = Path(model.path)
    content: dict[str, object] = dict(digests_of(path)) if path.is_dir() else {}
    has_weights = any(is_weights(Path(file)) for file in content)
    for lacks, ok in (("config.json", "config.json" in content), ("weights", has_weights)):
        if not ok:
            raise EngineError(
                f"{place}.path: {path} is no checkpoint (it has no {lacks}).",
                "Give a folder as written by save_pretrained, with weights and tokenizer.",
            )
    if model.chat_template is not None:
        content["chat_template"] = digest_file(Path(model.chat_template))
    if model.adapter is not None:
        content["adapter"] = dict(digests_of(Path(model.adapter)))
    return content
