"""Curves of success as paths of SVG, for pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmark.reporting.curves import Curve

WIDTH, HEIGHT = 300, 150
"""Area of a curve, in units of the drawing; its origin is the upper left corner."""
RATES = (0, 25, 50, 75, 100)
"""Success rates that have a line, %."""


@dataclass(frozen=True)
class CurveSvg:
    """A curve of success, in percent of the episodes, as the template of a page takes it."""

    title: str
    unit: str
    """Quantity of the horizontal axis, with its unit."""
    line: str
    """Path of the shares."""
    band: str
    """Path around their 95 % intervals."""
    columns: tuple[tuple[float, str], ...]
    """Positions of the vertical lines, and their numbers."""
    rows: tuple[tuple[float, str], ...]
    """Positions of the horizontal lines, and their numbers."""
    words: str
    """The same in words, for screen readers."""


def curve_svg(curve: Curve) -> CurveSvg:
    """A curve as paths of SVG."""
    end = float(curve.x[-1])
    ticks = [t for t in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, end) if 0 <= t <= end]
    across = WIDTH * curve.x / end
    share, low, high = (HEIGHT * (1 - part) for part in (curve.share, curve.low, curve.high))
    around = np.concatenate([across, across[::-1]]), np.concatenate([high, low[::-1]])
    said = [f"{100 * np.interp(t, curve.x, curve.share):.0f} % at {t:g}" for t in ticks]
    return CurveSvg(
        title=curve.title,
        unit=curve.quantity,
        line=_path(across, share),
        band=_path(*around) + "Z",
        columns=tuple((float(WIDTH * tick / end), f"{tick:g}") for tick in ticks),
        rows=tuple((HEIGHT * (1 - rate / 100), str(rate)) for rate in RATES),
        words=f"{curve.title}: {', '.join(said)} ({curve.quantity})",
    )


def _path(x: NDArray[Any], y: NDArray[Any]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
