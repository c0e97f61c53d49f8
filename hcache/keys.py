"""Content addresses: the one place where identities are hashed.

A key is the first 32 hex digits (128 bits) of the SHA-256 of canonical JSON: sorted keys, no
spaces, UTF-8 as is, no NaN. Equal content has equal keys on every machine and Python version.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

KEY_DIGITS = 32
_ENCODER = json.JSONEncoder(  # made once: `json.dumps` makes one for every call
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical(value: object) -> str:
    """JSON text of `value` that does not depend on dict order, platform or version.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot say.
        TypeError: for anything that is not JSON.
    """
    return _ENCODER.encode(value)


def digest(value: object) -> str:
    """The key of any JSON value."""
    return digest_text(canonical(value))


def digest_text(text: str) -> str:
    """The key of a text; unpaired surrogates are kept apart rather than refused."""
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def digest_bytes(content: bytes) -> str:
    """The key of a file's bytes, as `digest_file` gives it."""
    return hashlib.sha256(content).hexdigest()[:KEY_DIGITS]


def well_formed(text: str) -> str:
    """A text that UTF-8 can say: halves of a surrogate pair joined, one left alone as U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def digest_file(path: Path) -> str:
    """The key of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:KEY_DIGITS]


def generation_key(arm_fingerprint: str, messages_key: str, sample: int) -> str:
    """The key of a generation: (arm fingerprint, messages, sample index)."""
    return digest_text(f"{arm_fingerprint}\n{messages_key}\n{sample}")


def seed_of(key: str) -> int:
    """The per-request seed of a generation, in [0, 2**31)."""
    return int(key[:8], 16) >> 1
