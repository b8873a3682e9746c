"""Command lines: a documented dataclass in, one clear line out when something is wrong."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import docstring_parser
import tyro

from komo_envs.utils.errors import printable
from komo_envs.utils.foreign_code import open_streams
from komo_envs.utils.packages import installed_command

Arguments = TypeVar("Arguments")


def parse(arguments: type[Arguments], module: str, repeatable: tuple[str, ...] = ()) -> Arguments:
    """Fill the dataclass ``arguments`` from the command line of a module or installed command.

    The fields' docstrings are the help, and the module's docstring has the example. Words that do
    not fit, empty ones and options given twice, but for the ``repeatable``, end the process with
    exit code 2 and an error on stderr.

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
    with printing(module, "the help is made"):
        filled = tyro.cli(
            _with_help(arguments),
            prog=installed_command() or f"python -m {module}",
            # None is what an option is if it is not given: nobody writes it.
            config=(tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
        )
    return arguments(**vars(filled))


def _with_help(arguments: type[Arguments]) -> type[Arguments]:
    """A subclass with the module's example and the fields' help in its docstring.

    There each field has one line, for tyro to wrap; it would keep the source's own line breaks.
    """
    text = inspect.cleandoc(arguments.__doc__ or "")
    of_module = sys.modules[arguments.__module__].__doc__ or ""
    if example := re.search(r"``(python -m .*?)``", of_module):
        text += f"\n\nExample: {example[1]}"
    text += "\n\nAttributes:"
    for field in docstring_parser.parse_from_object(arguments).params:
        text += f"\n    {field.arg_name}: {' '.join((field.description or '').split())}"
    return type(arguments.__name__, (arguments,), {"__doc__": text})


def fail(module: str, message: object, code: int = 2) -> NoReturn:
    """End the process with ``code`` and one line on stderr."""
    print(f"{module}: {printable(' '.join(plain(message).split()))}", file=sys.stderr)
    raise SystemExit(code)


def plain(message: object) -> str:
    """A message for users; an error of the system is named without its number."""
    if isinstance(message, OSError) and message.strerror:
        where = "" if message.filename is None else f"{message.filename}: "
        return f"{where}{message.strerror}"
    return str(message)


@contextlib.contextmanager
def printing(module: str, done: str) -> Iterator[None]:
    """Inside, what is ``done`` is printed on stdout.

    If that cannot be, the process ends with exit code 1: in silence if the reader has gone, as
    ``head`` does, else with one line that tells what is done all the same.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None
        fail(module, f"{done}, but cannot be printed: {error.strerror}", code=1)
