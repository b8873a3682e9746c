"""What a scene is made of: rigid bodies and cameras, as plain data.

A task describes its scene with these, and everything else reads them: the physics builds its
actors from them, the renderer its meshes, the expert its planning problem. They know no library.
Poses are ``[x, y, z, qw, qx, qy, qz]``, metres, in the world frame unless a field says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pose = tuple[float, float, float, float, float, float, float]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

IDENTITY: Pose = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

ROBOT_LINKS = (
    "link0",
    "link1",
    "link2",
    "link3",
    "link4",
    "link5",
    "link6",
    "link7",
    "hand",
    "leftfinger",
    "rightfinger",
)
"""The Panda's rigid links, in the order of every array of link poses, shape (11, 7)."""

HAND_SIZE = (0.064, 0.206, 0.092)
"""Extents of the hand's bounding box along its axes, m."""
HAND_MIDDLE = 0.02
"""Where the middle of that box is on the hand's z axis, m."""


@dataclass(frozen=True)
class Body:
    """One rigid body of a scene, as physics and cameras both need it."""

    name: str
    """Unique in its scene."""
    shape: Literal["box", "cylinder"]
    """A box along its own axes, or a cylinder about its own z axis."""
    size: tuple[float, ...]
    """Full extents in m: (x, y, z) of a box, (height, radius) of a cylinder."""
    color: tuple[float, float, float]
    """Red, green and blue in [0, 1], as a screen shows them."""
    pose: Pose = IDENTITY
    """Initial pose of the body's centre; in the frame of ``parent`` if there is one."""
    parent: str | None = None
    """None, or ``"gripper"``: the body is part of the tool that the robot holds."""
    mass: float | None = None
    """Mass in kg of a body that moves freely, None for one that is fixed."""
    friction: float = 1.0
    """Coulomb friction; a contact has the mean of its two bodies' values."""
    solid: bool = True
    """Whether it takes part in contacts. A marker on the table does not: it is only seen."""
    bevel: float = 0.0
    """Radius in m by which edges are rounded."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: it looks along its own +z axis, with x to the right and y down."""

    name: str
    pose: Pose
    """In the world frame, or in that of ``parent``."""
    parent: str | None = None
    """None for a static camera, or the robot link that carries it (one of ``ROBOT_LINKS``)."""
    fov: float = 45.0
    """Vertical field of view in degrees."""
    near: float = 0.02
    """Distance in m below which nothing is seen."""
    far: float = 5.0
    """Distance in m beyond which nothing is seen."""


@dataclass(frozen=True)
class Look:
    """Light, and what the surfaces in it look like."""

    light: tuple[float, float, float] = (0.30, -0.45, 0.95)
    """Direction towards the main light, the one that casts shadows; world frame, of any length."""
    brightness: float = 1.0
    """Of all light."""
    texture: float = 0.0
    """Contrast of a pattern on all bodies, 0 to 1."""
    pattern: int = 0
    """Which one, 0 to 999."""


def look_at(
    eye: tuple[float, float, float],
    target: tuple[float, float, float],
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Pose:
    """Pose of a camera at ``eye`` that looks at ``target`` with ``up`` upward in its picture.

    Raises:
        ValueError: the camera would look along ``up``.
    """
    forward = np.subtract(target, eye).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        raise ValueError(f"look_at: from {eye} to {target} is along up, {up}")
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    x, y, z = map(float, eye)
    return (x, y, z, *matrix_to_quaternion(np.stack([right, down, forward], axis=1)))


def matrix_to_quaternion(matrix: Array) -> tuple[float, float, float, float]:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix of shape (3, 3)."""
    # The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix:
    # Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
    k = np.zeros((4, 4))  # only its lower triangle is read
    k[0, 0] = xx + yy + zz
    k[1, :2] = zy - yz, xx - yy - zz
    k[2, :3] = xz - zx, yx + xy, yy - xx - zz
    k[3, :] = yx - xy, zx + xz, zy + yz, zz - xx - yy
    w, x, y, z = np.linalg.eigh(k)[1][:, 3]
    sign = 1.0 if w >= 0 else -1.0
    return (float(sign * w), float(sign * x), float(sign * y), float(sign * z))


def axis(q: Array, index: int) -> Array:
    """The x, y or z axis (index 0, 1 or 2) of an orientation (w, x, y, z), as a vector (3,)."""
    w, x, y, z = q
    if index == 0:
        return np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    if index == 1:
        return np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def uprightness(q: Array) -> float:
    """Cosine of the angle between an orientation's z axis and the world's."""
    return float(1 - 2 * (q[1] ** 2 + q[2] ** 2))
