"""The operator beside a real robot: lays out scenes, lets the arm move, judges episodes."""

from __future__ import annotations

import sys
import termios
from pathlib import Path
from typing import Protocol

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray


class Operator(Protocol):
    """Asked by an env with ``backend="real"``. What it raises ends the run, and the arm stands."""

    def confirm(self, motion: str) -> None:
        """Return when the arm may move as ``motion`` says."""

    def lay_out(self, picture: NDArray[np.uint8]) -> None:
        """Return when the scene is laid out as in a picture (H, W, 3)."""

    def outcome(self) -> bool:
        """Whether the episode that has ended was a success."""

    def keep(self, moment: str, picture: NDArray[np.uint8]) -> None:
        """Keep a live picture (H, W, 3) of the scene that was laid out last: its start, its end."""


class TerminalOperator:
    """Asks at the terminal, and keeps the layout images and live ones.

    Args:
        folder: Folder of the newest layout image, ``layout.png``, and of all images by number:
            ``layout-0003.png``, ``start-0003.png``, ``end-0003.png``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0  # of the next scene
        self._number = 0  # of this one

    def confirm(self, motion: str) -> None:
        """As ``Operator`` says."""
        _ask(f"{motion} Keep the stop button at hand. Enter to go on, Ctrl-C to stop: ")

    def lay_out(self, picture: NDArray[np.uint8]) -> None:
        """As ``Operator`` says."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while (file := self._folder / f"layout-{self._count:04}.png").exists():
            self._count += 1
        self._number = self._count
        for each in (file, self._folder / "layout.png"):
            iio.imwrite(each, picture)
        _ask(f"Lay the scene out as in {file}, and step back. Enter to begin, Ctrl-C to stop: ")

    def outcome(self) -> bool:
        """As ``Operator`` says."""
        while (answer := _ask("Was it a success? y or n: ").strip().lower()) not in ("y", "n"):
            print("Please say y or n.")
        return answer == "y"

    def keep(self, moment: str, picture: NDArray[np.uint8]) -> None:
        """As ``Operator`` says."""
        iio.imwrite(self._folder / f"{moment}-{self._number:04}.png", picture)


def _ask(question: str) -> str:
    """The answer at the terminal.

    Raises:
        OSError: Nobody can be asked.
    """
    try:
        if sys.stdin is None:
            raise EOFError
        if sys.stdin.isatty():  # a key that was pressed before is no answer
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        return input(question)
    except EOFError as error:
        raise OSError("the operator is asked at the terminal, and there is none") from error
