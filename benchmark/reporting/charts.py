"""Curves with bands, as what a page draws them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmark.records.result import Episode
from benchmark.reporting.plots import FARTHEST, Curve, over_distance, over_time
from komo_envs.worlds.base import CONTROL_PERIOD

WIDTH, HEIGHT = 300, 150
"""Of the area of a curve, in units of the drawing; its origin is the upper left corner."""
POINTS = 201
"""Of a curve, at most: an episode may have a million steps."""
RATES = (0, 25, 50, 75, 100)
"""%, that have a line."""


@dataclass(frozen=True)
class Chart:
    """Success over something, in percent of the episodes."""

    title: str
    unit: str
    """Of the horizontal axis, with its name."""
    line: str
    """Path of the shares, as SVG has it."""
    band: str
    """Path around their 95 % intervals."""
    columns: tuple[tuple[float, str], ...]
    """Where the vertical lines stand, and their numbers."""
    rows: tuple[tuple[float, str], ...]
    """Where the horizontal lines lie, and their numbers."""
    words: str
    """The same for who cannot see it."""


def draw_charts(episodes: Sequence[Episode]) -> tuple[Chart, Chart]:
    """Success over the distance at the end, and over time, of the episodes of an environment."""
    limits = np.linspace(0.0, FARTHEST, POINTS)
    last = max(episode.steps for episode in episodes) + 1
    steps = np.unique(np.linspace(0, last, POINTS).astype(int))
    return (
        _chart(
            "Episodes that end within a distance",
            "distance at the end, cm",
            100 * limits,
            over_distance(episodes, limits),
        ),
        _chart(
            "Episodes solved after a time",
            "time, s",
            steps * CONTROL_PERIOD,
            over_time(episodes, steps),
        ),
    )


def _chart(title: str, unit: str, x: NDArray[Any], curve: Curve) -> Chart:
    end = float(x[-1])
    ticks = [t for t in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, end) if 0 <= t <= end]
    across = WIDTH * x / end
    share, low, high = (HEIGHT * (1 - part) for part in curve)
    around = np.concatenate([across, across[::-1]]), np.concatenate([high, low[::-1]])
    said = [f"{100 * np.interp(t, x, curve[0]):.0f} % at {t:g}" for t in ticks]
    return Chart(
        title=title,
        unit=unit,
        line=_path(across, share),
        band=_path(*around) + "Z",
        columns=tuple((float(WIDTH * tick / end), f"{tick:g}") for tick in ticks),
        rows=tuple((HEIGHT * (1 - rate / 100), str(rate)) for rate in RATES),
        words=f"{title}: {', '.join(said)} ({unit})",
    )


def _path(x: NDArray[Any], y: NDArray[Any]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
