"""The entities of a scene: rigid bodies and cameras, as plain data.

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
"""Position of that box's middle on the hand's z axis, m."""


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
    """Initial pose of the body's center; in the frame of ``parent`` if there is one."""
    parent: str | None = None
    """None, or ``"gripper"``: the body is part of the tool that the robot holds."""
    mass: float | None = None
    """Mass in kg of a body that moves freely, None for one that is fixed."""
    friction: float = 1.0
    """Coulomb friction; a contact has the mean of its two bodies' values."""
    solid: bool = True
    """Whether it takes part in contacts. A marker on the table does not."""
    bevel: float = 0.0
    """Radius in m by which edges are rounded."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: it looks along its own +z axis; x points right and y down."""

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
    """Light and surface patterns of a rendered scene."""

    light: tuple[float, float, float] = (0.30, -0.45, 0.95)
    """Direction towards the main light, the one that casts shadows; world frame, of any length."""
    brightness: float = 1.0
    """Brightness of all light; 1 is normal."""
    texture: float = 0.0
    """Contrast of a pattern on all bodies, 0 to 1."""
    pattern: int = 0
    """Number of the pattern, 0 to 999."""
