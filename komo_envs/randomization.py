"""Domain randomisation: what is seen and what is felt varies from episode to episode.

What was drawn is in ``info["scene"]["randomize"]``, plain numbers, so that an episode can be set up
again with all of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # whose parts are loaded when they are first asked for
from numpy.typing import NDArray

from komo_envs.entities import Array, Body, Camera, Look, Pose
from komo_envs.worlds.base import CONTROL_PERIOD, WorldState

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

Draw = dict[str, Any]
"""What was drawn for an episode, by name: numbers, and lists and dicts of them."""


def _up_to(most: float) -> Any:
    return field(default=0.0, metadata={"most": most})


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """By how much each thing varies: from 0, where it stays as it is, to the limit beside it.

    Where nothing else is said, a thing is drawn uniformly, up to so much to either side of what it
    is without.
    """

    light_direction: float = _up_to(0.7)
    """Of the main light, about both horizontal axes, rad."""
    brightness: float = _up_to(0.7)
    """Of all light, as a share."""
    colours: float = _up_to(0.3)
    """Of each channel of each colour in the scene, which has values from 0 to 1."""
    texture: float = _up_to(1.0)
    """Contrast of a pattern on everything but the robot, from none to this."""
    camera_position: float = _up_to(0.1)
    """Of each camera along each of its own axes, m."""
    camera_rotation: float = _up_to(0.2)
    """Of each camera about each of its own axes, rad."""
    camera_fov: float = _up_to(0.2)
    """Of each camera's field of view, as a share."""
    table_size: float = _up_to(0.3)
    """Of each side of the table that the robot stands on, as a share."""
    table_yaw: float = _up_to(0.8)
    """Of that table, in pictures, rad."""
    depth_noise: float = _up_to(0.02)
    """Standard deviation of the depth of what is 1 m away, m, from none to this. It grows with the
    square of the distance, as that of a stereo camera does."""
    depth_holes: float = _up_to(1.0)
    """Share of the pixels at the edges of things that have no depth, from none to this."""
    mass: float = _up_to(0.7)
    """Of what moves freely, as a share. One factor for all of it."""
    friction: float = _up_to(0.7)
    """Of all contacts, as a share."""
    stiffness: float = _up_to(0.7)
    """Of the arm's joint drives, as a share: how far the arm trails its commands."""
    action_delay: float = _up_to(0.3)
    """From an action to the arm's beginning to follow it, s, from none to this."""
    observation_delay: float = _up_to(0.3)
    """How old what pictures show is, s, from none to this."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: one is no number from 0 to its limit.
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
        """Whether cameras are not exactly where they should be."""
        return any((self.camera_position, self.camera_rotation, self.camera_fov))

    def sample(
        self, rng: np.random.Generator, bodies: Sequence[Body], cameras: Sequence[Camera]
    ) -> Draw:
        """Draw an episode's. Every number is drawn, used or not, so that one range changes no
        other's draw.

        Args:
            rng: Draws.
            bodies: Of the scene.
            cameras: Of the task.
        """
        draw: Draw = {}
        for name, (shape, least) in _parts(bodies, cameras).items():
            most = getattr(self, _range_of(name))
            draw[name] = (most * rng.uniform(least, 1.0, shape)).tolist()
        draw["noise"] = int(rng.integers(2**31))
        return draw

    def check(self, draw: Any, bodies: Sequence[Body], cameras: Sequence[Camera]) -> Draw:
        """What was drawn, as plain numbers.

        Raises:
            ValueError: it is not what ``sample`` could have drawn.
        """
        parts = _parts(bodies, cameras)
        expected = {*parts, "noise"}
        if not isinstance(draw, Mapping) or set(draw) != expected:
            got = sorted(map(str, draw)) if isinstance(draw, Mapping) else repr(draw)
            raise ValueError(
                f"scene['randomize']: expected the keys {', '.join(sorted(expected))}, got {got}"
            )
        checked: Draw = {}
        for name, (shape, least) in parts.items():
            most = getattr(self, _range_of(name))
            try:
                value = np.asarray(draw[name], dtype=float)
            except (TypeError, ValueError):
                value = np.full(1, np.nan)
            low, high = least * most - 1e-9, most + 1e-9
            if value.shape != shape or not ((value >= low) & (value <= high)).all():
                raise ValueError(
                    f"scene['randomize'][{name!r}]: expected numbers of shape {shape} from "
                    f"{least * most:g} to {most:g}, got {draw[name]!r}"
                )
            checked[name] = value.tolist()
        noise = draw["noise"]
        whole = isinstance(noise, (int, np.integer)) and not isinstance(noise, bool)
        if not whole or not 0 <= noise < 2**31:
            raise ValueError(f"scene['randomize']['noise']: expected a seed, got {noise!r}")
        return {**checked, "noise": int(noise)}


LIMITS: dict[str, float] = {each.name: each.metadata["most"] for each in fields(Randomization)}
"""The most that each may be."""

SEEN = Randomization(
    light_direction=0.4,
    brightness=0.3,
    colours=0.1,
    texture=0.3,
    camera_position=0.01,
    camera_rotation=0.02,
    camera_fov=0.03,
    table_size=0.2,
    table_yaw=0.4,
    depth_noise=0.003,
    depth_holes=0.3,
)
"""``randomize="seen"``: about as much as one lab differs from another that copied it."""
FELT = Randomization(mass=0.3, friction=0.3, stiffness=0.3, action_delay=0.1, observation_delay=0.1)
"""``randomize="felt"``."""
ALL = replace(SEEN, **{field: getattr(FELT, field) for field in LIMITS if getattr(FELT, field)})
"""``randomize="all"``: both."""
NAMED = {"seen": SEEN, "felt": FELT, "all": ALL}


def make_randomization(value: str | Mapping[str, float] | None) -> Randomization | None:
    """What the argument ``randomize`` of an env stands for.

    Args:
        value: None, ``"seen"``, ``"felt"``, ``"all"``, or fields of a ``Randomization``.

    Raises:
        ValueError: it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]
    names = [field.name for field in fields(Randomization)]
    if not isinstance(value, Mapping) or not set(value) <= set(names):
        raise ValueError(
            f"randomize: {value!r}; expected None, {', '.join(map(repr, NAMED))}, "
            f"or a dict with some of {', '.join(names)}"
        )
    return Randomization(**value)


