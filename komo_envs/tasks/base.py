"""The interface of a task: scene, goal, success, reward. It knows no simulator and no policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from komo_envs.entities import Array, Body, Camera, Mask, Pose
from komo_envs.poses import uprightness
from komo_envs.worlds.base import WorldState

Scene = dict[str, Any]
"""The sampled part of an episode, by name: plain numbers and lists, as JSON has them."""


TABLE_TOP = 0.65
"""Height in m of the table that the robot stands on, as in rai's scene of it."""
TABLE = Body(
    "table",
    "box",
    (2.5, 2.5, 0.1),
    color=(0.55, 0.57, 0.60),
    pose=(0.0, 0.0, TABLE_TOP - 0.05, 1.0, 0.0, 0.0, 0.0),
    friction=0.1,
    bevel=0.02,
)

REST_SPEED = 0.01  # m/s
REST_SPIN = 0.5  # rad/s, about any axis
UPRIGHT = float(np.deg2rad(10))
LIFTED = 0.005  # m by which a body at rest may seem lifted


@dataclass(frozen=True)
class EndEffector:
    """The coordinates of a task's end-effector, as the control modes ``ee`` and ``ee_delta`` use.

    All arrays have shape (E,), in m or rad, world frame.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    step: Array
    """Largest change of each coordinate in one control period, and the unit of ``ee_delta``."""


@dataclass(frozen=True)
class Evaluation:
    """An achieved goal compared with a desired one; shapes (...) for batches (..., G) of goals."""

    distance: Array
    """Distance of the object from its goal, m, 0 or more."""
    success: Mask
    """Whether the goal is reached."""


class Task(ABC):
    """One task. Its options are the fields of a frozen dataclass that inherits from this.

    Goals are float32 arrays (G,), whose last number is 1 where the object rests as it should, else
    0; the numbers before it say where to. Functions of goals also take batches (..., G).
    """

    description: str
    """One imperative sentence."""
    home: Array
    """Joint positions (7,) at reset, rad."""
    tcp_offset: Pose
    """The tool's frame in that of the gripper. Its origin is the tool center point, which does the
    work."""
    arm_collides: bool = False
    """Whether arm and hand collide with bodies. If only the tool does, simulation is faster."""
    end_effector: EndEffector
    cameras: tuple[Camera, ...]
    """Cameras that observations can come from; the first is the default."""
    render_camera: Camera
    """The camera of ``render()``."""
    goal_low: Array
    """Lower bounds of a goal (G,)."""
    goal_high: Array
    """Upper bounds of a goal (G,)."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Task:
        """Refuse a task that lacks an attribute, as ``ABC`` refuses one that lacks a method.

        Raises:
            TypeError: It does.
        """
        missing = [name for name in _ATTRIBUTES if not hasattr(cls, name)]
        if missing:
            raise TypeError(f"{cls.__name__}: expected the attributes {', '.join(missing)}")
        return super().__new__(cls)

    @property
    @abstractmethod
    def privileged_high(self) -> Array:
        """Bounds (P,) of the absolute values of ``privileged``."""

    @property
    @abstractmethod
    def observable_mask(self) -> Mask:
        """Mask (P,) of the entries of ``privileged`` that an image shows: places and sizes, say."""

    @property
    def object_slots(self) -> tuple[int, int]:
        """Slots for interchangeable objects at the end of ``privileged``: (count, size).

        The first two entries of a slot are x and y, m; all are observable; an empty slot is zeros.
        """
        return 0, 0

    @abstractmethod
    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """Sample a scene."""

    @abstractmethod
    def check_scene(self, scene: Mapping[str, Any]) -> Scene:
        """The scene with plain numbers.

        Raises:
            ValueError: The task cannot set it up; the message names the entry.
        """

    @abstractmethod
    def bodies(self, scene: Scene) -> tuple[Body, ...]:
        """Everything in the scene but the robot."""

    @abstractmethod
    def tool_target(self, coordinates: Array) -> tuple[Array, dict[str, Array]]:
        """Position (3,) of the tool, and directions (3,) of its axes, at coordinates (E,)."""

    @abstractmethod
    def tool_coordinates(self, tcp_pose: Array) -> Array:
        """End-effector coordinates (E,) of a pose (7,) of the tool."""

    @abstractmethod
    def is_safe(self, tcp_pose: Array, link_poses: Array) -> bool:
        """Whether the arm may be there: poses of the tool (7,) and of the links (11, 7)."""

    @abstractmethod
    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """Privileged state, float64 (P,): first the object's position (3,)."""

    @abstractmethod
    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """The goal that a state has achieved, float32 (G,)."""

    @abstractmethod
    def desired_goal(self, scene: Scene) -> Array:
        """The goal of a scene, float32 (G,), which any policy knows."""

    @abstractmethod
    def evaluate(self, achieved: Array, desired: Array) -> Evaluation:
        """Distance and success of achieved goals (..., G), given desired ones."""

    @abstractmethod
    def goal_reward_terms(
        self, achieved: Array, desired: Array, evaluation: Evaluation, tcp_pose: Array
    ) -> dict[str, Array]:
        """Scaled terms of the dense reward that depend on goals (..., G); shapes (...).

        Args:
            achieved: Achieved goals (..., G).
            desired: Desired goals (..., G).
            evaluation: Their evaluation.
            tcp_pose: Poses (..., 7) of the tool.
        """

    def state_reward_terms(
        self, scene: Scene, state: WorldState, tcp_pose: Array
    ) -> dict[str, float]:
        """The other scaled terms, from the world's state and the tool's pose (7,)."""
        return {}


_ATTRIBUTES = (
    "description",
    "home",
    "tcp_offset",
    "end_effector",
    "cameras",
    "render_camera",
    "goal_low",
    "goal_high",
)


def is_upright(pose: Array) -> bool:
    """Whether a body's z axis is within 10 degrees of the vertical, up or down."""
    return bool(abs(uprightness(pose[3:])) >= np.cos(UPRIGHT))


def is_at_rest(pose: Array, velocity: Array, height: float) -> bool:
    """Whether a body stands still and upright, its center at the ``height`` that it should be at.

    Args:
        pose: Pose of the body (7,).
        velocity: Linear and angular velocity (6,), m/s and rad/s.
        height: Height of its center above the world's origin on its support, m.
    """
    return bool(
        np.linalg.norm(velocity[:3]) <= REST_SPEED
        and np.linalg.norm(velocity[3:]) <= REST_SPIN
        and is_upright(pose)
        and abs(pose[2] - height) <= LIFTED
    )
