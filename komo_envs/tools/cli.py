"""Command lines: a documented dataclass in, one clear line out when something is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from typing import NoReturn, TypeVar

import tyro

from komo_envs.tools.errors import printable
from komo_envs.tools.process import open_streams

Arguments = TypeVar("Arguments")


def parse(arguments: type[Arguments], module: str, repeatable: tuple[str, ...] = ()) -> Arguments:
    """Fill the dataclass ``arguments`` from the command line of ``python -m module``.

    The fields' docstrings are the help. Words that do not fit, empty ones and options given twice,
    but for the ``repeatable``, end the process with exit code 2 and one line on stderr.

    From here on, SIGTERM, which a scheduler sends when time is up, is answered like Ctrl-C: by a
    KeyboardInterrupt. A standard stream that is closed leads to nowhere, and a character that
    stdout's encoding lacks is printed as an escape.
    """
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = sys.argv[1:]
    for option, count in Counter(word.partition("=")[0] for word in words).items():
        if option.startswith("--") and count > 1 and option not in repeatable:
            fail(module, f"{option}: given {count} times, expected once")
    for before, word in zip(["", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            fail(module, f"{word.rstrip('=') or before}: expected a value, got ''")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(arguments, prog=f"python -m {module}")
    except SystemExit as end:
        if not end.code:
            raise
    fail(module, f"{_error(said.getvalue())} (see --help)")


def _error(said: str) -> str:
    """The error in what tyro says, in one line.

    tyro draws a box: a title, the error, a rule, then help that --help gives in full. Where
    stdout is not UTF-8 the box is of spaces, with a second rule below the title.
    """
    _, *lines = (line.strip("╭╮╰╯│ ") for line in said.splitlines())
    lines = list(dropwhile(lambda line: not line.strip("─-"), lines))
    error = " ".join(takewhile(lambda line: line.strip("─-"), lines))
    # A value of the wrong type: what Python or tyro says of it is not for users.
    wrong = r"Error parsing (\S+): .*(?:\|(\w+) could be|for (\w+)\(\) with).*('.*')"
    if match := re.match(wrong, error):
        option, optional, required, got = match.groups()
        return f"{option}: expected {(optional or required).lower()}, got {got}"
    return error


def fail(module: str, message: object, code: int = 2) -> NoReturn:
    """End the process with ``code`` and one line on stderr."""
    print(f"{module}: {printable(' '.join(str(message).split()))}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def printing(module: str, done: str) -> Iterator[None]:
    """Inside, what is ``done`` is printed on stdout.

    If that cannot be, the process ends with exit code 1: in silence if the reader has gone, as
    ``head`` does, else with one line that tells what is done all the same.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None
        fail(module, f"{done}, but cannot be printed: {error.strerror}", code=1)
