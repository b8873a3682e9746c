"""Features: the inputs and outputs of a student, and their normalization statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from komo_envs.env import KomoEnv
from komo_envs.observations import layout_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """The env of a student, its images, and where the entries of its vectors are."""

    env_id: str
    control_mode: str
    cameras: tuple[str, ...]
    """Cameras whose images are observed, side by side."""
    camera_pose_varies: bool
    """Whether images are encoded together with proprioception: because the robot carries a camera,
    or because no camera stands exactly where it should, and the robot shows by how much."""
    image_size: int
    """Side of the square images, pixels."""
    action_size: int
    command_slice: tuple[int, int]
    """Start and stop of the last command in ``agent_pos``, in the coordinates of the action; empty
    in ``ee_delta``, whose actions are relative to it already."""
    ee_slice: tuple[int, int]
    """Start and stop of the end-effector coordinates in ``agent_pos``."""
    position_size: int
    """Number of coordinates of the object's position, and of the goal."""
    observable_mask: tuple[bool, ...]
    """Which entries of the privileged state an image shows."""
    object_slots: tuple[int, int]
    """(count, size): the privileged state ends with so many unordered obstacles, of so many entries
    each; (0, 0) if there are none."""

    @property
    def agent_pos_size(self) -> int:
        """Entries of the proprioception, which ends with the commanded end-effector coordinates."""
        return 2 * self.ee_slice[1] - self.ee_slice[0]


def features_of(env: KomoEnv, env_id: str) -> Features:
    """The features of an env of square images.

    Raises:
        ValueError: Its images have another shape.
    """
    height, width = env.image_size
    if height != width:
        raise ValueError(f"image_size: {(height, width)}; expected a square")
    layout = layout_of(env.task)
    command = {"joint": layout.joint_command, "ee": layout.ee_command, "ee_delta": slice(0, 0)}
    start_stop = command[env.control_mode].start, command[env.control_mode].stop
    return Features(
        env_id=env_id,
        control_mode=env.control_mode,
        cameras=tuple(camera.name for camera in env.cameras),
        camera_pose_varies=any(camera.parent is not None for camera in env.cameras)
        or (env.randomization is not None and env.randomization.moves_cameras),
        image_size=height,
        action_size=layout.joints.stop if env.control_mode == "joint" else layout.coordinates,
        command_slice=start_stop,
        ee_slice=(layout.ee.start, layout.ee.stop),
        position_size=len(env.task.goal_low) - 1,
        observable_mask=tuple(map(bool, env.task.observable_mask)),
        object_slots=env.task.object_slots,
    )


def state_mask(features: Features, privileged: bool) -> tuple[bool, ...]:
    """Which entries of the privileged state a student reads (state-based), or predicts."""
    return tuple(privileged or visible for visible in features.observable_mask)


def masked_state(obs: Mapping[str, Any], mask: Sequence[bool]) -> Floats:
    """The object's position, and the entries of the privileged state (P,) that ``mask`` selects.

    Args:
        obs: State observations, (..., S) each, of an env or of a file.
        mask: (P,), whether to take each entry.
    """
    position = obs["achieved_goal"][..., :-1]
    state = obs["observation"][..., -len(mask) :]
    return np.concatenate([position, state[..., np.array(mask)]], -1)


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation, by which values are normalized."""

    mean: Floats
    std: Floats


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of all inputs and outputs of a student."""

    agent_pos: Stats
    goal: Stats
    state: Stats
    actions: Stats
    """Statistics of encoded chunks (N, A), see ``ActionEncoding``."""
    depth: Stats
    """Statistics of depth, m: ()."""
