"""Command lines: a documented dataclass in, one clear line out when something is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as type_hints

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
    exit code 2 and one line on stderr.

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
            prog = installed_command() or f"python -m {module}"
            filled = tyro.cli(_with_help(arguments), prog=prog)
            return _filled(arguments, filled)
    except (SystemExit, OSError) as end:
        if isinstance(end, OSError) or not end.code:
            with printing(module, "the help is made"):
                raise
    fail(module, f"{_error(said.getvalue())} (see --help)")


def _with_help(arguments: type[Any]) -> type[Any]:
    """The same fields, with help in whole paragraphs and a short name for each kind of value."""
    told = docstring_parser.parse_from_object(arguments)
    helps = {part.arg_name: " ".join((part.description or "").split()) for part in told.params}
    hints = type_hints(arguments, include_extras=True)
    made: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(arguments):
        hint = hints[field.name]
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):  # a group of options
            group = _with_help(kind)
            marked = Annotated[(group, *marks)] if marks else group
            made.append((field.name, marked, dataclasses.field(default_factory=group)))
            continue
        default = dataclasses.field(default=field.default, default_factory=field.default_factory)
        made.append((field.name, Annotated[hint, _argument(field, hint, helps)], default))
    about = inspect.cleandoc(arguments.__doc__ or "")
    told_of_module = sys.modules[arguments.__module__].__doc__ or ""
    if example := re.search(r"``(python -m .*?)``", told_of_module):
        about += f"\n\nExample: {example[1]}"
    return dataclasses.make_dataclass("Arguments", made, kw_only=True, namespace={"__doc__": about})


def _filled(arguments: type[Arguments], filled: Any) -> Arguments:
    """The values of the same fields, as the class that they were written for."""
    hints = type_hints(arguments)
    values = vars(filled)
    for name, kind in hints.items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            values[name] = _filled(kind, values[name])
    return arguments(**values)


def _argument(field: dataclasses.Field[Any], hint: Any, helps: dict[str, str]) -> Any:
    """Settings of tyro for a field."""
    markers = hint.__metadata__ if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if markers else hint
    positional = any("Positional" in str(marker) for marker in markers)
    if get_origin(kind) in (Union, UnionType):
        [kind] = (part for part in get_args(kind) if part is not type(None))
    hint = None
    if field.default in (None, ()):
        hint = ""  # the help says what follows without it
    elif field.default is dataclasses.MISSING:
        hint = "(required)"
    return tyro.conf.arg(
        help=helps.get(field.name, ""),
        # An option that is a flag has no value to name.
        metavar=None if field.type == "bool" else _metavar(kind, field.name if positional else ""),
        help_behavior_hint=hint,
    )


def _metavar(kind: Any, name: str) -> str:
    """How a value is named in the help: by its kind, or by its argument's name if it has no other
    mark.
    """
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if Ellipsis not in parts:  # so many
            return " ".join(_metavar(part, name) for part in parts)
        while get_origin(kind) is tuple:  # of any number
            kind = get_args(kind)[0]
        word = _metavar(kind, name.removesuffix("s"))
        return f"{word} [{word} ...]"
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if kind is bool:
        return "{True,False}"
    return (name or kind.__name__).upper()


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
