"""Time parametrization of joint paths, within limits of speed and acceleration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from komo_envs.entities import Array

RAMP = 0.25
"""Time in which the arm may accelerate from standing to its full speed, s."""


def time_path(
    path: Array, tool: Array, tool_speed: Array, joint_speed: float, stops: Sequence[int]
) -> Array:
    """Time of each point of a path, as fast as limits of speed and acceleration allow.

    A path has no pauses except at its stops: students copy pauses, and freeze in them.

    Args:
        path: Joint positions (T, 7), rad.
        tool: Tool positions (T, 3), m.
        tool_speed: Speed limit of the tool in each segment (T - 1,), m/s.
        joint_speed: Speed limit of every joint, rad/s.
        stops: Indices of the points at which the speed is zero.

    Returns:
        Times (T,), s, the first of which is 0.
    """
    fastest = tool_speed.max()
    # Each segment's length is the time it takes at full speed, its cap a share of that speed.
    length = np.maximum(
        np.abs(np.diff(path, axis=0)).max(axis=1) / joint_speed,
        np.linalg.norm(np.diff(tool, axis=0), axis=1) / fastest,
    )
    length = np.maximum(length, 1e-6)
    speed = np.ones(len(path))
    speed[:-1] = tool_speed / fastest
    speed[1:] = np.minimum(speed[1:], tool_speed / fastest)
    speed[list(stops)] = 0.0
    for i in range(len(length)):
        speed[i + 1] = min(speed[i + 1], np.sqrt(speed[i] ** 2 + 2 * length[i] / RAMP))
    for i in reversed(range(len(length))):
        speed[i] = min(speed[i], np.sqrt(speed[i + 1] ** 2 + 2 * length[i] / RAMP))
    # Two stops may be neighbors where the path does not move.
    mean = np.maximum((speed[1:] + speed[:-1]) / 2, 1e-2)
    return np.concatenate([[0.0], np.cumsum(length / mean)])
