"""What every body of the robot offers: the ``World`` protocol and the state it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from komo_envs.entities import Array, Body

CONTROL_PERIOD = 0.1
"""Seconds between two actions."""


@dataclass(frozen=True)
class WorldState:
    """What is the case after a control period. Poses are in the world frame."""

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
    delay: float = 0.0
    """Seconds that the action came after what it answers, on the robot's clock. A simulation waits:
    it takes none."""
    followed: bool = True
    """Whether the arm has followed the action, which may have come too late for that."""


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

        A simulation may leave the arm and the hand out of all contacts but with ``arm_collides``,
        and its joint drives are ``stiffness`` times as stiff as they normally are.
        """

    def step(self, reference: Array) -> WorldState:
        """Move for one control period toward joint positions ``reference`` (7,), rad."""

    def close(self) -> None:
        """Free what the world holds."""
