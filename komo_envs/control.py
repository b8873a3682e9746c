"""Control modes: how an action becomes a joint reference, within limits that keep an arm safe."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from komo_envs.entities import Array
from komo_envs.tasks.base import Task
from komo_envs.utils.errors import describe
from komo_envs.worlds.base import CONTROL_PERIOD
from komo_envs.worlds.panda import JOINT_HIGH, JOINT_LOW, Kinematics

CONTROL_MODES = ("joint", "ee", "ee_delta")
MAX_JOINT_SPEED = 1.0
"""Largest speed of any joint, rad/s; the real arm bears about twice as much."""


GRID = 2.0**-20
"""Commands are whole multiples of this many rad, end-effector targets of this many m or rad. Single
precision holds them all, so an action of any mode can say exactly what one of another has said."""


class ActionError(ValueError):
    """The value given is no action."""


def as_array(action: Any) -> NDArray[Any]:
    """An action as an array of whatever shape and dtype it has.

    Raises:
        ActionError: It cannot be made an array, as a ragged list or a tensor of another device
            cannot, or it is an array whose numbers are masked.
    """
    try:
        value = np.asarray(action)
    except Exception as error:  # of any kind: objects say themselves how they become arrays
        kind = type(action).__name__
        raise ActionError(f"action: expected an array, got a {kind}: {describe(error)}") from error
    if isinstance(action, np.ma.MaskedArray) and np.ma.is_masked(action):
        raise ActionError("action: expected real numbers, got masked ones")
    return value


class IsSafe:
    """Whether a task calls joint positions (7,), rad, safe for an arm. Can be pickled."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kinematics: Kinematics | None = None

    def __call__(self, q: Array) -> bool:
        self._kinematics = self._kinematics or Kinematics(self._task.tcp_offset)
        return self._task.is_safe(*self._kinematics.poses(q))


