"""The way of a puck between round obstacles: the shortest one, in two dimensions.

All lengths are in m, all points (2,) in the world's x and y.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from komo_envs.entities import Array, Mask

CORNERS = 16
"""Points on the circle around an obstacle that a way can bend at."""
LEFT, RIGHT = 1, -1
"""Sides, as seen in the direction of the way."""


class Route:
    """A way along straight legs, by the distance on it. Its last leg has no end."""

    def __init__(self, points: ArrayLike) -> None:
        """A way through two points or more, no two neighbors the same."""
        self.points = np.array(points, dtype=float)
        legs = np.diff(self.points, axis=0)
        lengths = np.linalg.norm(legs, axis=1)
        self._directions = legs / lengths[:, None]
        self._starts = np.concatenate([[0.0], np.cumsum(lengths)])

    @property
    def length(self) -> float:
        """Length of the whole way."""
        return float(self._starts[-1])

    @property
    def last_bend(self) -> float:
        """The distance at which its last leg begins."""
        return float(self._starts[-2])

    def at(self, distance: float) -> Array:
        """The point (2,) at a distance from the start, before or beyond the ends too."""
        leg = np.clip(np.searchsorted(self._starts, distance) - 1, 0, len(self._directions) - 1)
        return self.points[leg] + (distance - self._starts[leg]) * self._directions[leg]

    def distance(self, point: Array) -> float:
        """The distance from the start of the way's point that is nearest to a point (2,)."""
        along = np.einsum("ij,ij->i", point - self.points[:-1], self._directions)
        along[1:] = np.maximum(along[1:], 0.0)
        along[:-1] = np.minimum(along[:-1], np.diff(self._starts)[:-1])
        gaps = self.points[:-1] + along[:, None] * self._directions - point
        leg = int(np.argmin(np.linalg.norm(gaps, axis=1)))
        return float(self._starts[leg] + along[leg])


def find_routes(
    start: Array,
    target: Array,
    circles: Array,
    base: Array,
    reach: tuple[float, float],
    tail: float,
    tail_circles: Array,
) -> dict[int, Route]:
    """The shortest way past each side of the first circle that is in the straight way.

    The ways bend at the corners of polygons around the circles (a visibility graph). A start or
    target inside a circle may be left or reached, but not through the circle's middle.

    Args:
        start: Start of the way (2,).
        target: End of the way (2,).
        circles: Circles that it must not enter (M, 3): x, y and radius.
        base: Position (2,) of the robot's base.
        reach: Smallest and largest distance from the base.
        tail: Distance of the stick behind the puck.
        tail_circles: Where the stick must not be at the start of a leg, as ``circles``.

    Returns:
        The existing ways, by ``LEFT`` and ``RIGHT``. If the straight way is free, it is the only
        one, as ``LEFT``.
    """
    turns = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    around = np.stack([np.cos(turns), np.sin(turns)], axis=1) / np.cos(np.pi / CORNERS)
    corners = (circles[:, None, :2] + circles[:, 2:, None] * around).reshape(-1, 2)
    corners = corners[np.linalg.norm(corners - base, axis=1) <= reach[1]]
    nodes = np.vstack([start, target, corners])

    # The least reach is one more circle. One that an end is inside of begins at that end.
    places = np.vstack([circles[:, :2], base])
    radii = np.append(circles[:, 2], reach[0])
    gaps = _segment_distances(nodes, places)
    limits = np.broadcast_to(radii, gaps.shape).copy()
    for end in (0, 1):
        own = np.minimum(radii, np.linalg.norm(places - nodes[end], axis=1))
        limits[end], limits[:, end] = np.minimum(limits[end], own), np.minimum(limits[:, end], own)
    free: Mask = np.all(gaps >= limits - 1e-6, axis=2)
    legs = nodes - nodes[:, None]
    lengths = np.linalg.norm(legs, axis=2)
    tails = nodes[:, None] - tail * legs / np.maximum(lengths, 1e-9)[:, :, None]
    tail_gaps = np.linalg.norm(tails[:, :, None] - tail_circles[:, :2], axis=3)
    free &= np.all(tail_gaps >= tail_circles[:, 2], axis=2)
    lengths = np.where(free, lengths, np.inf)

    along = target - start
    in_way = np.flatnonzero(gaps[0, 1, :-1] < limits[0, 1, :-1] - 1e-6)
    if len(in_way) == 0:
        way = _shortest(lengths)
        return {} if way is None else {LEFT: Route(nodes[way])}
    first = in_way[np.argmin((circles[in_way, :2] - start) @ along)]
    left = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    routes = {}
    for side in (LEFT, RIGHT):
        # A wall from the circle's middle closes the other side.
        crossed = _crossings(nodes, circles[first, :2], circles[first, :2] - 2 * side * left)
        way = _shortest(np.where(crossed, np.inf, lengths))
        if way is not None:
            routes[side] = Route(nodes[way])
    return routes


def _segment_distances(nodes: Array, places: Array) -> Array:
    """Distances (N, N, M) of places (M, 2) from the straight lines between nodes (N, 2)."""
    legs = nodes - nodes[:, None]
    offsets = places - nodes[:, None]
    squares = np.maximum((legs**2).sum(axis=2), 1e-12)
    shares = np.einsum("ijk,imk->ijm", legs, offsets) / squares[:, :, None]
    nearest = np.clip(shares, 0.0, 1.0)[..., None] * legs[:, :, None]
    return np.linalg.norm(offsets[:, None] - nearest, axis=3)


def _crossings(nodes: Array, start: Array, end: Array) -> Mask:
    """Mask (N, N) of the lines between nodes (N, 2) that cross the one from start to end."""
    wall = end - start
    sides = _cross(wall, nodes - start)
    legs = nodes - nodes[:, None]
    from_start = _cross(legs, start - nodes[:, None])
    from_end = _cross(legs, end - nodes[:, None])
    return (sides[:, None] * sides < 0) & (from_start * from_end < 0)


def _cross(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _shortest(lengths: Array) -> list[int] | None:
    """Indices of the nodes of the shortest way from node 0 to node 1; None if there is none."""
    best = np.full(len(lengths), np.inf)
    best[0] = 0.0
    came_from = np.zeros(len(lengths), dtype=int)
    while True:  # Bellman and Ford's: as often as the way has legs
        through = best[:, None] + lengths
        shorter = through.min(axis=0) < best - 1e-12
        if not shorter.any():
            break
        came_from[shorter] = through.argmin(axis=0)[shorter]
        best[shorter] = through.min(axis=0)[shorter]
    if not np.isfinite(best[1]):
        return None
    way = [1]
    while way[-1] != 0:
        way.append(int(came_from[way[-1]]))
    return way[::-1]
