"""Triangle meshes of the robot and of bodies, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import ROBOT_LINKS, Array, Body
from komo_envs.rendering.shaders import MAX_MATRICES

VERTEX = np.dtype([("position", "3f4"), ("normal", "3f4"), ("color", "3f4"), ("body", "i4")])
"""Position in m and normal in the frame of the link or body, linear color, index of the pose."""
LAYOUT = "3f 3f 3f 1i"
"""The same in moderngl's words."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles as they go to OpenGL."""

    vertices: NDArray[Any]
    """(N,) of ``VERTEX``."""
    triangles: NDArray[np.uint32]
    """(M, 3)."""


def _linear(shown: Any) -> NDArray[np.float32]:
    # A gamma of 2, as in the shaders: a body that is fully lit is shown in its own color.
    return np.square(np.asarray(shown, np.float32))


def bodies_mesh(bodies: tuple[Body, ...]) -> Mesh:
    """All bodies in one mesh; a vertex knows its body.

    Raises:
        ValueError: there are more bodies than segmentation can number.
    """
    limit = MAX_MATRICES - len(ROBOT_LINKS)
    if len(bodies) > limit:
        raise ValueError(f"{len(bodies)} bodies, but segmentation can number only {limit}")
    vertices, triangles, start = [np.empty(0, VERTEX)], [np.empty((0, 3), np.uint32)], 0
    for i, body in enumerate(bodies):
        position, normal, faces = _shape(body.shape, body.size, body.bevel)
        part = np.empty(len(position), VERTEX)
        part["position"], part["normal"] = position, normal
        part["color"], part["body"] = _linear(body.color), len(ROBOT_LINKS) + i
        vertices.append(part)
        triangles.append(faces + np.uint32(start))
        start += len(position)
    return Mesh(np.concatenate(vertices), np.concatenate(triangles))


@lru_cache(maxsize=256)
def _shape(
    shape: str, size: tuple[float, ...], bevel: float
) -> tuple[Array, Array, NDArray[np.uint32]]:
    """Positions (N, 3), normals (N, 3) and triangles (M, 3) of a box or a cylinder."""
    if shape == "box":
        position, normal, triangles = _box(np.array(size) / 2, min(bevel, min(size) / 2))
    else:
        height, radius = size
        position, normal, triangles = _cylinder(height / 2, radius, min(bevel, height / 2, radius))
    # Triangles without area go, and the others turn the way that shows them from outside.
    a, b, c = position[triangles].swapaxes(0, 1)
    cross = np.cross(b - a, c - a)
    outward = np.einsum("ij,ij->i", cross, normal[triangles].sum(axis=1))
    triangles[outward < 0] = triangles[outward < 0][:, ::-1]
    return position, normal, triangles[np.linalg.norm(cross, axis=1) > 1e-12]


def _box(half: Array, bevel: float) -> tuple[Array, Array, NDArray[np.uint32]]:
    # A cube's six faces, each a grid that is finer along its rim; the rim is then pushed onto
    # the surface that lies `bevel` away from the inner box.
    angles = np.linspace(0, np.pi / 4, 3) if bevel > 0 else np.zeros(1)
    rim = np.tan(angles) * bevel
    positions: list[Array] = []
    normals, triangles = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        ticks = [
            np.concatenate([-inner - rim[::-1], inner + rim])
            for inner in (half[u] - bevel, half[v] - bevel)
        ]
        for side in (-1.0, 1.0):
            grid = np.empty((len(ticks[0]), len(ticks[1]), 3))
            grid[..., u], grid[..., v] = ticks[0][:, None], ticks[1][None, :]
            grid[..., axis] = side * half[axis]
            points = grid.reshape(-1, 3)
            inner_points = np.clip(points, -(half - bevel), half - bevel)
            if bevel > 0:
                normal = points - inner_points
                normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            else:
                normal = np.zeros_like(points)
                normal[:, axis] = side
            triangles.append(
                _grid_triangles(len(ticks[0]), len(ticks[1])) + len(positions) * len(points)
            )
            positions.append(inner_points + bevel * normal)
            normals.append(normal)
    return np.concatenate(positions), np.concatenate(normals), np.concatenate(triangles)


def _cylinder(half: float, radius: float, bevel: float) -> tuple[Array, Array, NDArray[np.uint32]]:
    # A profile, radii r and heights z from the center of the top to that of the bottom, is turned
    # about the z axis. `angles` are its normals' elevations.
    segments = 48
    rounding = np.linspace(np.pi / 2, 0, 4) if bevel > 0 else np.array([np.pi / 2, 0.0])
    angles = np.concatenate([[np.pi / 2], rounding])
    r = radius - bevel + bevel * np.cos(angles)
    r[0] = 0.0
    z = half - bevel + bevel * np.sin(angles)
    angles, r, z = (
        np.concatenate([x, sign * x[::-1]]) for x, sign in ((angles, -1), (r, 1), (z, -1))
    )
    turn = np.linspace(0, 2 * np.pi, segments + 1)
    ring = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=-1)
    up = np.array([0.0, 0.0, 1.0])
    position = r[:, None, None] * ring + z[:, None, None] * up
    normal = np.cos(angles)[:, None, None] * ring + np.sin(angles)[:, None, None] * up
    return (
        position.reshape(-1, 3),
        normal.reshape(-1, 3),
        _grid_triangles(len(angles), segments + 1),
    )


def _grid_triangles(rows: int, columns: int) -> NDArray[np.uint32]:
    index = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]
    return np.stack([a, b, c, c, b, d], axis=-1).reshape(-1, 3)


@lru_cache
def robot_mesh(fine: bool) -> Mesh:
    """The robot's links at one of two levels of detail, as ``build_meshes.py`` made them."""
    level = "fine" if fine else "coarse"
    with np.load(Path(__file__).with_name("panda.npz")) as data:
        vertices = np.empty(len(data[f"{level}_position"]), VERTEX)
        vertices["position"] = data[f"{level}_position"]
        vertices["normal"] = data[f"{level}_normal"]
        vertices["color"] = _linear(data[f"{level}_color"] / 255.0)
        vertices["body"] = data[f"{level}_link"]
        return Mesh(vertices, data[f"{level}_triangles"].astype(np.uint32))