class Controller:
    """Turns actions into joint references, one after another.

    - ``joint``: 7 absolute joint positions, rad.
    - ``ee``: the task's end-effector coordinates, absolute, m and rad.
    - ``ee_delta``: their change from the last command, in [-1, 1] times ``EndEffector.step``.

    Whatever the mode, no joint reference moves faster than ``MAX_JOINT_SPEED``, no end-effector
    coordinate changes by more than ``EndEffector.step`` at once, and the arm stays where the task
    calls it safe: a step that would leave is shortened, to nothing if need be. In ``ee``, a far
    target is approached in a straight line.
    """

    def __init__(self, task: Task, mode: str) -> None:
        self.mode = mode
        self.kinematics = Kinematics(task.tcp_offset)
        self._task = task
        self._ee = task.end_effector
        self.action_spaces = {mode: self._space(mode) for mode in CONTROL_MODES}
        """The action space of every control mode."""
        self.action_space = self.action_spaces[mode]
        self.reset(task.home)

    def _space(self, mode: str) -> spaces.Box:
        if mode == "joint":
            low, high = JOINT_LOW, JOINT_HIGH
        elif mode == "ee":
            low, high = self._ee.low, self._ee.high
        else:
            low, high = -np.ones(len(self._ee.names)), np.ones(len(self._ee.names))
        return spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, q: Array) -> None:
        """Begin an episode at joint positions ``q`` (7,), rad."""
        q = np.round(np.array(q, dtype=float) / GRID) * GRID
        self._set_command(q, self.kinematics.tool_pose(q))

    @property
    def command(self) -> Array:
        """The last joint reference (7,), rad."""
        return self._command

    @property
    def ee_command(self) -> Array:
        """End-effector coordinates (E,) of the last joint reference."""
        return self._ee_command

    def check(self, action: Any) -> Array:
        """The action as float64.

        Raises:
            ActionError: it is not an array of finite real numbers of the right shape.
        """
        value = as_array(action)
        if value.dtype.kind not in "fiu":
            raise ActionError(f"action: expected real numbers, got dtype {value.dtype}")
        if value.shape != self.action_space.shape:
            raise ActionError(
                f"action: expected shape {self.action_space.shape} in control_mode "
                f"{self.mode!r}, got {value.shape}"
            )
        with np.errstate(over="ignore"):  # wider floats than ours may hold larger numbers
            value = value.astype(float)
        if not np.isfinite(value).all():
            raise ActionError(f"action: expected finite numbers, got {value.tolist()}")
        return value

    def reference(self, action: Array) -> Array:
        """The next joint reference (7,), rad, for a checked action (A,)."""
        self._set_command(*self._next(action))
        return self._command

    def preview(self, action: Array) -> Array:
        """The joint reference (7,), rad, that a checked action (A,) would give; nothing changes."""
        return self._next(action)[0]

    def target(self, action: Array) -> Array:
        """The end-effector coordinates (E,) that a checked action (E,) asks for next."""
        if self.mode == "ee_delta":
            step = np.clip(action, -1.0, 1.0) * self._ee.step
        else:
            step = np.clip(action, self._ee.low, self._ee.high) - self._ee_command
            step /= max(1.0, float(np.abs(step / self._ee.step).max()))
        target = np.clip(self._ee_command + step, self._ee.low, self._ee.high)
        return np.round(target / GRID) * GRID

    def solve(self, coordinates: Array, rest: Array | None = None) -> Array:
        """Joint positions (7,) with the end-effector at coordinates (E,), near the last reference.

        What freedom they leave is drawn to posture ``rest`` (7,), the home position if not given.
        """
        position, axes = self._task.tool_target(coordinates)
        rest = self._task.home if rest is None else rest
        return self.kinematics.solve(self._command, position, axes, rest)

    def coordinates(self, q: Array) -> Array:
        """End-effector coordinates (E,) at joint positions ``q`` (7,)."""
        return self._task.tool_coordinates(self.kinematics.tool_pose(q))

    def encode(self, q: Array, mode: str | None = None) -> Array:
        """The action (A,), float32, that asks for joint positions ``q`` (7,) next.

        In the end-effector modes it asks for their coordinates: the arm's posture may differ.

        Args:
            q: Joint positions, rad.
            mode: The control mode; the controller's own if not given.
        """
        mode = mode or self.mode
        if mode == "joint":
            action = q
        else:
            action = np.round(self.coordinates(q) / GRID) * GRID
            if mode == "ee_delta":
                action = (action - self._ee_command) / self._ee.step
                action /= max(1.0, float(np.abs(action).max()))  # in a straight line, as in ee
        low, high = self.action_spaces[mode].low, self.action_spaces[mode].high
        return np.clip(action.astype(np.float32), low, high)

    def _set_command(self, q: Array, tool_pose: Array) -> None:
        self._command = q
        self._command_pose = tool_pose
        self._ee_command = self._task.tool_coordinates(tool_pose)

    def _next(self, action: Array) -> tuple[Array, Array]:
        """The next joint reference (7,), rad, for a checked action (A,), and its tool pose (7,)."""
        if self.mode == "joint":
            return self._limited(np.clip(action, JOINT_LOW, JOINT_HIGH))
        return self._limited(self.solve(self.target(action)))

    def _limited(self, q: Array) -> tuple[Array, Array]:
        """The reference (7,) nearest to ``q`` (7,) within all limits, and its tool pose (7,)."""
        step = q - self._command
        step *= min(1.0, MAX_JOINT_SPEED * CONTROL_PERIOD / max(np.abs(step).max(), 1e-9))
        moved = np.abs(self.coordinates(self._command + step) - self._ee_command) / self._ee.step
        # The way there bends: a little more than the limit is let pass, so that end-effector
        # commands at the limit are not cut.
        step *= min(1.0, 1.05 / max(moved.max(), 1e-9))
        for share in (1.0, 0.5, 0.25):
            # Toward where it was, so that no limit is exceeded.
            reference = self._command + np.trunc(share * step / GRID) * GRID
            tool_pose, link_poses = self.kinematics.poses(reference)
            if self._task.is_safe(tool_pose, link_poses):
                return reference, tool_pose
        return self._command, self._command_pose
