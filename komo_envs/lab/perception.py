"""Perception of a laboratory: live images, and the poses of bodies that wear a marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import Array, Body, Camera
from komo_envs.lab.cameras import Frame, Stream, check_covers, crop_resize, open_stream
from komo_envs.lab.config import Lab
from komo_envs.worlds.base import LiveImage, WorldState

LAID_OUT, ROUGHLY = 0.02, 0.05
"""m on the table from its place, within which a thing with a marker is laid out as wanted: where
the marker's height is known, and where it is not."""


class Perception:
    """The cameras of a laboratory, and the poses that they tell.

    Args:
        lab: The laboratory.
        cameras: All cameras of the env, where they stand in the laboratory.
        observed: Names of the cameras that policies observe.

    Raises:
        ImportError: An optional dependency is not installed.
        OSError: A camera is not there.
        ValueError: A camera that looks for markers has no live images, or its pose is unknown.
    """

    def __init__(self, lab: Lab, cameras: Sequence[Camera], observed: Sequence[str]) -> None:
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
                    raise ValueError(f"lab: cameras.{name}: expected one with live images")
        except BaseException:
            self.close()
            raise
        self._poses: dict[str, Array] = {}
        self._seen_at = 0.0

    def close(self) -> None:
        """Let go of the cameras."""
        for stream in self._streams.values():
            stream.close()

    def without_marker(self, bodies: Sequence[Body]) -> list[str]:
        """Names of the free bodies that wear no marker: nobody knows where they are."""
        moving = (body.name for body in bodies if body.mass is not None)
        return [name for name in moving if name not in self._lab.markers]

    def describe(self, bodies: Sequence[Body]) -> str:
        """The source of an episode's outcome, for the operator to read before anything moves."""
        unseen, worn = self.without_marker(bodies), sorted(self._lab.markers)
        if not unseen:
            return "Markers say where things are, and how an episode ended."
        there = f"; the lab has markers on {', '.join(worn)}" if worn else ""
        return f"{', '.join(unseen)}: no marker{there}. You will be asked how an episode ended."

    def hidden(self, state: WorldState, bodies: Sequence[Body]) -> list[str]:
        """Names of the bodies whose marker has not been seen yet."""
        poses = zip(bodies, state.body_poses, strict=True)
        return [b.name for b, p in poses if b.name in self._lab.markers and np.isnan(p).any()]

    def misplaced(self, state: WorldState, wanted: WorldState, bodies: Sequence[Body]) -> str:
        """The bodies that are away from their wanted places, as far as markers tell, in words."""
        found = []
        for body, is_at, belongs in zip(bodies, state.body_poses, wanted.body_poses, strict=True):
            off = float(np.linalg.norm(is_at[:2] - belongs[:2]))
            marker = self._lab.markers.get(body.name)
            if marker is None or body.mass is None:
                continue
            if off > (ROUGHLY if marker.height is None else LAID_OUT):
                found.append(f"{body.name} is {off * 100:.1f} cm from its place")
        return " and ".join(found)

    def start_episode(self) -> None:
        """Remember the present frames as the first ones of an episode."""
        self._first = self._frames

    def episode_images(self, camera: Camera) -> dict[str, NDArray[np.uint8]]:
        """Live images (H, W, 3) of a camera at an episode's ``"start"`` and ``"end"``, if any."""
        images = {}
        for moment, frames in {"start": self._first, "end": self._frames}.items():
            if camera.name in frames:
                frame = frames[camera.name]
                images[moment], _ = crop_resize(frame, camera.fov, frame.rgb.shape[:2])
        return images

    def forget(self) -> None:
        """Forget the poses of the last scene."""
        self._poses = {}

    def look(self, state: WorldState, bodies: Sequence[Body]) -> WorldState:
        """Read the cameras, and put the poses that they show into a state.

        A body without a marker, or not detected yet, gets a NaN pose; a hidden one keeps its last
        pose, with NaN velocities.

        Raises:
            CameraLost: A camera gives no images any more.
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
            # A hidden body may move: it is not at rest.
            if body.name not in seen:
                velocities[index] = np.nan
            elif before is not None:
                velocities[index, :3] = (seen[body.name][:3] - before[:3]) / time
            if now is not None:
                self._poses[body.name] = now
        self._seen_at = state.time
        return replace(state, body_poses=poses, body_velocities=velocities)

    def overlay(self, wanted: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
        """The image of a wanted scene (H, W, 3), blended with the camera's live one if any."""
        if camera.name not in self._streams:
            return wanted
        now, _ = crop_resize(self._streams[camera.name].read(), camera.fov, wanted.shape[:2])
        mixed = (now.astype(np.uint16) + wanted) // 2
        return mixed.astype(np.uint8)

    def _track(self) -> dict[str, Array]:
        if not self._lab.markers:
            return {}
        from komo_envs.lab.markers import track  # here: it needs OpenCV

        name = self._lab.marker_camera
        return track(self._frames[name], self._cameras[name].pose, self._lab.markers)

    def images(
        self, cameras: Sequence[Camera], size: tuple[int, int]
    ) -> dict[str, LiveImage] | None:
        """The present images of cameras, by name; None if one of them is rendered.

        Args:
            cameras: The cameras.
            size: (height, width) in pixels.
        """
        if any(camera.name not in self._streams for camera in cameras):
            return None
        images = {}
        for camera in cameras:
            rgb, depth = crop_resize(self._frames[camera.name], camera.fov, size)
            images[camera.name] = LiveImage(rgb, np.minimum(depth, camera.far))
        return images
