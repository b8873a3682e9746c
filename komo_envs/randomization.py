"""Domain randomization: appearance and dynamics vary from episode to episode.

``info["scene"]["randomize"]`` holds the sampled parameters as plain numbers, so that the same
episode can be set up again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

import numpy as np
import scipy  # whose parts are loaded when they are first asked for
from numpy.typing import NDArray

from komo_envs.entities import Array, Body, Camera, Look
from komo_envs.poses import make_pose, rotation
from komo_envs.tasks.base import Scene, Task
from komo_envs.worlds.base import CONTROL_PERIOD, WorldState

SampledParameters = dict[str, Any]
"""Parameters sampled for an episode, by name: numbers, and lists of them."""


def _up_to(most: float) -> Any:
    return field(default=0.0, metadata={"most": most})


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """Range of each parameter: 0 leaves it alone, the number beside it is the most that is allowed.

    A parameter is sampled uniformly, up to its range to either side of its nominal value, unless
    its description says otherwise.
    """

    light_direction: float = _up_to(0.7)
    """Rotation of the main light about both horizontal axes, rad."""
    brightness: float = _up_to(0.7)
    """Relative change of all light."""
    colors: float = _up_to(0.3)
    """Change of each channel of each color in the scene; channels are in [0, 1]."""
    texture: float = _up_to(1.0)
    """Contrast of a pattern on everything but the robot, sampled from 0 to this."""
    camera_position: float = _up_to(0.1)
    """Shift of each camera along each of its own axes, m."""
    camera_rotation: float = _up_to(0.2)
    """Rotation of each camera about each of its own axes, rad."""
    camera_fov: float = _up_to(0.2)
    """Relative change of each camera's field of view."""
    table_size: float = _up_to(0.3)
    """Relative change of each side of the table that the robot stands on."""
    table_yaw: float = _up_to(0.8)
    """Rotation of that table about the vertical, in images only, rad."""
    depth_noise: float = _up_to(0.02)
    """Standard deviation of the depth at a distance of 1 m, m, sampled from 0 to this. It grows
    with the square of the distance, as a stereo camera's does."""
    depth_holes: float = _up_to(1.0)
    """Share of the pixels at the edges of objects that have no depth, sampled from 0 to this."""
    mass: float = _up_to(0.7)
    """Relative change of all free bodies' masses, one factor for all."""
    friction: float = _up_to(0.7)
    """Relative change of all contacts' friction, one factor for all."""
    stiffness: float = _up_to(0.7)
    """Relative change of the stiffness of the arm's joint drives."""
    action_delay: float = _up_to(0.3)
    """Delay from an action to the arm's beginning to follow it, s, sampled from 0 to this."""
    observation_delay: float = _up_to(0.3)
    """Age of the state that images show, s, sampled from 0 to this."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a range is no number from 0 to its limit.
        """
        for name, most in LIMITS.items():
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not 0 <= value <= most:
                raise ValueError(
                    f"randomize: {name}: {value!r}; expected a number from 0 to {most}"
                )

    @property
    def moves_cameras(self) -> bool:
        """Whether the cameras' poses or fields of view vary."""
        return any((self.camera_position, self.camera_rotation, self.camera_fov))

    def sample(
        self, rng: np.random.Generator, bodies: Sequence[Body], cameras: Sequence[Camera]
    ) -> SampledParameters:
        """Sample an episode's parameters.

        Every number is sampled, used or not, so that one range changes no other parameter.

        Args:
            rng: The env's random generator.
            bodies: Bodies of the scene.
            cameras: Cameras of the task.
        """
        sampled: SampledParameters = {}
        for name, (shape, least) in _parts(bodies, cameras).items():
            most = getattr(self, _range_of(name))
            sampled[name] = (most * rng.uniform(least, 1.0, shape)).tolist()
        sampled["noise"] = int(rng.integers(2**31))
        return sampled

    def check(
        self, sampled: Any, bodies: Sequence[Body], cameras: Sequence[Camera]
    ) -> SampledParameters:
        """Sampled parameters as plain numbers.

        Raises:
            ValueError: ``sample`` could not have returned them.
        """
        parts = _parts(bodies, cameras)
        expected = {*parts, "noise"}
        if not isinstance(sampled, Mapping) or set(sampled) != expected:
            got = sorted(map(str, sampled)) if isinstance(sampled, Mapping) else repr(sampled)
            raise ValueError(
                f"scene['randomize']: expected the keys {', '.join(sorted(expected))}, got {got}"
            )
        checked: SampledParameters = {}
        for name, (shape, least) in parts.items():
            most = getattr(self, _range_of(name))
            try:
                value = np.asarray(sampled[name], dtype=float)
            except (TypeError, ValueError):
                value = np.full(1, np.nan)
            low, high = least * most - 1e-9, most + 1e-9
            if value.shape != shape or not ((value >= low) & (value <= high)).all():
                raise ValueError(
                    f"scene['randomize'][{name!r}]: expected numbers of shape {shape} from "
                    f"{least * most:g} to {most:g}, got {sampled[name]!r}"
                )
            checked[name] = value.tolist()
        noise = sampled["noise"]
        whole = isinstance(noise, (int, np.integer)) and not isinstance(noise, bool)
        if not whole or not 0 <= noise < 2**31:
            raise ValueError(f"scene['randomize']['noise']: expected a seed, got {noise!r}")
        return {**checked, "noise": int(noise)}


