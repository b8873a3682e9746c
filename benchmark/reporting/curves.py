"""Success over distance and over time: the curves with their intervals, and a plot of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.records.result import Episode
from komo_envs.utils.files import replacing
from komo_envs.utils.stats import wilson
from komo_envs.worlds.base import CONTROL_PERIOD

FARTHEST = 0.05
"""Largest distance of the curves, m."""
POINTS = 201
"""Points of a curve, at most: an episode may have a million steps."""


@dataclass(frozen=True)
class Curve:
    """Success rate over a quantity, with 95 % Wilson intervals."""

    title: str
    quantity: str
    """Quantity of the horizontal axis, with its unit."""
    x: NDArray[np.float64]
    """(N,)"""
    share: NDArray[np.float64]
    """Share of the episodes, 0 to 1, (N,)."""
    low: NDArray[np.float64]
    """Lower ends of the intervals, (N,)."""
    high: NDArray[np.float64]
    """Upper ends of the intervals, (N,)."""


def success_curves(episodes: Sequence[Episode]) -> tuple[Curve, Curve]:
    """Success over the distance at the end, and over time, of the episodes of an environment."""
    limits = np.linspace(0.0, FARTHEST, POINTS)
    distances = np.array([np.inf if e.distance is None else e.distance for e in episodes])
    last = max(episode.steps for episode in episodes) + 1
    steps = np.unique(np.linspace(0, last, POINTS).astype(int))
    durations = np.array([e.steps if e.success_at_end else np.inf for e in episodes])
    return (
        Curve(
            "Episodes that end within a distance",
            "distance at the end, cm",
            100 * limits,
            *_shares(distances, limits),
        ),
        Curve(
            "Episodes solved after a time",
            "time, s",
            steps * CONTROL_PERIOD,
            *_shares(durations, steps),
        ),
    )


def _shares(values: NDArray[np.float64], limits: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Shares of the values (N,) up to each limit (M,), lower and upper ends of their intervals."""
    counts = [int((values <= limit).sum()) for limit in limits]
    intervals = {count: wilson(count, len(values)) for count in set(counts)}
    low, high = (np.array([intervals[count][end] for count in counts]) for end in (0, 1))
    return [np.array(counts) / len(values), low, high]


def plot_success(episodes: Mapping[str, Mapping[str, Sequence[Episode]]], out: Path) -> None:
    """Plot both curves of each environment, a line for each policy, into an image file.

    Args:
        episodes: Episodes of each environment, by its id, and of each policy, by its name.
        out: The file, .png.

    Raises:
        OSError: It cannot be written.
    """
    figure = Figure(figsize=(9.0, 3.2 * len(episodes)), layout="constrained")
    rows = figure.subplots(len(episodes), 2, squeeze=False, sharey=True)
    for (env_id, policies), row in zip(episodes.items(), rows, strict=True):
        for name, played in policies.items():
            for axes, curve in zip(row, success_curves(played), strict=True):
                _plot_curve(axes, curve, name)
        for axes, label in zip(row, ("episodes within, %", "episodes solved, %"), strict=True):
            axes.set(title=env_id, ylabel=label)
        row[0].legend(loc="lower right", fontsize=8)
    with replacing(out) as scratch:
        figure.savefig(scratch, dpi=130)


def _plot_curve(axes: Axes, curve: Curve, name: str) -> None:
    [line] = axes.plot(curve.x, 100 * curve.share, label=name)
    axes.fill_between(
        curve.x, 100 * curve.low, 100 * curve.high, alpha=0.15, color=line.get_color()
    )
    axes.set(xlabel=curve.quantity)
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
