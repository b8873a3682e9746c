"""Coverage of demonstrations: ``python -m experts.coverage demos/*.h5 --out X.png``.

Positions are in a frame of the episode: its origin is where the object starts, its first axis
points to the goal. So the episodes of different scenes lie over each other.
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
from komo_envs.observations import ObservationLayout
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, replacing
from komo_envs.utils.stats import wilson

matplotlib.use("Agg")  # before pyplot: it needs no screen
import matplotlib.pyplot as plt

MODULE = "experts.coverage"

CELL = 0.02
"""Side of the cubes whose visits by the tool are counted, m."""
SHOWN = 60
"""Number of episodes that are plotted."""


@dataclass(frozen=True)
class Arguments:
    """Measure and plot the coverage of demonstrations, to compare files of one task.

    The same number of episodes of each file counts, since more would cover more.
    """

    files: Positional[tuple[Path, ...]]
    """Files of demonstrations, HDF5."""
    out: Path
    """Plot, .png."""


@dataclass(frozen=True)
class Coverage:
    """Coverage of the demonstrations of a file.

    Only steps are counted at which the expert wants to move.
    """

    name: str
    episodes: int
    successes: int
    tools: list[NDArray[np.float64]]
    """The tool's positions (T, 3) in each episode, m: relative to the object along the first and
    second axis of the episode's frame, and the height in the world frame."""
    objects: list[NDArray[np.float64]]
    """The object's positions (T, 2) in each episode, in the episode's frame, m."""
    modes: int
    """Number of different modes of the successful episodes: combinations of side, via point and
    null-space posture."""
    posture: float
    """Standard deviation of the null-space posture, which joint 3 shows, rad."""

    @property
    def cells(self) -> int:
        """Number of cubes around the object that the tool visits."""
        return len({tuple(cell) for tool in self.tools for cell in np.floor(tool / CELL)})

    @property
    def lateral_deviation(self) -> float:
        """Deviation (r.m.s.) of the object from the straight line to its goal, m."""
        return float(np.sqrt(np.mean(np.concatenate(self.objects)[:, 1] ** 2)))


def main() -> None:
    """Run the command."""
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
        plot(coverages, arguments.out)
    except ValueError as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    with printing(MODULE, f"{arguments.out} is complete"):
        print_table(coverages)


def measure(paths: tuple[Path, ...]) -> list[Coverage]:
    """The coverage of each file, over as many episodes as the shortest has.

    Raises:
        ValueError: A path is no file of demonstrations, its task is not that of the first, or goals
            of the task are not in a plane.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(DemoFile(path)) for path in paths]
        for file in files:
            if file.env_id != files[0].env_id:
                raise ValueError(f"{file.path}: is of {file.env_id}, expected {files[0].env_id}")
        episodes = min(map(len, files))
        return [_coverage(file, episodes) for file in files]


def _coverage(file: DemoFile, episodes: int) -> Coverage:
    tools = []
    objects = []
    postures = []
    modes = set()
    successes = 0
    for index in range(episodes):
        demo = file[index]
        labeled = _labeled(demo)
        tool, way = _in_own_frame(file, demo)
        tools.append(tool[labeled])
        objects.append(way[labeled])
        postures.append(demo.obs["agent_pos"][:-1, _layout(demo).joints][:, 2][labeled])
        successes += demo.success
        if demo.success:
            modes.add((demo.style["side"], demo.style["bend"], demo.style["posture"]))
    posture = float(np.concatenate(postures).std())
    return Coverage(file.path.stem, episodes, successes, tools, objects, len(modes), posture)


def _layout(demo: Demo) -> ObservationLayout:
    """Layout of the demonstration's ``agent_pos``."""
    return ObservationLayout(demo.actions["ee"].shape[1], privileged_size=0)


def _labeled(demo: Demo) -> NDArray[np.bool_]:
    """Steps (T,) at which the expert wants to move: it has not given up."""
    commanded = demo.obs["agent_pos"][:-1, _layout(demo).ee_command]
    moves: NDArray[np.bool_] = np.abs(demo.actions["ee"] - commanded).max(axis=1) > 1e-4
    return moves


def _in_own_frame(file: DemoFile, demo: Demo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``Coverage.tools`` and ``Coverage.objects`` of a demonstration, at all of its steps."""
    achieved, goal = demo.obs["achieved_goal"][:-1], demo.obs["desired_goal"][0]
    if achieved.shape[1] != 3:
        raise ValueError(
            f"{file.path}: expected goals [x, y, rest], got {achieved.shape[1]} numbers"
        )
    start = achieved[0, :2].astype(float)
    along = goal[:2] - start
    along /= np.linalg.norm(along)
    axes = np.array([along, [-along[1], along[0]]])
    tool = demo.obs["agent_pos"][:-1, _layout(demo).ee][:, :3].astype(float)
    level = (tool[:, :2] - achieved[:, :2]) @ axes.T
    return np.column_stack([level, tool[:, 2]]), (achieved[:, :2] - start) @ axes.T


def plot(coverages: list[Coverage], out: Path) -> None:
    """Plot a column for each file: the tool around the object, and the object's ways.

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
        for panel, (ways, title) in zip(column, rows, strict=True):
            for way in ways[:SHOWN]:
                panel.plot(100 * way[:, 0], 100 * way[:, 1], color="tab:blue", lw=0.6, alpha=0.5)
            panel.axhline(0, color="0.8", lw=0.6, zorder=0)
            panel.axvline(0, color="0.8", lw=0.6, zorder=0)
            panel.set_aspect("equal", adjustable="box")
            panel.set_xlabel("toward the goal, cm")
            panel.set_title(title, fontsize=9)
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
        f"{coverage.modes} mode{'s' * (coverage.modes != 1)}"
    )


def print_table(coverages: list[Coverage]) -> None:
    """Print a row of measurements for each file."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in (
        "file",
        "success, 95 % interval",
        "cells",
        "lateral deviation cm",
        "posture rad",
        "modes",
    ):
        table.add_column(heading)
    for coverage in coverages:
        low, high = wilson(coverage.successes, coverage.episodes)
        table.add_row(
            coverage.name,
            f"{coverage.successes} of {coverage.episodes} [{low * 100:.1f}, {high * 100:.1f}]",
            str(coverage.cells),
            f"{coverage.lateral_deviation * 100:.1f}",
            f"{coverage.posture:.2f}",
            str(coverage.modes),
        )
    console = Console(markup=False, highlight=False)
    console.print(table)
    print(f"cells: cubes of {CELL * 100:g} cm around the object that the tool visits")


if __name__ == "__main__":
    main()
