"""Files that are whole or absent, what JSON can say, and the folder of what may be lost."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

Identity = tuple[int, int]


def cache_folder() -> Path:
    """Folder for what can be made or fetched again, below the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "hcache"


def features_folder(db: Path) -> Path:
    """Folder of vectors of a database's states, which can be encoded again."""
    return db.with_name(db.name + ".features")


def find(path: str, *folders: Path) -> Path | None:
    """Place of a path below the first of some folders that has it; None where none can have it."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long, NUL, ~nobody
        given = Path(path).expanduser()
        return next(
            (place.resolve() for folder in folders if (place := folder / given).exists()), None
        )
    return None


def identity(path: Path) -> Identity | None:
    """Device and inode of a file, None where there is none: another in its place differs."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path` so that a crash leaves the old file or the new one, never a part.

    Raises:
        OSError: which names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise
    finally:
        draft.unlink(missing_ok=True)


def json_text(value: Any, indent: int | None = 2) -> str:
    """A value as JSON, which knows no NaN and no infinity: they are null.

    What JSON has no type for, such as a date, stands as its text.
    """
    plain = finite(value)
    return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity in it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