def _parts(
    bodies: Sequence[Body], cameras: Sequence[Camera]
) -> dict[str, tuple[tuple[int, ...], float]]:
    """What is drawn, by name: its shape, and -1 where it is to either side, else 0."""
    parts: dict[str, tuple[tuple[int, ...], float]] = {
        "light_direction": ((2,), -1.0),
        "brightness": ((), -1.0),
        "colours": ((len(_colours(bodies)), 3), -1.0),
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
    """The field of ``Randomization`` that something drawn is within."""
    _, camera, what = name.rpartition("camera_")
    return camera + what


def _colours(bodies: Sequence[Body]) -> list[tuple[float, float, float]]:
    """The colours of a scene: what is of one colour stays so."""
    return list(dict.fromkeys(body.color for body in bodies))


class Variation:
    """What an episode has of its own, and what that does.

    Args:
        draw: What was drawn for it; None where nothing varies.
    """

    def __init__(self, draw: Draw | None) -> None:
        self._draw = draw
        self._table: int | None = None
        self._references: deque[Array] = deque(maxlen=PERIODS)
        self._states: deque[WorldState] = deque(maxlen=PERIODS)
        self.look = Look()
        """Of its pictures."""
        self.stiffness = 1.0
        """Of the arm, see ``World.reset``."""
        if draw is not None:
            self.stiffness += draw["stiffness"]
            turn = scipy.spatial.transform.Rotation.from_euler("xy", draw["light_direction"])
            x, y, z = turn.apply(self.look.light).tolist()
            brightness = 1.0 + draw["brightness"]
            self.look = Look((x, y, z), brightness, draw["texture"], draw["noise"] % 1000)

    def bodies(self, bodies: Sequence[Body]) -> tuple[Body, ...]:
        """The bodies of the scene as they are in this episode."""
        if self._draw is None:
            return tuple(bodies)
        draw = self._draw
        names = [body.name for body in bodies]
        self._table = names.index("table") if "table" in names else None
        shifts = dict(zip(_colours(bodies), draw["colours"], strict=True))
        changed = []
        for body in bodies:
            red, green, blue = np.clip(np.add(body.color, shifts[body.color]), 0.0, 1.0).tolist()
            new = replace(
                body,
                color=(red, green, blue),
                friction=body.friction * (1 + draw["friction"]),
                mass=None if body.mass is None else body.mass * (1 + draw["mass"]),
            )
            if body.name == "table":
                (x, y, z), (wide, deep) = body.size, (1 + share for share in draw["table_size"])
                new = replace(new, size=(wide * x, deep * y, z))
            changed.append(new)
        return tuple(changed)

    def shown(self, body_poses: Array) -> Array:
        """Where pictures show the bodies, (N, 7): the table is turned there alone, since the robot
        stands on it.
        """
        if self._draw is None or self._table is None:
            return body_poses
        shown = body_poses.copy()
        yaw = scipy.spatial.transform.Rotation.from_euler("z", self._draw["table_yaw"])
        table = shown[self._table]
        table[:] = _turned(table[:3], yaw * _rotation(table))
        return shown

    def cameras(self, cameras: Sequence[Camera]) -> tuple[Camera, ...]:
        """Cameras as they are in this episode: moved and turned in their own frames."""
        if self._draw is None:
            return tuple(cameras)
        changed = []
        for camera in cameras:
            position, turn, fov = (
                np.array(self._draw[f"{camera.name}_camera_{part}"])
                for part in ("position", "rotation", "fov")
            )
            rotation = _rotation(camera.pose)
            place = np.add(camera.pose[:3], rotation.apply(position))
            away = scipy.spatial.transform.Rotation.from_rotvec(turn)
            pose = _turned(place.tolist(), rotation * away)
            changed.append(replace(camera, pose=pose, fov=camera.fov * (1 + float(fov))))
        return tuple(changed)

    def begin(self, reference: Array, state: WorldState) -> None:
        """The arm stands where it is to be, ``reference`` (7,), rad."""
        self._references.append(reference)
        self._states.append(state)

    def send(self, reference: Array) -> Array:
        """What the arm is to reach at the end of a period, (7,): what was to be reached at a time
        before, which is the delay of an action.
        """
        self._references.append(reference)
        if self._draw is None:
            return reference
        return _before(self._references, self._draw["action_delay"])

    def take_back(self) -> None:
        """What was sent last was not followed: the arm is to be where it was to be before."""
        self._references[-1] = self._references[-2]

    def arrive(self, state: WorldState) -> None:
        """The period has ended."""
        self._states.append(state)

    def seen(self) -> WorldState:
        """The state that pictures show now: links and bodies as they were a time before."""
        now = self._states[-1]
        age = 0.0 if self._draw is None else self._draw["observation_delay"]
        if age == 0.0:
            return now
        links = _before([state.link_poses for state in self._states], age)
        bodies = _before([state.body_poses for state in self._states], age)
        for poses in (links, bodies):
            poses[:, 3:] /= np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
        return replace(now, link_poses=links, body_poses=bodies)

    def measured(self, depth: NDArray[np.float32], picture: int) -> NDArray[np.float32]:
        """Depth (H, W, 1), m, as a stereo camera measures it.

        Args:
            depth: Without noise; 0 where nothing is.
            picture: Which one of the episode it is: each has noise of its own.
        """
        draw = self._draw
        if draw is None or not (draw["depth_noise"] or draw["depth_holes"]):
            return depth
        rng = np.random.default_rng([draw["noise"], picture])
        # The noise of a disparity is the same everywhere, and distance goes with its inverse.
        noise = draw["depth_noise"] * rng.standard_normal(depth.shape, np.float32)
        lost = rng.random(depth.shape, np.float32) < draw["depth_holes"]
        noisy = np.where(lost & _edges(depth), 0.0, np.maximum(depth + noise * depth**2, 0.0))
        return noisy.astype(np.float32)


PERIODS = 1 + math.ceil(max(LIMITS["action_delay"], LIMITS["observation_delay"]) / CONTROL_PERIOD)
"""How many control periods are remembered."""
EDGE = 0.02
"""m of depth between neighbouring pixels that make an edge."""


def _before(values: Sequence[Array], age: float) -> Array:
    """What the last of ``values`` was ``age`` seconds ago, linear between two control periods."""
    back = age / CONTROL_PERIOD
    whole = int(back)
    newer, older = (values[max(len(values) - 1 - n, 0)] for n in (whole, whole + 1))
    return newer + (back - whole) * (older - newer)


def _edges(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pixels (H, W, 1) have a neighbour at another depth."""
    edge = np.zeros(depth.shape, bool)
    rows, columns = (np.abs(np.diff(depth, axis=axis)) > EDGE for axis in (0, 1))
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge


def _rotation(pose: Pose | Array) -> Rotation:
    return scipy.spatial.transform.Rotation.from_quat([*pose[4:], pose[3]])  # SciPy's have w last


def _turned(position: Sequence[float] | Array, rotation: Rotation) -> Pose:
    """The pose at a position with an orientation."""
    x, y, z = map(float, position)
    qx, qy, qz, qw = rotation.as_quat().tolist()
    return (x, y, z, qw, qx, qy, qz)
