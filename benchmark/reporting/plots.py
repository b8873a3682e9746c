"""Pictures of results: success over distance and over time, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""m, of the distances that are drawn."""

Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Shares of the episodes, and the ends of their 95 % intervals."""


def over_distance(episodes: Sequence[Episode], limits: NDArray[np.float64]) -> Curve:
    """In what share of episodes the object ends within each of ``limits`` (N,) in m."""
    ends = np.array([np.inf if e.distance is None else e.distance for e in episodes])
    return _curve([int((ends <= limit).sum()) for limit in limits], len(episodes))


def over_time(episodes: Sequence[Episode], steps: NDArray[np.int64]) -> Curve:
    """What share of episodes has ended with success after each of ``steps`` (N,)."""
    ends = np.array([e.steps if e.success_at_end else np.inf for e in episodes])
    return _curve([int((ends <= step).sum()) for step in steps], len(episodes))


def _curve(counts: Sequence[int], episodes: int) -> Curve:
    known = {count: wilson(count, episodes) for count in set(counts)}
    low, high = (np.array([known[count][end] for count in counts]) for end in (0, 1))
    return np.array(counts) / episodes, low, high


def draw_success(drawn: Mapping[str, Mapping[str, Sequence[Episode]]], out: Path) -> None:
    """Draw both curves of each environment, a line for each policy, and write the picture.

    Args:
        drawn: The episodes of each environment, by its id, and of each policy, by its name.
        out: The file, .png.

    Raises:
        OSError: It cannot be written.
    """
    figure = Figure(figsize=(9.0, 3.2 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), 2, squeeze=False, sharey=True)
    for (env_id, policies), (left, right) in zip(drawn.items(), rows, strict=True):
        for name, episodes in policies.items():
            limits = np.linspace(0.0, FARTHEST, 101)
            _line(left, 100 * limits, over_distance(episodes, limits), name)
            steps = np.arange(max(episode.steps for episode in episodes) + 1)
            _line(right, steps * CONTROL_PERIOD, over_time(episodes, steps), name)
        left.set(title=env_id, xlabel="distance at the end, cm", ylabel="episodes within, %")
        right.set(title=env_id, xlabel="time, s", ylabel="episodes solved, %")
        left.legend(loc="lower right", fontsize=8)
    with replacing(out) as scratch:
        figure.savefig(scratch, dpi=130)


def _line(axes: Axes, x: NDArray[Any], curve: Curve, name: str) -> None:
    share, low, high = curve
    [line] = axes.plot(x, 100 * share, label=name)
    axes.fill_between(x, 100 * low, 100 * high, alpha=0.15, color=line.get_color())
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
