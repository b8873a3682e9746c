"""The configuration of a laboratory: robot, cameras and markers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from komo_envs.entities import Camera, Pose
from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class LabCamera:
    """A camera of the laboratory, in the place of the env's camera of its name."""

    source: Annotated[str, Field(pattern="^(rendered|realsense:.+|recorded:.+)$")]
    """Source of its images: ``"realsense:SERIAL"``; ``"recorded:FOLDER"``, recorded images; or
    ``"rendered"``, as in simulation."""
    pose: Pose | None = None
    """Pose, as in ``Camera``; the env's own if None. ``komo_envs.lab.calibrate`` finds it."""
    fov: Annotated[float, Field(gt=5, lt=120)] | None = None
    """Vertical field of view in degrees of the images that policies observe, which are cropped from
    the camera's; the env's own if None."""

    def __post_init__(self) -> None:
        """Refuse a pose that is none."""
        if self.pose is not None:
            _check_pose(self.pose)


def _check_pose(pose: Pose) -> None:
    if not math.isclose(np.linalg.norm(pose[3:]), 1, abs_tol=1e-3):
        raise ValueError(f"pose: {pose}; expected x, y, z and a unit quaternion, w first")


@dataclass(frozen=True, config=_CONFIG)
class Marker:
    """An ArUco marker of the dictionary 4x4_50 on an object, by which a camera sees where it is."""

    id: Annotated[int, Field(ge=35, lt=50)]
    """Those below are the calibration board's."""
    size: Annotated[float, Field(gt=0.005, lt=0.5)]
    """Side of its black square, m."""
    pose: Pose
    """Pose of the marker in the object's frame: z out of its face, y up as it is printed, m."""
    height: float | None = None
    """Height of its middle in the world, m, if that never changes. It makes the position of a small
    marker exact to a millimetre or two, in place of one or two centimetres along the line of sight;
    without it, hardly any object is seen to rest."""

    def __post_init__(self) -> None:
        """Refuse a pose that is none."""
        _check_pose(self.pose)


@dataclass(frozen=True, config=_CONFIG)
class Lab:
    """A laboratory, for ``backend="real"``; a JSON file has the same fields."""

    robot: Literal["franka", "rehearsal"]
    """The Panda; or a rehearsal of all the rest, with a robot that BotOp simulates."""
    address: str = "172.16.0.2"
    """Address of the robot's control unit."""
    cameras: dict[str, LabCamera] = field(default_factory=dict)
    """Cameras by the name of the env's camera."""
    markers: dict[str, Marker] = field(default_factory=dict)
    """Markers by the name of the body that wears them. The pose of a body without one is unknown:
    then the operator says how an episode ended."""
    marker_camera: str = "front"
    """Which camera looks for them, one that stands still."""

    def __post_init__(self) -> None:
        """Refuse markers that cannot be told apart."""
        ids = [marker.id for marker in self.markers.values()]
        if len(set(ids)) < len(ids):
            raise ValueError(f"markers: have the ids {ids}; expected different ones")

    def rendered(self) -> Lab:
        """The laboratory as a simulation needs it: the cameras' poses, with rendered images."""
        cameras = {name: replace(each, source="rendered") for name, each in self.cameras.items()}
        return Lab(robot="rehearsal", cameras=cameras)

    def calibrated(self, cameras: Sequence[Camera]) -> tuple[Camera, ...]:
        """An env's cameras, where they are in this laboratory.

        Raises:
            ValueError: The laboratory has a camera that the env has not.
        """
        known = {camera.name for camera in cameras}
        if unknown := sorted(set(self.cameras) - known):
            expected = ", ".join(sorted(known))
            raise ValueError(f"lab: cameras.{unknown[0]}: expected one of {expected}")
        still = [camera.name for camera in cameras if camera.parent is None]
        if self.markers and self.marker_camera not in still:
            raise ValueError(f"lab: marker_camera: expected one of {', '.join(still)}")
        return tuple(_placed(camera, self.cameras.get(camera.name)) for camera in cameras)


def _placed(camera: Camera, at: LabCamera | None) -> Camera:
    if at is None:
        return camera
    return replace(camera, pose=at.pose or camera.pose, fov=at.fov or camera.fov)


def make_lab(lab: Lab | Mapping[str, Any] | str | Path | None) -> Lab | None:
    """A laboratory as it is given to an env: itself, its fields, or the file that has them.

    Raises:
        ValueError: It is none; the message names the field.
        OSError: The file cannot be read.
    """
    if lab is None or isinstance(lab, Lab):
        return lab
    if isinstance(lab, str | Path):
        return load_lab(lab)
    if not isinstance(lab, Mapping):
        raise ValueError(f"lab: {lab!r:.80}: expected a Lab, its fields, or the file with them")
    try:
        return parse_json(Lab, json.dumps(dict(lab)), "lab")
    except TypeError as error:
        raise ValueError(f"lab: expected plain numbers, texts, lists and dicts: {error}") from error


def load_lab(path: str | Path) -> Lab:
    """Read what a laboratory has.

    Raises:
        ValueError: The file is none of that kind; the message names the field.
        OSError: It cannot be read.
    """
    return parse_json(Lab, Path(path).read_bytes(), f"lab {path}")


def save_lab(lab: Lab, path: str | Path) -> None:
    """Write what a laboratory has.

    Raises:
        OSError: It cannot be written.
    """
    write_text(Path(path), json.dumps(asdict(lab), indent=2) + "\n")
