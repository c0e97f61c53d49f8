"""Artefacts: files that hcache writes and reads back, each checked by its digest when it is read.

A JSON object has the digest of its other entries under `digest`. A safetensors file has it in its
metadata, over the rest of its header and all its tensors. Of any other file the digest is kept
elsewhere, as in the manifest of a run. Objects written before there were digests are still read
where the caller names the entries that they could have: one entry more, and it is a damaged digest.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from hcache.errors import RunError
from hcache.files import replace_file
from hcache.keys import canonical, digest_file, digest_text

KEY = "digest"  # the entry of an object, or of the metadata of tensors
METADATA = "__metadata__"  # the entry of a header of safetensors
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def damaged(path: Path, why: object, hint: str) -> RunError:
    """The error for an artefact that is not as it was written; `hint` says the way out."""
    return RunError(f"{path} is damaged: {str(why).rstrip('.')}.", hint)


def unreadable(path: Path, error: Exception, hint: str) -> RunError:
    """The error for an artefact that could not be read: without the right to, it may be sound."""
    if isinstance(error, PermissionError):
        return RunError(
            f"{path} cannot be read: this user may not.",
            f"Take the right to: chmod u+rwX {shlex.quote(str(path.parent))} "
            f"{shlex.quote(str(path))}, or be the user who made it.",
        )
    return damaged(path, f"it cannot be read ({error})", hint)


def refuse_endless(path: Path) -> None:
    """Refuse what is there but is no file: a pipe or a device may never come to its end.

    Raises:
        OSError: it is a pipe, a device, a folder.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no file")


def check_file(path: Path, hint: str, known: object) -> None:
    """Hold a file against its digest, which is kept elsewhere; nothing of it is kept in memory.

    Raises:
        RunError: it cannot be read, or is not what it was.
    """
    try:
        refuse_endless(path)
        found = digest_file(path)
    except OSError as error:
        raise unreadable(path, error, hint) from error
    _compare(path, known, found, hint)


def digest_of(value: Mapping[str, Any]) -> str:
    """The digest of a JSON object, without the entry that holds it."""
    return digest_text(json.dumps({k: v for k, v in value.items() if k != KEY}, sort_keys=True))


def write_object(path: Path, value: Mapping[str, Any], indent: int | None = 2) -> None:
    """Write a JSON object with its digest, whole or not at all."""
    plain = json.loads(json.dumps(value))  # as it will be read: keys are text
    text = json.dumps(plain | {KEY: digest_of(plain)}, indent=indent)
    replace_file(path, f"{text}\n".encode())


def read_object(path: Path, hint: str, before: Collection[str] = ()) -> dict[str, Any]:
    """A JSON object without its digest, which is checked.

    `before` are the entries that an object without a digest could have; none are read otherwise.

    Raises:
        RunError: it cannot be read, is no object, or is not what it was.
    """
    try:
        refuse_endless(path)
        value = json.loads(path.read_bytes().decode())
        if not isinstance(value, dict):
            raise TypeError("it is no object")
    except _UNREADABLE as error:
        raise unreadable(path, error, hint) from error
    if before and value.keys() <= {*before}:
        return value
    _compare(path, value.pop(KEY, None), digest_of(value), hint)
    return value


def write_tensors(path: Path, saved: bytes) -> None:
    """Write what safetensors has serialised, with its digest, whole or not at all."""
    size = 8 + int.from_bytes(saved[:8], "little")
    header, body = json.loads(saved[8:size]), memoryview(saved)[size:]
    found = _hash_of(header)()
    found.update(body)
    header[METADATA] = header.get(METADATA, {}) | {KEY: found.hexdigest()}
    text = canonical(header).encode()
    text += b" " * (-len(text) % 8)
    replace_file(path, len(text).to_bytes(8, "little"), text, body)


def check_tensors(path: Path, hint: str) -> dict[str, str]:
    """The metadata of a file that `write_tensors` wrote, which is as it was written.

    The file is read once from end to end, and nothing of it is kept.

    Raises:
        RunError: it cannot be read, has no digest, or is not what it was.
    """
    try:
        refuse_endless(path)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("it ends within its header")
            header = json.loads(file.read(size))
            known = header.setdefault(METADATA, {}).pop(KEY, None)
            found = hashlib.file_digest(file, _hash_of(header)).hexdigest()
    except _UNREADABLE as error:
        raise unreadable(path, error, hint) from error
    _compare(path, known, found, hint)
    return dict(header[METADATA])


def _compare(path: Path, known: object, found: str, hint: str) -> None:
    if known != found:
        raise damaged(path, "its digest is another" if known else "it has no digest", hint)


def _hash_of(header: dict[str, Any]) -> Callable[[], Any]:
    """A hash that has taken in the header of some tensors, about to take in the tensors."""
    rest = {key: value for key, value in header.items() if value or key != METADATA}
    return lambda: hashlib.sha256(canonical(rest).encode("utf-8", "surrogatepass"))