LIMITS: dict[str, float] = {each.name: each.metadata["most"] for each in fields(Randomization)}
"""The largest range of each parameter."""

VISUAL = Randomization(
    light_direction=0.4,
    brightness=0.3,
    colors=0.1,
    texture=0.3,
    camera_position=0.01,
    camera_rotation=0.02,
    camera_fov=0.03,
    table_size=0.2,
    table_yaw=0.4,
    depth_noise=0.003,
    depth_holes=0.3,
)
"""``randomize="visual"``: about as much as one lab differs from another that copied it."""
DYNAMICS = Randomization(
    mass=0.3, friction=0.3, stiffness=0.3, action_delay=0.1, observation_delay=0.1
)
"""``randomize="dynamics"``."""
ALL = replace(
    VISUAL, **{name: getattr(DYNAMICS, name) for name in LIMITS if getattr(DYNAMICS, name)}
)
"""``randomize="all"``: both."""
PRESETS = {"visual": VISUAL, "dynamics": DYNAMICS, "all": ALL}


def make_randomization(value: str | Mapping[str, float] | None) -> Randomization | None:
    """The ranges that the argument ``randomize`` of an env stands for.

    Args:
        value: None, ``"visual"``, ``"dynamics"``, ``"all"``, or fields of a ``Randomization``.

    Raises:
        ValueError: it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    names = [field.name for field in fields(Randomization)]
    if not isinstance(value, Mapping) or not set(value) <= set(names):
        raise ValueError(
            f"randomize: {value!r}; expected None, {', '.join(map(repr, PRESETS))}, "
            f"or a dict with some of {', '.join(names)}"
        )
    return Randomization(**value)


def sample_scene(
    task: Task, randomization: Randomization | None, rng: np.random.Generator
) -> Scene:
    """A scene of a task, with sampled parameters under ``"randomize"`` if anything varies."""
    scene = task.sample_scene(rng)
    if randomization is not None:  # last, so that the rest is what it is without
        scene["randomize"] = randomization.sample(rng, task.bodies(scene), task.cameras)
    return scene


def check_scene(task: Task, randomization: Randomization | None, scene: Any) -> Scene:
    """A scene with plain numbers.

    Raises:
        ValueError: ``sample_scene`` could not have returned it.
    """
    if randomization is None or not isinstance(scene, Mapping):
        return task.check_scene(scene)
    rest = {key: value for key, value in scene.items() if key != "randomize"}
    checked = task.check_scene(rest)
    bodies, sampled = task.bodies(checked), scene.get("randomize")
    checked["randomize"] = randomization.check(sampled, bodies, task.cameras)
    return checked


def _parts(
    bodies: Sequence[Body], cameras: Sequence[Camera]
) -> dict[str, tuple[tuple[int, ...], float]]:
    """Shape of each sampled parameter, and its least value as a multiple of its range: -1 or 0."""
    parts: dict[str, tuple[tuple[int, ...], float]] = {
        "light_direction": ((2,), -1.0),
        "brightness": ((), -1.0),
        "colors": ((len(_colors(bodies)), 3), -1.0),
        "texture": ((), 0.0),
    }
    for camera in cameras:
        for name, shape in (("position", (3,)), ("rotation", (3,)), ("fov", ())):
            parts[f"{camera.name}_camera_{name}"] = (shape, -1.0)
    both, one = -1.0, 0.0
    return parts | {
        "table_size": ((2,), both),
        "table_yaw": ((), both),
        "depth_noise": ((), one),
        "depth_holes": ((), one),
        "mass": ((), both),
        "friction": ((), both),
        "stiffness": ((), both),
        "action_delay": ((), one),
        "observation_delay": ((), one),
    }


def _range_of(name: str) -> str:
    """The field of ``Randomization`` that holds a sampled parameter's range."""
    _, camera, field_name = name.rpartition("camera_")
    return camera + field_name


