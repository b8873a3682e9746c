"""Export demonstrations: ``python -m experts.export demos/push.h5 --to lerobot OUT``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.progress import track
from tyro.conf import Positional, arg

from experts.dataset.format import Demo, DemoFile
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.extras import install_command
from komo_envs.utils.files import check_utf8, check_writable

MODULE = "experts.export"

Write = Callable[[DemoFile, Iterable[Demo], str, Path], str]
"""Writer of a format: given a file, all its demonstrations, the control mode of the actions and an
empty folder, it writes a data set there and returns how to load it."""


@dataclass(frozen=True)
class Arguments:
    """Write demonstrations as a data set of LeRobot (v3.0) or Minari, losslessly.

    A LeRobot data set has the expert's actions, also where others were executed (--noise); a Minari
    data set has the executed ones.
    """

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """File of demonstrations, HDF5."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder of the data set, which must not exist."""
    to: Literal["lerobot", "minari"]
    """Format of the data set."""
    control_mode: Literal["joint", "ee", "ee_delta"] | None = None
    """Control mode of the actions; that of the collection if not given."""
    trust_code: bool = False
    """Whether a module that the file names (an env module:Id) may be imported, which runs its
    code."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        text = export(arguments)
    except ValueError as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted; nothing is written", code=130)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}; nothing is written", code=1)
    with printing(MODULE, f"{arguments.out} is complete"):
        print(text)


def export(arguments: Arguments) -> str:
    """Write the data set.

    Returns:
        A summary in one line.

    Raises:
        ValueError: An argument is wrong, or a package is not installed. Nothing is written.
        OSError: It cannot be written.
    """
    out = arguments.out
    with DemoFile(arguments.file, arguments.trust_code) as file:
        mode = arguments.control_mode or file.control_mode
        if arguments.to == "minari" and file.perturbed and mode != file.control_mode:
            raise ValueError(
                f"--control-mode {mode}: {file.path} was collected with --noise, and its executed "
                f"actions, which Minari gets, are in {file.control_mode} alone"
            )
        write = find_writer(arguments.to)
        if out.exists() or out.is_symlink():
            raise ValueError(f"OUT {out}: is there already; expected a new folder")
        check_utf8("OUT", out)
        check_writable("OUT", out)
        console, hidden = Console(stderr=True), not sys.stderr.isatty()
        demos = track(file, "Exporting", len(file), console=console, disable=hidden)
        with new_folder(out) as scratch:
            hint = write(file, demos, mode, scratch)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        failed = sum(not file.group(index).attrs["success"] for index in range(len(file)))
        return (
            f"{out}: {len(file)} demonstrations of {file.env_id}, {failed} of which fail, "
            f"{size / 1e6:.1f} MB; {hint}."
        )


def find_writer(to: str) -> Write:
    """Find the writer of a format.

    Raises:
        ValueError: The package that it needs is not installed.
    """
    try:
        if to == "lerobot":
            from experts.dataset import to_lerobot as lerobot

            return lerobot.write
        from experts.dataset import to_minari as minari

        return minari.write
    except ModuleNotFoundError as error:
        newer = "; Minari takes Python 3.11 or newer" if to == "minari" else ""
        raise ValueError(
            f"--to {to}: {error.name} is not installed; {install_command('export')}{newer}"
        ) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A scratch folder beside ``path``, which gets that name if nothing is raised inside."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
