"""How much of the task demonstrations cover: ``python -m experts.coverage demos/*.h5 --out X.png``.

Everything is seen in a frame of the episode's own: its origin is where the object starts, its first
axis points to the goal. So episodes of different scenes lie over each other.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from experts.dataset.format import Demo, DemoFile
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, replacing
from komo_envs.utils.stats import wilson

matplotlib.use("Agg")  # before pyplot: it needs no screen
import matplotlib.pyplot as plt

MODULE = "experts.coverage"

CELL = 0.02
"""m; side of the cubes that a tool's visits are counted in."""
SHOWN = 60
"""Episodes that are drawn."""


@dataclass(frozen=True)
class Arguments:
    """Measure and draw what demonstrations cover, those of each file next to the others.

    All are of one task, and of each the same number of episodes counts: more would cover more.
    """

    files: Positional[tuple[Path, ...]]
    """Of demonstrations."""
    out: Path
    """The plot, .png."""


@dataclass(frozen=True)
class Coverage:
    """What the demonstrations of a file cover."""

    name: str
    episodes: int
    successes: int
    tools: list[NDArray[np.float64]]
    """Of each episode, where the expert has something to say, the tool's position (T, 3) relative
    to the object along and to the left in the episode's frame, and its height in the world, m."""
    objects: list[NDArray[np.float64]]
    """Likewise, the object's way (T, 2) in the episode's frame: along and to the left, m."""
    styles: int
    """Different ways of doing it, of episodes that succeed: sides, by-ways and elbows drawn."""
    elbow: float
    """Standard deviation of joint 3, rad."""

    @property
    def cells(self) -> int:
        """Cubes of ``CELL`` around the object that the tool visits."""
        return len({tuple(cell) for tool in self.tools for cell in np.floor(tool / CELL)})

    @property
    def spread(self) -> float:
        """How far aside of the straight line to its goal the object goes: the r.m.s., m."""
        return float(np.sqrt(np.mean(np.concatenate(self.objects)[:, 1] ** 2)))


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.out.suffix != ".png":
            raise ValueError(f"--out {arguments.out}: expected a name that ends in .png")
        if arguments.out.with_suffix(".h5").exists():
            raise ValueError(f"--out {arguments.out}: is the name of a file's contact sheet")
        check_writable("--out", arguments.out)
        if not arguments.files:
            raise ValueError("files: expected one or more, got none")
        coverages = measure(arguments.files)
        draw(coverages, arguments.out)
    except ValueError as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    with printing(MODULE, f"{arguments.out} is drawn"):
        show(coverages)


def measure(paths: tuple[Path, ...]) -> list[Coverage]:
    """The coverage of each file, over as many episodes as the shortest has.

    Raises:
        ValueError: One is no file of demonstrations, or of another task than the first, or its
            task is not one in the plane.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(DemoFile(path)) for path in paths]
        for file in files:
            if file.env_id != files[0].env_id:
                raise ValueError(f"{file.path}: is of {file.env_id}, expected {files[0].env_id}")
        episodes = min(map(len, files))
        return [_coverage(file, episodes) for file in files]


def _coverage(file: DemoFile, episodes: int) -> Coverage:
    tools, objects, styles, elbows, successes = [], [], set(), [], 0
    for index in range(episodes):
        demo = file[index]
        labelled = _labelled(demo)
        tool, way = _in_own_frame(file, demo)
        tools.append(tool[labelled])
        objects.append(way[labelled])
        elbows.append(demo.obs["agent_pos"][:-1, 2][labelled])
        successes += demo.success
        if demo.success:
            styles.add((demo.style["side"], demo.style["bend"], demo.style["elbow"]))
    elbow = float(np.concatenate(elbows).std())
    return Coverage(file.path.stem, episodes, successes, tools, objects, len(styles), elbow)


def _labelled(demo: Demo) -> NDArray[np.bool_]:
    """Where (T,) the expert has something to say: it wants to move, it has not given up."""
    wanted = demo.actions["ee"]
    commanded = demo.obs["agent_pos"][:-1, -wanted.shape[1] :]  # its last numbers
    moves: NDArray[np.bool_] = np.abs(wanted - commanded).max(axis=1) > 1e-4
    return moves


def _in_own_frame(file: DemoFile, demo: Demo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    achieved, goal = demo.obs["achieved_goal"][:-1], demo.obs["desired_goal"][0]
    if achieved.shape[1] != 3:
        raise ValueError(
            f"{file.path}: expected goals [x, y, rest], got {achieved.shape[1]} numbers"
        )
    start = achieved[0, :2].astype(float)
    along = goal[:2] - start
    along /= np.linalg.norm(along)
    axes = np.array([along, [-along[1], along[0]]])
    tool = demo.obs["agent_pos"][:-1, 14:17].astype(float)  # after joints and commanded joints
    level = (tool[:, :2] - achieved[:, :2]) @ axes.T
    return np.column_stack([level, tool[:, 2]]), (achieved[:, :2] - start) @ axes.T


def draw(coverages: list[Coverage], out: Path) -> None:
    """Draw a column for each file: the tool around the object, and the object's ways.

    Raises:
        OSError: It cannot be written.
    """
    figure, axes = plt.subplots(
        2,
        len(coverages),
        figsize=(3.4 * len(coverages), 6.4),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, coverage in zip(axes.T, coverages, strict=True):
        rows = ((coverage.tools, "tool around the object"), (coverage.objects, "object's way"))
        for plot, (ways, what) in zip(column, rows, strict=True):
            for way in ways[:SHOWN]:
                plot.plot(100 * way[:, 0], 100 * way[:, 1], color="tab:blue", lw=0.6, alpha=0.5)
            plot.axhline(0, color="0.8", lw=0.6, zorder=0)
            plot.axvline(0, color="0.8", lw=0.6, zorder=0)
            plot.set_aspect("equal", adjustable="box")
            plot.set_xlabel("toward the goal, cm")
            plot.set_title(what, fontsize=9)
        column[0].set_title(
            f"{coverage.name}\n{_words(coverage)}\ntool around the object", fontsize=9
        )
    for row in axes:
        row[0].set_ylabel("to the left of it, cm")
    with replacing(out) as scratch:
        figure.savefig(scratch, dpi=110)
    plt.close(figure)


def _words(coverage: Coverage) -> str:
    return (
        f"{coverage.successes} of {coverage.episodes} succeed,\n{coverage.cells} cells, "
        f"{coverage.styles} style{'s' * (coverage.styles != 1)}"
    )


def show(coverages: list[Coverage]) -> None:
    """Print the measurements."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("file", "success, 95 % interval", "cells", "aside cm", "elbow rad", "styles"):
        table.add_column(heading)
    for coverage in coverages:
        low, high = wilson(coverage.successes, coverage.episodes)
        table.add_row(
            coverage.name,
            f"{coverage.successes} of {coverage.episodes} [{low * 100:.1f}, {high * 100:.1f}]",
            str(coverage.cells),
            f"{coverage.spread * 100:.1f}",
            f"{coverage.elbow:.2f}",
            str(coverage.styles),
        )
    console = Console(markup=False, highlight=False)
    console.print(table)
    print(f"cells: cubes of {CELL * 100:g} cm around the object that the tool visits")


if __name__ == "__main__":
    main()