def _colors(bodies: Sequence[Body]) -> list[tuple[float, float, float]]:
    """The different colors of a scene: bodies of one color stay so."""
    return list(dict.fromkeys(body.color for body in bodies))


class EpisodeRandomization:
    """Applies an episode's sampled parameters to bodies, cameras, images, actions and states.

    Args:
        sampled: The parameters; None where nothing varies.
    """

    def __init__(self, sampled: SampledParameters | None) -> None:
        self._sampled = sampled
        self._table: int | None = None
        self._references: deque[Array] = deque(maxlen=PERIODS)
        self._states: deque[WorldState] = deque(maxlen=PERIODS)
        self.look = Look()
        """Light and surfaces in images."""
        self.stiffness = 1.0
        """Factor on the stiffness of the arm, see ``World.reset``."""
        if sampled is not None:
            self.stiffness += sampled["stiffness"]
            turn = scipy.spatial.transform.Rotation.from_euler("xy", sampled["light_direction"])
            x, y, z = turn.apply(self.look.light).tolist()
            brightness = 1.0 + sampled["brightness"]
            self.look = Look((x, y, z), brightness, sampled["texture"], sampled["noise"] % 1000)

    def bodies(self, bodies: Sequence[Body]) -> tuple[Body, ...]:
        """The bodies of the scene as they are in this episode."""
        sampled = self._sampled
        if sampled is None:
            return tuple(bodies)
        names = [body.name for body in bodies]
        self._table = names.index("table") if "table" in names else None
        shifts = dict(zip(_colors(bodies), sampled["colors"], strict=True))
        changed = []
        for body in bodies:
            red, green, blue = np.clip(np.add(body.color, shifts[body.color]), 0.0, 1.0).tolist()
            new = replace(
                body,
                color=(red, green, blue),
                friction=body.friction * (1 + sampled["friction"]),
                mass=None if body.mass is None else body.mass * (1 + sampled["mass"]),
            )
            if body.name == "table":
                (x, y, z), (wide, deep) = body.size, (1 + share for share in sampled["table_size"])
                new = replace(new, size=(wide * x, deep * y, z))
            changed.append(new)
        return tuple(changed)

    def rendered_poses(self, body_poses: Array) -> Array:
        """The bodies' poses (N, 7) in images: the table is turned only there, since the robot
        stands on it.
        """
        if self._sampled is None or self._table is None:
            return body_poses
        poses = body_poses.copy()
        yaw = scipy.spatial.transform.Rotation.from_euler("z", self._sampled["table_yaw"])
        table = poses[self._table]
        table[:] = make_pose(table[:3], yaw * rotation(table))
        return poses

    def cameras(self, cameras: Sequence[Camera]) -> tuple[Camera, ...]:
        """Cameras as they are in this episode: moved and turned in their own frames."""
        if self._sampled is None:
            return tuple(cameras)
        changed = []
        for camera in cameras:
            position, turn, fov = (
                np.array(self._sampled[f"{camera.name}_camera_{part}"])
                for part in ("position", "rotation", "fov")
            )
            orientation = rotation(camera.pose)
            place = np.add(camera.pose[:3], orientation.apply(position))
            away = scipy.spatial.transform.Rotation.from_rotvec(turn)
            pose = make_pose(place, orientation * away)
            changed.append(replace(camera, pose=pose, fov=camera.fov * (1 + float(fov))))
        return tuple(changed)

    def begin(self, reference: Array, state: WorldState) -> None:
        """Record the start of the episode: the arm stands at ``reference`` (7,), rad."""
        self._references.append(reference)
        self._states.append(state)

    def delayed(self, reference: Array) -> Array:
        """Record a joint reference (7,), and return the one that the arm gets in its place."""
        self._references.append(reference)
        if self._sampled is None:
            return reference
        return _before(self._references, self._sampled["action_delay"])

    def take_back(self) -> None:
        """Forget the last reference, which the arm has not followed."""
        self._references[-1] = self._references[-2]

    def record(self, state: WorldState) -> None:
        """Record the state at the end of a control period."""
        self._states.append(state)

    def observed_state(self) -> WorldState:
        """The state that images show now: links and bodies as they were before the delay."""
        now = self._states[-1]
        age = 0.0 if self._sampled is None else self._sampled["observation_delay"]
        if age == 0.0:
            return now
        links = _before([state.link_poses for state in self._states], age)
        bodies = _before([state.body_poses for state in self._states], age)
        for poses in (links, bodies):
            poses[:, 3:] /= np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
        return replace(now, link_poses=links, body_poses=bodies)

    def noisy_depth(self, depth: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """Depth (H, W, 1), m, as a stereo camera measures it.

        Args:
            depth: Depth without noise; 0 where nothing is hit.
            index: Index of the image in the episode: each has noise of its own.
        """
        sampled = self._sampled
        if sampled is None or not (sampled["depth_noise"] or sampled["depth_holes"]):
            return depth
        rng = np.random.default_rng([sampled["noise"], index])
        # The noise of a disparity is the same everywhere, and distance goes with its inverse.
        noise = sampled["depth_noise"] * rng.standard_normal(depth.shape, np.float32)
        lost = rng.random(depth.shape, np.float32) < sampled["depth_holes"]
        noisy = np.where(lost & _edges(depth), 0.0, np.maximum(depth + noise * depth**2, 0.0))
        return noisy.astype(np.float32)


PERIODS = 1 + math.ceil(max(LIMITS["action_delay"], LIMITS["observation_delay"]) / CONTROL_PERIOD)
"""Number of control periods that are remembered."""
EDGE = 0.02
"""Difference in depth between neighboring pixels that makes an edge, m."""


def _before(values: Sequence[Array], age: float) -> Array:
    """The value ``age`` seconds before the last one, linear between two control periods."""
    back = age / CONTROL_PERIOD
    whole = int(back)
    newer, older = (values[max(len(values) - 1 - n, 0)] for n in (whole, whole + 1))
    return newer + (back - whole) * (older - newer)


def _edges(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask (H, W, 1) of the pixels that have a neighbor at another depth."""
    edge = np.zeros(depth.shape, bool)
    rows, columns = (np.abs(np.diff(depth, axis=axis)) > EDGE for axis in (0, 1))
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge
