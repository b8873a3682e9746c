"""What a task is: a scene, a goal, and when it is reached. It knows no simulator and no policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from komo_envs.entities import Array, Body, Camera, Mask, Pose, uprightness
from komo_envs.worlds.base import WorldState

Scene = dict[str, Any]
"""What is drawn anew in every episode, by name. Plain numbers and lists: it goes into JSON."""


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

Range = tuple[float, float]
"""Least and most of what a scene draws, uniformly."""


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
    """One task. Its options are the fields of a frozen dataclass that inherits from this.

    Goals are float32 arrays (G,), whose last number is 1 where the object rests as it should, else
    0; the numbers before it say where to. Functions of goals also take batches (..., G).
    """

    description: str
    """One imperative sentence."""
    home: Array
    """Joint positions (7,) at reset, rad."""
    tool: Pose
    """The tool's frame, in that of the gripper: its origin is the point that does the work."""
    arm_collides: bool = False
    """Whether the arm and the hand can touch things, or only the tool can, which is faster."""
    end_effector: EndEffector
    cameras: tuple[Camera, ...]
    """Those that observations can come from; the first is the default."""
    view: Camera
    """The camera of ``render()``."""
    goal_low: Array
    """The least of each number of a goal (G,)."""
    goal_high: Array
    """The most of each number of a goal (G,)."""

    @property
    def privileged_high(self) -> Array:
        """Bounds (P,) of the absolute values of ``privileged``."""

    @property
    def visible(self) -> Mask:
        """Which numbers (P,) of ``privileged`` a picture shows: places and sizes, say."""

    @property
    def alike(self) -> tuple[int, int]:
        """How many things of one kind, in no order, ``privileged`` ends with, and with how many
        numbers each: x and y first, m, and all ``visible``; zeros for a thing that is not there.
        """
        return 0, 0

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

    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """What only the simulator knows, as float64 (P,): first the object's position (3,)."""

    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """What has been reached, float32 (G,)."""

    def desired_goal(self, scene: Scene) -> Array:
        """What is to be reached, float32 (G,), which any user knows."""

    def distance(self, achieved: Array, desired: Array) -> Array:
        """How far the object is from its goal, m, 0 or more; shape (...)."""

    def is_success(self, achieved: Array, desired: Array) -> Mask:
        """Whether the goal is reached; bool of shape (...)."""

    def goal_reward_terms(self, achieved: Array, desired: Array, tool: Array) -> dict[str, Array]:
        """Scaled terms of the dense reward that depend on goals (..., G), and perhaps on the tool's
        pose (..., 7) too; shapes (...).
        """

    def other_reward_terms(self, scene: Scene, state: WorldState, tool: Array) -> dict[str, float]:
        """The other scaled terms, from the world's state and the tool's pose (7,)."""
        return {}


def is_upright(pose: Array) -> bool:
    """Whether a body's z axis is within 10 degrees of the vertical, up or down."""
    return bool(abs(uprightness(pose[3:])) >= np.cos(UPRIGHT))


def is_at_rest(pose: Array, velocity: Array, height: float) -> bool:
    """Whether a body stands still and upright, its centre at the ``height`` that it should be at.

    Args:
        pose: Of the body (7,).
        velocity: Linear and angular (6,), m/s and rad/s.
        height: Of its centre above the world's origin when it stands on its support, m.
    """
    return bool(
        np.linalg.norm(velocity[:3]) <= REST_SPEED
        and np.linalg.norm(velocity[3:]) <= REST_SPIN
        and is_upright(pose)
        and abs(pose[2] - height) <= LIFTED
    )


def check_keys(scene: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise a ValueError unless ``scene`` is a mapping with exactly these keys."""
    if not isinstance(scene, Mapping) or set(scene) != set(keys):
        got = sorted(map(str, scene)) if isinstance(scene, Mapping) else repr(scene)
        raise ValueError(f"scene: expected the keys {', '.join(map(repr, keys))}, got {got}")


def check_numbers(name: str, value: Any, count: int) -> list[float]:
    """A part of a scene as plain floats.

    Raises:
        ValueError: it is not a sequence of ``count`` finite numbers.
    """
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"scene[{name!r}]: expected {count} finite numbers, got {value!r}")
    return [float(number) for number in numbers]


def check_range(name: str, numbers: Sequence[float], ranges: Sequence[Range]) -> None:
    """Raise a ValueError unless each number of a part of a scene is within its range."""
    for number, (low, high) in zip(numbers, ranges, strict=True):
        if not low - 1e-9 <= number <= high + 1e-9:
            raise ValueError(f"scene[{name!r}]: {number} is out of range; expected {low} to {high}")


def check_rows(name: str, value: Any, count: tuple[int, int], size: int) -> list[list[float]]:
    """A part of a scene that is a list of equal things, as plain floats.

    Args:
        name: Of the part.
        value: What was given.
        count: The least and the most things there may be.
        size: Numbers of each.

    Raises:
        ValueError: there are too few or too many, or one is not ``size`` finite numbers.
    """
    if not isinstance(value, (Sequence, np.ndarray)) or not count[0] <= len(value) <= count[1]:
        raise ValueError(f"scene[{name!r}]: expected {count[0]} to {count[1]}, got {value!r}")
    return [check_numbers(f"{name}[{i}]", row, size) for i, row in enumerate(value)]


def drawn(task: Task, names: Iterable[str]) -> dict[str, Range]:
    """Those of a task's options that are ranges to draw from, and not None."""
    ranges = {name: getattr(task, name) for name in names}
    return {name: between for name, between in ranges.items() if between is not None}


def check_drawn(scene: Mapping[str, Any], ranges: Mapping[str, Range]) -> Scene:
    """The numbers of a scene that are drawn from ranges, or a ValueError."""
    checked: Scene = {}
    for name, between in ranges.items():
        [checked[name]] = numbers = check_numbers(name, [scene[name]], 1)
        check_range(name, numbers, [between])
    return checked


def check_option(name: str, value: Any, limits: Range) -> None:
    """Raise a ValueError unless an option of a task is a number within its limits."""
    if not _is_real(value) or not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name}: {value!r}; expected a number from {limits[0]} to {limits[1]}")


def check_range_option(name: str, value: Any, limits: Range) -> None:
    """Raise a ValueError unless an option is None or a range within limits, of the same kind."""
    if value is None:
        return
    whole = isinstance(limits[0], int)
    if (
        np.shape(value) != (2,)
        or not all(isinstance(n, Integral) if whole else _is_real(n) for n in value)
        or not limits[0] <= value[0] <= value[1] <= limits[1]
    ):
        kind = "two whole numbers" if whole else "two numbers"
        raise ValueError(
            f"{name}: {value!r}; expected None, or {kind} in order, from {limits[0]} to {limits[1]}"
        )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


MOST_DRAWS = 20_000
"""Scenes that are drawn for one that fits the options, until a task gives up."""


def no_scene(task: Task) -> ValueError:
    """The error of options that hardly a scene fits, or none."""
    return ValueError(f"{task}: of {MOST_DRAWS} scenes that were drawn, none fits these options")
