"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """Write a text file.

    Raises:
        OSError: It cannot be written. The error names ``path``.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


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
