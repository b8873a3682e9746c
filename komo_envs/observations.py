"""Observations: modes, spaces, and where each number stands in the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from komo_envs.entities import Array, Camera
from komo_envs.randomization import EpisodeRandomization
from komo_envs.rendering import Image
from komo_envs.tasks.base import Task
from komo_envs.worlds import WorldState
from komo_envs.worlds.panda import JOINT_HIGH, JOINT_LOW

OBS_MODES: dict[str, tuple[str, ...]] = {
    "state": (),
    "rgb": ("pixels",),
    "depth": ("depth",),
    "rgbd": ("pixels", "depth"),
}
"""The observation modes, and the image keys of each."""

Observation = dict[str, Any]

JOINTS = 7


@dataclass(frozen=True)
class ObservationLayout:
    """Slices of ``observation``, whose first numbers are those of ``agent_pos``.

    Args:
        coordinates: Number of end-effector coordinates E.
        privileged_size: Number of entries P of the task's privileged state.
    """

    coordinates: int
    privileged_size: int

    @property
    def joints(self) -> slice:
        """Joint positions, rad."""
        return slice(0, JOINTS)

    @property
    def joint_command(self) -> slice:
        """The last commanded joint positions, rad."""
        return slice(JOINTS, 2 * JOINTS)

    @property
    def ee(self) -> slice:
        """End-effector coordinates, m and rad."""
        return slice(2 * JOINTS, 2 * JOINTS + self.coordinates)

    @property
    def ee_command(self) -> slice:
        """The last commanded end-effector coordinates, m and rad."""
        return slice(self.ee.stop, self.ee.stop + self.coordinates)

    @property
    def agent_pos(self) -> slice:
        """Proprioception: the four above."""
        return slice(0, self.ee_command.stop)

    @property
    def joint_velocities(self) -> slice:
        """Joint velocities, rad/s."""
        return slice(self.ee_command.stop, self.ee_command.stop + JOINTS)

    @property
    def privileged(self) -> slice:
        """The task's privileged state: first the object's position (3,), m."""
        return slice(self.joint_velocities.stop, self.joint_velocities.stop + self.privileged_size)


def layout_of(task: Task) -> ObservationLayout:
    """The layout of a task's observations."""
    return ObservationLayout(len(task.end_effector.names), len(task.privileged_high))


RenderImages = Callable[[Sequence[Camera], tuple[int, int], bool, WorldState], list[Image]]


class Observer:
    """Makes observations of states, and knows their spaces.

    Args:
        task: The task.
        cameras: The cameras observed.
        image_size: (height, width) of images, pixels.
        shadows: Whether rendered images have soft shadows.
    """

    def __init__(
        self,
        task: Task,
        cameras: Sequence[Camera],
        image_size: tuple[int, int],
        shadows: bool,
    ) -> None:
        self._cameras = cameras
        self._image_size = image_size
        self._shadows = shadows
        self._bounds = _bounds(task)

    def space(self, obs_mode: str) -> spaces.Dict:
        """The observation space of a mode."""
        keys: tuple[str, ...] = ("observation", "achieved_goal", "desired_goal")
        if obs_mode != "state":
            keys = ("agent_pos", "goal")
        vectors = {key: spaces.Box(*self._bounds[key]) for key in keys}
        return spaces.Dict({**self._image_spaces(obs_mode), **vectors})

    def vectors(self, vectors: Mapping[str, Array]) -> Observation:
        """Vectors as float32, inside their spaces whatever the simulation did."""
        return {
            key: np.clip(value.astype(np.float32), *self._bounds[key])
            for key, value in vectors.items()
        }

    def images(
        self,
        obs_mode: str,
        state: WorldState,
        step: int,
        randomized: EpisodeRandomization,
        render: RenderImages,
    ) -> Observation:
        """The images that a mode observes: those that came with the state, or rendered ones.

        Args:
            obs_mode: The observation mode.
            state: The present state.
            step: Index of the state in the episode.
            randomized: The randomization of the episode.
            render: Renders images of a state.
        """
        if obs_mode == "state":
            return {}
        live = state.images
        images = live and [live[camera.name] for camera in self._cameras]
        rgb, depth = zip(*(images or self._rendered(step, randomized, render)), strict=True)
        values = {"pixels": rgb, "depth": depth}
        return {key: self._per_camera(values[key]) for key in OBS_MODES[obs_mode]}

    def _rendered(
        self, step: int, randomized: EpisodeRandomization, render: RenderImages
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """RGB and depth of the observed cameras, with all randomization."""
        cameras = randomized.cameras(self._cameras)
        images = render(cameras, self._image_size, self._shadows, randomized.observed_state())
        first = step * len(images)
        return [
            (image.rgb, np.minimum(randomized.noisy_depth(image.depth, first + i), camera.far))
            for i, (image, camera) in enumerate(zip(images, cameras, strict=True))
        ]

    def _per_camera(self, values: Sequence[Any]) -> Any:
        """The value of the only camera, or a dict of values by the cameras' names."""
        if len(values) == 1:
            return values[0]
        return {camera.name: value for camera, value in zip(self._cameras, values, strict=True)}

    def _image_spaces(self, obs_mode: str) -> dict[str, spaces.Space[Any]]:
        height, width = self._image_size
        far = max(camera.far for camera in self._cameras)
        boxes = {
            "pixels": spaces.Box(0, 255, (height, width, 3), np.uint8),
            "depth": spaces.Box(0.0, far, (height, width, 1), np.float32),
        }
        images: dict[str, spaces.Space[Any]] = {}
        for key in OBS_MODES[obs_mode]:
            space = self._per_camera([boxes[key]] * len(self._cameras))
            images[key] = spaces.Dict(space) if isinstance(space, dict) else space
        return images


def _bounds(task: Task) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lower and upper bounds of each vector observation, float32, by key."""
    slack = 0.5  # rad: the physics gives way a little at the joint limits
    far = np.full(2 * len(task.end_effector.names), 4.0)
    fast = np.full(JOINTS, 20.0)
    agent_low = np.concatenate([JOINT_LOW - slack, JOINT_LOW, -far])
    agent_high = np.concatenate([JOINT_HIGH + slack, JOINT_HIGH, far])
    bounds = {
        "agent_pos": (agent_low, agent_high),
        "goal": (task.goal_low[:-1], task.goal_high[:-1]),
        "observation": (
            np.concatenate([agent_low, -fast, -task.privileged_high]),
            np.concatenate([agent_high, fast, task.privileged_high]),
        ),
        "achieved_goal": (task.goal_low, task.goal_high),
        "desired_goal": (task.goal_low, task.goal_high),
    }
    return {
        key: (low.astype(np.float32), high.astype(np.float32))
        for key, (low, high) in bounds.items()
    }
