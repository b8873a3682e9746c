"""What a task is: a scene, a goal, and when it is reached. It knows no simulator and no policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from komo_envs.scene import Array, Body, Camera, Mask, Pose
from komo_envs.worlds.base import WorldState

Scene = dict[str, Any]
"""What is drawn anew in every episode, by name. Plain numbers and lists: it goes into JSON."""


@dataclass(frozen=True)
class EndEffector:
    """The coordinates of a task's end-effector, as the control modes ``ee`` and ``ee_delta`` use.

    All arrays have shape (E,), in m or rad, world frame.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    step: Array
    """The most that a coordinate changes in one control period; ``ee_delta`` counts in it."""


class Task(Protocol):
    """One task. Goals are float32 arrays (G,); their functions also take batches (..., G)."""

    description: str
    """One imperative sentence."""
    home: Array
    """Joint positions (7,) at reset, rad."""
    tool: Pose
    """The tool's frame, in that of the gripper: its origin is the point that does the work."""
    arm_collides: bool
    """Whether the arm and the hand can touch things, or only the tool can, which is faster."""
    end_effector: EndEffector
    cameras: tuple[Camera, ...]
    """Those that observations can come from; the first is the default."""
    view: Camera
    """The camera of ``render()``."""
    goal_low: Array
    goal_high: Array
    command_low: Array
    command_high: Array
    privileged_low: Array
    privileged_high: Array

    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """Draw a scene."""

    def check_scene(self, scene: Mapping[str, Any]) -> Scene:
        """The scene with plain numbers, or a ValueError that says what is wrong with it."""

    def bodies(self, scene: Scene) -> tuple[Body, ...]:
        """Everything in the scene but the robot."""

    def tool_target(self, coordinates: Array) -> tuple[Array, dict[str, Array]]:
        """Position (3,) of the tool, and directions (3,) of its axes, at coordinates (E,)."""

    def tool_coordinates(self, tool_pose: Array) -> Array:
        """End-effector coordinates (E,) of a tool pose (7,)."""

    def is_safe(self, tool_pose: Array, link_poses: Array) -> bool:
        """Whether the arm may be there: tool pose (7,) and link poses (11, 7)."""

    def command(self, scene: Scene) -> Array:
        """The part of the goal that any user knows, and pixel observations hold."""

    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """What only the simulator knows, as float64 (P,)."""

    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """What has been reached, float32 (G,)."""

    def desired_goal(self, scene: Scene) -> Array:
        """What is to be reached, float32 (G,)."""

    def distance(self, achieved: Array, desired: Array) -> Array:
        """How far the object is from its goal, m; shape (...)."""

    def is_success(self, achieved: Array, desired: Array) -> Mask:
        """Whether the goal is reached; bool of shape (...)."""

    def goal_reward_terms(self, achieved: Array, desired: Array) -> dict[str, Array]:
        """Scaled terms of the dense reward that depend on the goals alone; shapes (...)."""

    def other_reward_terms(self, scene: Scene, state: WorldState, tool: Array) -> dict[str, float]:
        """The other scaled terms, from the world's state and the tool's position (3,)."""
