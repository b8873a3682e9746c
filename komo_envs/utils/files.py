"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from komo_envs.utils.errors import printable


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A scratch file, which takes the place of ``path`` if nothing is raised inside.

    Args:
        path: Of the file.
        folder: Where the scratch file is, on the same disk; beside ``path`` if not given.

    Raises:
        OSError: It cannot be written. The error names ``path``.
    """
    scratch = (folder or path.parent) / f".{path.name}.{os.getpid()}{path.suffix}"
    try:
        try:
            yield scratch
            with scratch.open("rb") as written:
                os.fsync(written.fileno())  # or a power cut could leave the name without content
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(scratch)):
            raise  # it is of another file
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file. Halves of characters, as a path that is not UTF-8 has, become escapes.

    Raises:
        OSError: It cannot be written. The error names ``path``.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524)
"""The errors of a file system that has no locks. The last one is Linux's own ENOTSUPP, which has no
name here: NFS lets it out."""


def lock(file: IO[bytes]) -> None:
    """Lock an open file for this process alone, as long as it is open.

    On a file system without locks, as Lustre and NFS may be, stderr says that there is none.

    Raises:
        BlockingIOError: Another process has it.
        OSError: It cannot be locked for another reason.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"{printable(file.name)}: cannot be locked here ({error.strerror}): see to it that no "
            "other process writes in its folder",
            file=sys.stderr,
        )


def check_utf8(name: str, path: Path) -> None:
    """Refuse a path that a library would not take: PyTorch, safetensors and Arrow want UTF-8.

    Args:
        name: What the user calls the path.
        path: To be read or written.

    Raises:
        ValueError: Its name, or that of a folder on the way, is not UTF-8.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} {path}: expected names in UTF-8, all the way") from None


def check_writable(option: str, file: Path) -> None:
    """Find out before work that takes minutes whether its result can be kept.

    Args:
        option: Of the command line, that named the file.
        file: To be written.

    Raises:
        ValueError: It cannot be.
    """
    folder = file.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"{option} {file}: its folder is not there")
    if file.is_dir():
        raise ValueError(f"{option} {file}: is a folder, expected a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{option} {file}: cannot be written to: {error.strerror}") from None
