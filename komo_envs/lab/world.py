"""The world of a laboratory: its robot, and the scene as cameras, markers and operator tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from komo_envs.control import IsSafe
from komo_envs.entities import Array, Body, Camera
from komo_envs.lab.config import Lab
from komo_envs.lab.operator import Operator, TerminalOperator
from komo_envs.lab.perception import Perception
from komo_envs.rendering import Renderer
from komo_envs.tasks.base import Task
from komo_envs.worlds import World, WorldState, make_world


class LabWorld:
    """A robot's world whose bodies are where markers and camera images show them.

    Making one opens the cameras.

    Args:
        lab: The laboratory.
        task: The task, whose limits and cameras hold.
        cameras: The cameras that a policy observes, where they stand in the laboratory.
        image_size: (height, width) of their images, pixels.
        layout_size: (height, width) of the image by which a scene is laid out, pixels.
        obs_mode: The env's observation mode: ``"state"`` needs every body's pose.
        reward_mode: The env's reward mode: ``"dense"`` needs every body's pose.
        operator: Lays out scenes and judges episodes; asked at the terminal if None.
        dry_run: Whether the robot is sent nothing, and its commands are printed instead.

    Raises:
        ValueError: The robot's limits or a camera's pose cannot be known.
        ImportError: An optional dependency is not installed.
        OSError: A camera is not there.
    """

    def __init__(
        self,
        lab: Lab,
        task: Task,
        cameras: Sequence[Camera],
        image_size: tuple[int, int],
        layout_size: tuple[int, int],
        obs_mode: str,
        reward_mode: str,
        operator: Operator | None,
        dry_run: bool,
    ) -> None:
        if lab.robot == "franka" and type(task).__module__ == "__main__":
            # No other process can import it.
            raise ValueError("task: defined in __main__; expected one of a module, for a robot")
        self.operator = operator or TerminalOperator(Path("layouts"))
        self._cameras = cameras if obs_mode != "state" else ()
        self._image_size = image_size
        self._layout_size = layout_size
        self._layout_camera = next((c for c in cameras if c.parent is None), task.render_camera)
        self._modes = {"obs_mode": obs_mode, "reward_mode": reward_mode}
        self._dry_run = dry_run
        observed = [camera.name for camera in self._cameras]
        self._perception = Perception(lab, lab.calibrated(task.cameras), observed)
        self._renderer = Renderer()
        self._bodies: tuple[Body, ...] = ()
        self._knows_the_way_home = False
        real = lab.robot == "franka"
        self.robot: World = make_world(
            "real", lab.address if real else None, dry_run, IsSafe(task) if real else None
        )

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """Bring the arm home, have the operator lay the scene out, and look at it.

        Raises:
            ValueError: A mode needs the pose of a body that wears no marker.
            RobotStopped: The robot has been stopped, or a camera gives no images any more.
        """
        self._check_markers(bodies)
        self._bodies = tuple(bodies)
        known, self._knows_the_way_home = self._knows_the_way_home, False
        if known:
            self.operator.confirm("The arm is about to go home, by the way that it came.")
        else:  # the first time, or after something went wrong
            self.operator.confirm(
                f"{self._perception.describe(bodies)} The arm is about to go to its home "
                "position, by the way that it came, or straight if it came none."
            )
        wanted = self.robot.reset(q, bodies, arm_collides, stiffness)
        state = self._lay_out(q, wanted)
        self._knows_the_way_home = True
        return state

    def step(self, reference: Array) -> WorldState:
        """Move toward joint positions ``reference`` (7,), rad, for one control period, and look.

        Raises:
            RobotStopped: The robot has been stopped, or a camera gives no images any more.
        """
        self._knows_the_way_home = False
        if self._dry_run:
            print(f"would be sent to {np.round(reference, 4).tolist()} rad")
        state = self._look(self.robot.step(reference))
        self._knows_the_way_home = True
        return state

    def close(self) -> None:
        """Let the robot and the cameras go."""
        self.robot.close()
        self._perception.close()

    def query_outcome(self) -> bool | None:
        """Whether the operator calls the episode a success; None if markers tell."""
        if not self._perception.without_marker(self._bodies):
            return None
        return self.operator.outcome()

    def save_images(self) -> None:
        """Have the operator keep live images of the episode's start and end, if there are any."""
        for moment, image in self._perception.episode_images(self._layout_camera).items():
            self.operator.keep(moment, image)

    def _check_markers(self, bodies: Sequence[Body]) -> None:
        for name, needs in (("obs_mode", "state"), ("reward_mode", "dense")):
            unseen = self._perception.without_marker(bodies)
            if self._modes[name] == needs and unseen:
                raise ValueError(
                    f"{name}={needs!r}: the lab does not see {', '.join(unseen)}; expected a "
                    f"marker on each, or another {name}"
                )

    def _lay_out(self, home: Array, wanted: WorldState) -> WorldState:
        """Have the scene laid out as in a state, and look at it; the arm is at home."""
        self._perception.forget()
        image = self._render(wanted)
        self.operator.lay_out(self._perception.overlay(image, self._layout_camera))
        while True:
            # However long it took, the episode begins now.
            state = self._look(replace(self.robot.step(home), latency=0.0, followed=True))
            if hidden := self._perception.hidden(state, self._bodies):
                self.operator.confirm(f"The marker of {', '.join(hidden)} is not seen: uncover it.")
            elif wrong := self._perception.misplaced(state, wanted, self._bodies):
                self.operator.confirm(f"Not laid out yet: {wrong}.")
                self.operator.lay_out(self._perception.overlay(image, self._layout_camera))
            else:
                self._perception.start_episode()
                return state

    def _render(self, state: WorldState) -> NDArray[np.uint8]:
        """The layout camera's image (H, W, 3) of a state."""
        self._renderer.set_bodies(self._bodies)
        poses = (state.link_poses, state.body_poses)
        cameras = (self._layout_camera,)
        [image] = self._renderer.render(*poses, cameras, self._layout_size, True)
        return image.rgb

    def _look(self, state: WorldState) -> WorldState:
        """The state with the bodies as they are perceived, and with the observed images."""
        state = self._perception.look(state, self._bodies)
        return replace(state, images=self._perception.images(self._cameras, self._image_size))
