"""Command lines: a documented dataclass in, one clear line out when something is wrong."""

from __future__ import annotations

import contextlib
import io
import sys
from itertools import takewhile
from typing import NoReturn, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(arguments: type[Arguments], module: str) -> Arguments:
    """Fill the dataclass ``arguments`` from the command line of ``python -m module``.

    The fields' docstrings are the help. Words that do not fit end the process with exit code 2
    and one line on stderr.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(arguments, prog=f"python -m {module}")
    except SystemExit as end:
        if not end.code:
            raise
    # tyro draws a box: a title, the error, a rule, then help that --help gives in full.
    _, *lines = (line.strip("╭╮╰╯│ ") for line in said.getvalue().splitlines())
    error = takewhile(lambda line: line.strip("─"), lines)
    fail(module, f"{' '.join(error)} (see --help)")


def fail(module: str, message: object, code: int = 2) -> NoReturn:
    """End the process with ``code`` and one line on stderr."""
    print(f"{module}: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)
