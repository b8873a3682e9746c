"""The ``World`` protocol: a robot among bodies, in simulation or real, and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import Array, Body

CONTROL_PERIOD = 0.1
"""Time between two actions, s."""


class LiveImage(NamedTuple):
    """An image of a real camera, as a policy observes it."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    depth: NDArray[np.float32]
    """(H, W, 1), metres along the optical axis; 0 where nothing is seen."""


@dataclass(frozen=True)
class WorldState:
    """State of robot and bodies, as far as it is known, at the end of a control period.

    Poses are in the world frame. A real robot's world does not know every body: the poses of those
    that it does not are NaN.
    """

    time: float
    """Seconds since reset."""
    q: Array
    """Joint positions (7,), rad."""
    qdot: Array
    """Joint velocities (7,), rad/s."""
    link_poses: Array
    """Poses (11, 7) of the robot's links, in the order of ``ROBOT_LINKS``."""
    body_poses: Array
    """Poses (N, 7) of the scene's bodies, in their order."""
    body_velocities: Array
    """Linear (m/s) and angular (rad/s) velocities (N, 6) of the bodies; zero for fixed ones."""
    latency: float = 0.0
    """Time from the last observation to the action, on the robot's clock, s; 0 in simulation."""
    followed: bool = True
    """Whether the arm has followed the action, which may have come too late for that."""
    images: Mapping[str, LiveImage] | None = None
    """Images of the observed cameras, by name; None where the env renders them."""


class World(Protocol):
    """A robot among bodies, in simulation or real."""

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """Bring the arm to joint positions ``q`` (7,), at rest, and the bodies to their poses.

        A simulation may leave the arm and the hand out of all contacts unless ``arm_collides``,
        and its joint drives are ``stiffness`` times as stiff as they normally are.
        """

    def step(self, reference: Array) -> WorldState:
        """Move for one control period toward joint positions ``reference`` (7,), rad."""

    def close(self) -> None:
        """Free what the world holds."""
