"""Writing what goes out: a file or a folder, whole or not at all, over nothing that is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from hcache.errors import ConfigError
from hcache.files import replace_file
from hcache.recorded.huggingface import read_facts

ELSEWHERE = "Choose another place."


def check_free(out: Path, force: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        ConfigError: nobody said that it may go, or it cannot be there.
    """
    with _naming(out):
        there = out.exists()
    if there and not force:
        raise ConfigError(f"{out} is there already.", "Replace it with --force.")


def write_out(out: Path, content: bytes | Mapping[str, bytes]) -> None:
    """Write a file, or a folder of files by their paths in it.

    A folder is made beside its place; only one that `hcache export` has written gives way to it.

    Raises:
        ConfigError: it cannot be written there.
    """
    with _naming(out):
        if isinstance(content, bytes):
            replace_file(out, content)
        else:
            _replace_folder(out, content)


def _replace_folder(out: Path, files: Mapping[str, bytes]) -> None:
    if out.exists() and read_facts(out) is None:
        raise ConfigError(f"{out} is no folder that hcache has written.", ELSEWHERE)
    draft = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    before = out.with_name(f"{out.name}.{os.getpid()}.old")
    try:
        for name, data in files.items():
            replace_file(draft / name, data)
        if out.exists():
            out.rename(before)
        draft.rename(out)
    except BaseException:
        if before.exists():
            before.rename(out)
        raise
    finally:
        rmtree(draft, ignore_errors=True)
    rmtree(before, ignore_errors=True)


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        raise ConfigError(f"cannot write {out} ({error}).", ELSEWHERE) from error
