"""Interrupted work is resumed only with the setup that it began with, and by one process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from komo_envs.utils.files import lock, write_text


def open_locked(option: str, out: Path, file: Path) -> IO[bytes]:
    """Open a file for reading and appending, locked for this process until it is closed.

    On a file system without locks stderr says that there is none.

    Args:
        option: Option of the command line that named ``out``.
        out: Output of the work, as errors name it.
        file: File to open; it and its folder are made if they are not there.

    Raises:
        ValueError: It cannot be written to, or another process has it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a+b")
    except OSError as error:
        raise ValueError(f"{option} {out}: cannot be written to: {error.strerror}") from None
    try:
        lock(opened)
    except BlockingIOError:
        opened.close()
        raise ValueError(f"{option} {out}: another run is writing there") from None
    except OSError:
        opened.close()
        raise
    return opened


def resume_setup(option: str, out: Path, kind: str, file: Path, setup: Mapping[str, Any]) -> None:
    """Write the setup of new work to a file; of work that is there, check that it is the same.

    Args:
        option: Option of the command line that named ``out``.
        out: Output of the work, as errors name it.
        kind: Kind of work with its article, for errors: ``"a training"``.
        file: JSON file of the setup.
        setup: All that decides the outcome of the work; what JSON can hold.

    Raises:
        ValueError: The file holds another setup, or is damaged.
        OSError: It cannot be read or written.
    """
    if not file.exists():
        write_text(file, json.dumps(setup))
        return
    try:
        there = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{option} {out}: {file} is damaged: {error}; remove {file.parent} to start again"
        ) from error
    check_same(option, out, kind, there, json.loads(json.dumps(setup)))


def check_same(
    option: str, out: Path, kind: str, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Refuse work that is there with another setup than this one.

    Args:
        option: Option of the command line that named ``out``.
        out: Output of the work, as errors name it.
        kind: Kind of work with its article, for errors: ``"a training"``.
        there: Setup of the work that is there.
        here: Setup of this work; its entries are compared.

    Raises:
        ValueError: An entry differs. The message names the first, and what differs in it.
    """
    for name, new in here.items():
        old = there.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            old, new = ({key: each.get(key) for key in keys} for each in (old, new))
        raise ValueError(
            f"{option} {out}: holds {kind} with other {name}: {old} there, {new} here; "
            f"choose another {option}"
        )
