"""What an env sees of a laboratory: live pictures, and the poses of what wears a marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import Array, Body, Camera
from komo_envs.lab.cameras import Frame, Stream, check_covers, cut, open_stream
from komo_envs.lab.config import Lab
from komo_envs.lab.operator import Operator
from komo_envs.worlds.base import WorldState

LAID_OUT, ROUGHLY = 0.02, 0.05
"""m on the table from its place, within which a thing with a marker is laid out as wanted: where
the marker's height is known, and where it is not."""


class Live:
    """The cameras of a laboratory, and what they tell of a scene.

    Args:
        lab: What it has.
        operator: Who stands there.
        cameras: All of the env's, where they are in the laboratory.
        observed: Names of those that policies see through.

    Raises:
        ImportError: Something is not installed.
        OSError: A camera is not there.
        ValueError: A camera that looks for markers has no live pictures, or nobody has said where
            one stands.
    """

    def __init__(
        self, lab: Lab, operator: Operator, cameras: Sequence[Camera], observed: Sequence[str]
    ) -> None:
        self.operator = operator
        self._lab = lab
        self._cameras = {camera.name: camera for camera in cameras}
        looks = {lab.marker_camera} if lab.markers and lab.robot == "franka" else set()
        self._streams: dict[str, Stream] = {}
        self._frames: dict[str, Frame] = {}
        self._first: dict[str, Frame] = {}
        try:
            for name in sorted(looks | set(observed)):
                at = lab.cameras.get(name)
                if lab.robot == "franka" and at is not None and at.pose is None:
                    raise ValueError(
                        f"lab: cameras.{name}.pose: expected where it is, which "
                        "python -m komo_envs.lab.calibrate finds"
                    )
                stream = open_stream(at.source) if at is not None else None
                if stream is not None:
                    self._streams[name] = stream
                    if name in observed:
                        check_covers(stream.read(), self._cameras[name])
                elif lab.robot == "franka":
                    raise ValueError(f"lab: cameras.{name}: expected one with live pictures")
        except BaseException:
            self.close()
            raise
        self._poses: dict[str, Array] = {}
        self._seen_at = 0.0

    def close(self) -> None:
        """Let go of the cameras."""
        for stream in self._streams.values():
            stream.close()

    def unseen(self, bodies: Sequence[Body]) -> list[str]:
        """Names of the moving bodies that wear no marker: nobody knows where they are."""
        moving = (body.name for body in bodies if body.mass is not None)
        return [name for name in moving if name not in self._lab.markers]

    def check_sees(self, bodies: Sequence[Body], obs_mode: str, reward_mode: str) -> None:
        """Refuse what cannot be known of bodies that nobody sees.

        Raises:
            ValueError: It is wanted.
        """
        for name, value, wants in (
            ("obs_mode", obs_mode, "state"),
            ("reward_mode", reward_mode, "dense"),
        ):
            if value == wants and (unseen := self.unseen(bodies)):
                raise ValueError(
                    f"{name}={value!r}: the lab does not see {', '.join(unseen)}; expected a "
                    f"marker on each, or another {name}"
                )

    def what_is_known(self, bodies: Sequence[Body]) -> str:
        """Who says how an episode ended, for the operator to read before anything moves."""
        unseen, worn = self.unseen(bodies), sorted(self._lab.markers)
        if not unseen:
            return "Markers say where things are, and how an episode ended."
        there = f"; the lab has markers on {', '.join(worn)}" if worn else ""
        return f"{', '.join(unseen)}: no marker{there}. You will be asked how an episode ended."

    def hidden(self, state: WorldState, bodies: Sequence[Body]) -> list[str]:
        """Names of the bodies whose marker has not been seen yet."""
        poses = zip(bodies, state.body_poses, strict=True)
        return [b.name for b, p in poses if b.name in self._lab.markers and np.isnan(p).any()]

    def misplaced(self, state: WorldState, wanted: WorldState, bodies: Sequence[Body]) -> str:
        """What is not where a wanted scene has it, as far as markers tell, in words."""
        found = []
        for body, is_at, belongs in zip(bodies, state.body_poses, wanted.body_poses, strict=True):
            off = float(np.linalg.norm(is_at[:2] - belongs[:2]))
            marker = self._lab.markers.get(body.name)
            if marker is None or body.mass is None:
                continue
            if off > (ROUGHLY if marker.height is None else LAID_OUT):
                found.append(f"{body.name} is {off * 100:.1f} cm from its place")
        return " and ".join(found)

    def start(self) -> None:
        """Remember the pictures of the moment, which takes no time: an episode begins with them."""
        self._first = self._frames

    def keep(self, camera: Camera) -> None:
        """Have the operator keep what a camera showed at the start and at last, if it is live."""
        for moment, frames in {"start": self._first, "end": self._frames}.items():
            if camera.name in frames:
                frame = frames[camera.name]
                picture, _ = cut(frame, camera.fov, frame.rgb.shape[:2])
                self.operator.keep(moment, picture)

    def begin(self) -> None:
        """Forget the scene before."""
        self._poses = {}

    def look(self, state: WorldState, bodies: Sequence[Body]) -> WorldState:
        """Take the pictures of a moment, and put what they show of the bodies into its state.

        Who wears no marker, or has not been seen yet, is nowhere: its pose is not a number.

        Raises:
            CameraLost: A camera gives no pictures any more.
        """
        self._frames = {name: stream.read() for name, stream in self._streams.items()}
        if self._lab.robot == "rehearsal":
            seen = {
                body.name: pose
                for body, pose in zip(bodies, state.body_poses, strict=True)
                if body.name in self._lab.markers
            }
        else:
            seen = self._track()
        poses, velocities = state.body_poses.copy(), np.zeros_like(state.body_velocities)
        time = max(state.time - self._seen_at, 1e-3)
        for index, body in enumerate(bodies):
            if body.mass is None:
                continue
            before = self._poses.get(body.name)
            now = seen.get(body.name, before)
            poses[index] = np.nan if now is None else now
            # Whoever is hidden may move: it rests nowhere.
            if body.name not in seen:
                velocities[index] = np.nan
            elif before is not None:
                velocities[index, :3] = (seen[body.name][:3] - before[:3]) / time
            if now is not None:
                self._poses[body.name] = now
        self._seen_at = state.time
        return replace(state, body_poses=poses, body_velocities=velocities)

    def overlaid(self, wanted: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
        """The picture of a wanted scene (H, W, 3), half over what the camera shows now, if live."""
        if camera.name not in self._streams:
            return wanted
        now, _ = cut(self._streams[camera.name].read(), camera.fov, wanted.shape[:2])
        mixed = (now.astype(np.uint16) + wanted) // 2
        return mixed.astype(np.uint8)

    def _track(self) -> dict[str, Array]:
        if not self._lab.markers:
            return {}
        from komo_envs.lab.markers import track  # here: it needs OpenCV

        name = self._lab.marker_camera
        return track(self._frames[name], self._cameras[name].pose, self._lab.markers)

    def pictures(
        self, cameras: Sequence[Camera], size: tuple[int, int]
    ) -> list[tuple[NDArray[Any], NDArray[Any]]] | None:
        """Colours (H, W, 3) and depth (H, W, 1) of the moment, by each camera; None if one of them
        is rendered.
        """
        if any(camera.name not in self._streams for camera in cameras):
            return None
        pictures = []
        for camera in cameras:
            rgb, depth = cut(self._frames[camera.name], camera.fov, size)
            pictures.append((rgb, np.minimum(depth, camera.far)))
        return pictures
