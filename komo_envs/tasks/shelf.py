"""Shelf: hook a cuboid out of a narrow compartment, with a hook that cannot grasp it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from komo_envs.entities import (
    HAND_MIDDLE,
    HAND_SIZE,
    Array,
    Body,
    Camera,
    Mask,
    Pose,
)
from komo_envs.poses import axis, look_at, matrix_to_quaternion
from komo_envs.tasks.base import (
    TABLE,
    TABLE_TOP,
    EndEffector,
    Evaluation,
    Scene,
    Task,
    is_at_rest,
    is_upright,
)
from komo_envs.tasks.checks import (
    MAX_SAMPLES,
    Range,
    check_keys,
    check_numbers,
    check_option,
    check_range,
    check_range_option,
    check_rows,
    check_sampled,
    no_scene,
    sampled_ranges,
)
from komo_envs.worlds.base import WorldState

FLOOR = 1.35  # m, top of the compartment's floor: so high that the hand lies almost level
OPENING = 0.56  # m along y; the compartment is behind it, the lip in front
WIDTH, DEPTH, HEIGHT = 0.22, 0.22, 0.21  # m inside
LIP = 0.12  # m by which the floor stands out
WALL = 0.015  # m thick
SHELF_FRICTION = 0.5

ROD = 0.006  # m, radius of the hook's two rods
SHAFT = 0.22  # m from the gripper's center to the hook's corner
FINGER = 0.05  # m from the corner to the finger's tip
PITCH = float(np.deg2rad(15))  # by which the shaft points down: so the hand passes over the lip
HOOK_FRICTION = 0.5

SIZE = (0.06, 0.10, 0.15)  # m, width, depth and height of the cuboid
MASS = 0.4  # kg
FRICTION = 0.5  # so low that it does not tip over when it is pulled 5 cm above the floor
# Parameters of the cuboid that a scene can sample besides its pose, and their widest ranges.
SAMPLED: dict[str, Range] = {
    "cuboid_width": (0.04, 0.08),
    "cuboid_depth": (0.07, 0.12),
    "cuboid_height": (0.12, 0.18),
    "cuboid_mass": (0.1, 1.0),
    "cuboid_friction": (0.2, 0.8),
}
YAW: Range = (-0.6, 0.6)  # rad, the widest range of it
BEHIND = 0.036  # m behind the cuboid, for the finger: it leans back where it points up
FRONT = 0.01  # m of the cuboid from the opening
APART = 0.004  # m that things stand apart at least
OUTSIDE = 0.02  # m from the opening to the cuboid's center when it is out

NEIGHBOUR_SIZE: tuple[Range, Range, Range] = ((0.03, 0.05), (0.03, 0.06), (0.08, 0.16))  # m
NEIGHBOUR_YAW: Range = (-0.2, 0.2)  # rad
NEIGHBOUR_MASS = 0.3  # kg

TOOL_LOW = np.array([ROD - WIDTH / 2, 0.36, FLOOR + ROD, -1.8])
TOOL_HIGH = np.array([WIDTH / 2 - ROD, OPENING + DEPTH - ROD, FLOOR + 0.15, 1.8])

WOOD = (0.72, 0.60, 0.44)
BLACK = (0.12, 0.12, 0.14)
RED = (0.80, 0.10, 0.08)
BLUE = (0.16, 0.30, 0.62)

_H = float(np.sqrt(0.5))
# The finger's, the shaft's and the third axis in the gripper's frame, as columns. The finger is at
# 45 degrees to the hand's axes: it points up at joint 7 near zero, and a quarter turn to either
# side stays within that joint's limits.
_HOOK_AXES = np.array([[_H, 0.0, -_H], [_H, 0.0, _H], [0.0, -1.0, 0.0]])
HOOK_FRAME: Pose = (0.0, 0.0, -SHAFT, *matrix_to_quaternion(_HOOK_AXES))

FINGERTIP = 0.015  # m that the hand's fingers reach beyond the gripper's center, at an angle too
MARGIN = 0.002  # m that a command keeps hook and hand off the shelf
_ALONG = np.array([0.0, np.cos(PITCH), -np.sin(PITCH)])  # the shaft's direction
_UP = np.array([0.0, np.sin(PITCH), np.cos(PITCH)])  # the finger's at roll 0
_HAND_CORNERS = np.array([0.0, 0.0, HAND_MIDDLE]) + np.array(HAND_SIZE) / 2 * np.array(
    [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
)


def _box(name: str, size: tuple[float, ...], x: float, y: float, z: float) -> Body:
    pose = (x, y, z, 1.0, 0.0, 0.0, 0.0)
    return Body(name, "box", size, WOOD, pose, friction=SHELF_FRICTION, bevel=0.001)


_DEEP, _MIDDLE = DEPTH + WALL, OPENING + (DEPTH + WALL) / 2
_WIDE = WIDTH + 2 * WALL
SHELF: tuple[Body, ...] = (
    _box("floor", (_WIDE, LIP + _DEEP, WALL), 0.0, _MIDDLE - LIP / 2, FLOOR - WALL / 2),
    _box("left wall", (WALL, _DEEP, HEIGHT), -(WIDTH + WALL) / 2, _MIDDLE, FLOOR + HEIGHT / 2),
    _box("right wall", (WALL, _DEEP, HEIGHT), (WIDTH + WALL) / 2, _MIDDLE, FLOOR + HEIGHT / 2),
    _box("back", (WIDTH, WALL, HEIGHT), 0.0, OPENING + DEPTH + WALL / 2, FLOOR + HEIGHT / 2),
    _box("ceiling", (_WIDE, _DEEP, WALL), 0.0, _MIDDLE, FLOOR + HEIGHT + WALL / 2),
    _box("post", (0.1, 0.1, FLOOR - WALL - TABLE_TOP), 0.0, 0.74, (FLOOR - WALL + TABLE_TOP) / 2),
    _box("foot", (0.3, 0.3, 0.02), 0.0, 0.74, TABLE_TOP + 0.01),
    # No thicker than paint: it shows where the center has to be.
    Body(
        "line",
        "box",
        (WIDTH, 0.004, 0.001),
        (0.10, 0.62, 0.30),
        (0.0, OPENING - OUTSIDE, FLOOR, 1.0, 0.0, 0.0, 0.0),
        solid=False,
    ),
)
_FINGER_AXES = _HOOK_AXES[:, [1, 2, 0]]  # a cylinder's axis is its z axis
HOOK_PARTS: tuple[Body, ...] = (
    Body(
        "shaft",
        "cylinder",
        (SHAFT + ROD, ROD),
        BLACK,
        (0.0, 0.0, -(SHAFT + ROD) / 2, 1.0, 0.0, 0.0, 0.0),
        parent="gripper",
        friction=HOOK_FRICTION,
        bevel=0.001,
    ),
    Body(
        "finger",
        "cylinder",
        (FINGER, ROD),
        BLACK,
        (_H * FINGER / 2, _H * FINGER / 2, -SHAFT, *matrix_to_quaternion(_FINGER_AXES)),
        parent="gripper",
        friction=HOOK_FRICTION,
        bevel=0.001,
    ),
)
CUBOID = 1 + len(SHELF) + len(HOOK_PARTS)  # its index in Shelf.bodies; its neighbours follow

CAMERAS: tuple[Camera, ...] = (
    # Over the arm, so high that hand and ceiling hide neither lane beside the cuboid: from one
    # side, the cuboid would hide a hook on the other.
    Camera("front", look_at((0.0, 0.28, 1.80), (0.0, 0.57, 1.41)), fov=40.0),
    # Above the hand, looking along the shaft; coordinates of the hand, whose z axis points along
    # the fingers.
    Camera(
        "wrist",
        look_at((0.06, -0.06, 0.0), (0.0, 0.0, 0.36), up=(1.0, -1.0, 0.0)),
        parent="hand",
        fov=60.0,
    ),
)
RENDER_CAMERA = Camera("view", look_at((0.95, -0.30, 1.82), (0.0, 0.40, 1.30)), fov=42.0)


@dataclass(frozen=True)
class Shelf(Task):
    """Hook a cuboid out of a compartment that is open toward the robot.

    ## Description
    The tool is an L-shaped hook: a shaft that points into the shelf, 15 degrees downward, and a
    finger of 5 cm at its end. The compartment is 22 cm wide, 22 cm deep and 21 cm high, its floor
    at z = 1.35, its opening in the plane y = 0.56; a lip of 12 cm is in front of it. The cuboid is
    0.06 x 0.10 x 0.15 m, 0.4 kg, and slides with a friction of 0.5. Arm and hand can touch the
    shelf.

    ## Scene
    ``{"cuboid": [x, y, yaw]}``: the middle of its base, m, and its angle about the vertical, rad.
    Sampled uniformly over all poses that leave room for the hook's shaft on one side, and for its
    finger behind.
    Sampled options are there too: ``"cuboid_width"`` and its like, and ``"neighbours"``, one
    ``[x, y, yaw, width, depth, height]`` each. Neighbours stand beside the cuboid's whole way out.

    ## End-effector coordinates
    | coordinate | meaning                                               | range          | a step |
    | ---------- | ----------------------------------------------------- | -------------- | ------ |
    | x          | of the hook's corner, m                               | -0.104 to 0.104 | 0.05  |
    | y          |                                                       | 0.36 to 0.774  | 0.05   |
    | z          |                                                       | 1.356 to 1.50  | 0.05   |
    | roll       | of the finger about the shaft, rad: 0 up, then to +x  | -1.8 to 1.8    | 0.1    |

    ## Goals and success
    Goals are ``[x, y, rest]``: the cuboid's center, and 1 when it rests upright on floor or lip and
    all neighbours stand upright inside, else 0. It succeeds at rest with its center at least 2 cm
    outside the opening: no greater a y than the goal's. At rest it is slower than 1 cm/s and 0.5
    rad/s; upright is within 10 degrees.

    ## Rewards
    | term       | value                                                              |
    | ---------- | ------------------------------------------------------------------ |
    | `distance` | -5 times what is left to the goal, m                               |
    | `reach`    | 0 with the finger's tip behind the cuboid, down to -0.5 far away   |
    | `upright`  | -0.5 when the cuboid has fallen over                               |
    | `success`  | -1 without success, 0 with it                                      |

    ## Privileged state
    The cuboid's position (3), x and z axis (6), linear (3) and angular velocity (3), then those of
    its width, depth, height, mass and friction that are sampled. Then a slot for each possible
    neighbour: position (3), x and z axis (6) and size (3), or zeros.
    """

    yaw: Range = (-0.35, 0.35)
    """Yaw of the cuboid, rad, within -0.6 to 0.6."""
    lateral_range: float = 0.08
    """Largest distance of the cuboid's center from the middle of the compartment along x, m, 0 to
    0.08."""
    cuboid_width: Range | None = None
    """Width along x at yaw 0, m, within 0.04 to 0.08; None for 0.06."""
    cuboid_depth: Range | None = None
    """Depth along y at yaw 0, m, within 0.07 to 0.12; None for 0.10."""
    cuboid_height: Range | None = None
    """Height, m, within 0.12 to 0.18; None for 0.15."""
    cuboid_mass: Range | None = None
    """Mass, kg, within 0.1 to 1; None for 0.4."""
    cuboid_friction: Range | None = None
    """Friction, within 0.2 to 0.8; None for 0.5. A contact has the mean of both bodies' values."""
    neighbours: tuple[int, int] | None = None
    """Fewest and most other cuboids in the compartment, 1 or 2; None for none."""
    min_clearance: float = 0.024
    """Free width for the shaft beside the cuboid, on one side at least, m, 0.018 to 0.04."""
    success_radius: float | None = None
    """None, or the distance in m from the middle of the opening's edge that counts as success,
    0.001 to 0.1."""

    description = "Hook the red cuboid out of the shelf onto the lip in front of it."
    home = np.array([0.0, -0.8441, 0.0, -2.1163, 0.0, 2.5813, 0.0])  # corner at (0, 0.40, 1.42)
    tcp_offset = HOOK_FRAME
    arm_collides = True
    end_effector = EndEffector(
        ("x", "y", "z", "roll"), TOOL_LOW, TOOL_HIGH, np.array([0.05, 0.05, 0.05, 0.1])
    )
    cameras = CAMERAS
    render_camera = RENDER_CAMERA
    goal_low = np.array([-3.0, -3.0, 0.0])
    goal_high = np.array([3.0, 3.0, 1.0])

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is not what it may be.
        """
        if self.yaw is None:
            raise ValueError("yaw: None; expected two numbers")
        for name, limits in {"yaw": YAW, **SAMPLED, "neighbours": (1, 2)}.items():
            check_range_option(name, getattr(self, name), limits)
        check_option("lateral_range", self.lateral_range, (0.0, 0.08))
        check_option("min_clearance", self.min_clearance, (0.018, 0.04))
        if self.success_radius is not None:
            check_option("success_radius", self.success_radius, (0.001, 0.1))

    @property
    def privileged_high(self) -> Array:
        """Bounds (P,) of the absolute values of ``privileged``."""
        pose, velocity = [3.0] * 3 + [1.0] * 6, [10.0] * 3 + [100.0] * 3
        numbers = [high for _, high in sampled_ranges(self, SAMPLED).values()]
        neighbours = (pose + [high for _, high in NEIGHBOUR_SIZE]) * self._most_neighbours()
        return np.array(pose + velocity + numbers + neighbours)

    @property
    def observable_mask(self) -> Mask:
        """The cuboid's pose and size, and all of the neighbours."""
        sizes = ("cuboid_width", "cuboid_depth", "cuboid_height")
        numbers = [name in sizes for name in sampled_ranges(self, SAMPLED)]
        neighbours = [True] * 12 * self._most_neighbours()
        return np.array([True] * 9 + [False] * 6 + numbers + neighbours)

    @property
    def object_slots(self) -> tuple[int, int]:
        """The neighbours."""
        return (self._most_neighbours(), 12) if self.neighbours else (0, 0)

    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """A cuboid anywhere in the compartment, uniform over all that leave the hook room."""
        # Their number is sampled once, or fewer would come through more often.
        count = 0 if self.neighbours is None else rng.integers(*self.neighbours, endpoint=True)
        for _ in range(MAX_SAMPLES):
            ranges = sampled_ranges(self, SAMPLED)
            scene: Scene = {name: rng.uniform(*between) for name, between in ranges.items()}
            x = rng.uniform(-self.lateral_range, self.lateral_range)
            y = rng.uniform(OPENING, OPENING + DEPTH)
            scene["cuboid"] = [x, y, rng.uniform(*self.yaw)]
            if count:
                scene["neighbours"] = [_sample_neighbour(rng) for _ in range(count)]
            if _fault(scene, self.min_clearance) is None:
                return scene
        raise no_scene(self)

    def check_scene(self, scene: Mapping[str, Any]) -> Scene:
        """The scene with plain floats.

        Raises:
            ValueError: a key is missing or unknown, a value is not so many finite numbers, or one
                that this env does not draw, or things are in each other's or in the hook's way.
        """
        ranges = sampled_ranges(self, SAMPLED)
        neighbours = ["neighbours"] if self.neighbours else []
        check_keys(scene, ["cuboid", *ranges, *neighbours])
        checked = check_sampled(scene, ranges)
        checked["cuboid"] = check_numbers("cuboid", scene["cuboid"], 3)
        inside: list[Range] = [(-WIDTH / 2, WIDTH / 2), (OPENING, OPENING + DEPTH)]
        lateral = (-self.lateral_range, self.lateral_range)
        check_range("cuboid", checked["cuboid"], [lateral, inside[1], self.yaw])
        if self.neighbours:
            rows = check_rows("neighbours", scene["neighbours"], self.neighbours, 6)
            for i, row in enumerate(rows):
                check_range(f"neighbours[{i}]", row, [*inside, NEIGHBOUR_YAW, *NEIGHBOUR_SIZE])
            checked["neighbours"] = rows
        if fault := _fault(checked, self.min_clearance):
            raise ValueError(f"scene: {fault}; got {checked}")
        return checked

    def _most_neighbours(self) -> int:
        return self.neighbours[1] if self.neighbours else 0

    def bodies(self, scene: Scene) -> tuple[Body, ...]:
        """Table, shelf, hook, the cuboid and its neighbours, in this order."""
        x, y, yaw = scene["cuboid"]
        cuboid = Body(
            "cuboid",
            "box",
            cuboid_size(scene),
            RED,
            _standing(x, y, yaw, cuboid_size(scene)[2]),
            mass=scene.get("cuboid_mass", MASS),
            friction=scene.get("cuboid_friction", FRICTION),
            bevel=0.002,
        )
        neighbours = (
            Body(
                f"neighbour{i}",
                "box",
                (w, d, h),
                BLUE,
                _standing(x, y, yaw, h),
                mass=NEIGHBOUR_MASS,
                friction=FRICTION,
                bevel=0.002,
            )
            for i, (x, y, yaw, w, d, h) in enumerate(scene.get("neighbours", ()))
        )
        return (TABLE, *SHELF, *HOOK_PARTS, cuboid, *neighbours)

    def tool_target(self, coordinates: Array) -> tuple[Array, dict[str, Array]]:
        """The corner at ``coordinates[:3]``, the shaft at its pitch, the finger at its roll."""
        roll = coordinates[3]
        return coordinates[:3], {
            "x": np.cos(roll) * _UP + np.sin(roll) * np.array([1.0, 0.0, 0.0]),
            "y": _ALONG,
        }

    def tool_coordinates(self, tcp_pose: Array) -> Array:
        """The corner's position (3,), and the roll of the finger."""
        finger = axis(tcp_pose[3:], 0)
        return np.array([*tcp_pose[:3], np.arctan2(finger[0], finger @ _UP)])

    def is_safe(self, tcp_pose: Array, link_poses: Array) -> bool:
        """The hook is in the air or well inside, the hand above the lip, the arm in front of it."""
        corner, along = tcp_pose[:3], axis(tcp_pose[3:], 1)
        tip = corner + FINGER * axis(tcp_pose[3:], 0)
        hand = link_poses[8]
        turn = np.stack([axis(hand[3:], i) for i in range(3)])
        hand_corners = hand[:3] + _HAND_CORNERS @ turn
        fingertips = corner - along * (SHAFT - FINGERTIP)
        over_lip = hand_corners[hand_corners[:, 1] > OPENING - LIP - MARGIN]
        # Where the shaft passes through the opening: the compartment is convex.
        inside = [corner, tip]
        if corner[1] > OPENING:
            inside.append(corner - along * (corner[1] - OPENING) / max(along[1], 1e-3))
        return bool(
            along @ _ALONG >= np.cos(np.deg2rad(20))
            and corner[1] >= TOOL_LOW[1] - 0.005
            and abs(corner[0]) <= TOOL_HIGH[0] + 0.005
            and all(_is_free(point) for point in inside)
            and max(hand_corners[:, 1].max(), fingertips[1]) <= OPENING - MARGIN
            and (len(over_lip) == 0 or over_lip[:, 2].min() >= FLOOR + MARGIN)
            and link_poses[3:8, 1].max() <= OPENING - LIP - 0.07
            and link_poses[3:, 2].min() >= TABLE_TOP + 0.05
        )

    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """The cuboid's pose, velocity and sampled parameters, poses and sizes of its neighbours."""
        cuboid = [_pose_features(state.body_poses[CUBOID]), state.body_velocities[CUBOID]]
        numbers = [scene[name] for name in sampled_ranges(self, SAMPLED)]
        neighbours = np.zeros((self._most_neighbours(), 12))
        for i, neighbour in enumerate(scene.get("neighbours", ())):
            neighbours[i, :9] = _pose_features(state.body_poses[CUBOID + 1 + i])
            neighbours[i, 9:] = neighbour[3:]
        return np.concatenate([*cuboid, numbers, neighbours.ravel()])

    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """``[x, y, rest]`` of the cuboid."""
        pose, velocity = state.body_poses[CUBOID], state.body_velocities[CUBOID]
        rest = is_at_rest(pose, velocity, FLOOR + cuboid_size(scene)[2] / 2) and all(
            is_upright(neighbour) and neighbour[1] >= OPENING
            for neighbour in state.body_poses[CUBOID + 1 :]
        )
        return np.array([pose[0], pose[1], rest], dtype=np.float32)

    def desired_goal(self, scene: Scene) -> Array:
        """``[0, y, 1]``: the middle of the line that the cuboid's center is to be brought to."""
        y = OPENING - OUTSIDE if self.success_radius is None else OPENING
        return np.array([0.0, y, 1.0], dtype=np.float32)

    def evaluate(self, achieved: Array, desired: Array) -> Evaluation:
        """Distance of the cuboid's center behind that line, or from its middle.

        Success is at rest, and outside the line or within the success radius.
        """
        if self.success_radius is None:
            distance = np.maximum(achieved[..., 1] - desired[..., 1], 0.0)
        else:
            distance = np.linalg.norm(achieved[..., :2] - desired[..., :2], axis=-1)
        near = distance <= (self.success_radius or 0.0)
        return Evaluation(distance, near & (achieved[..., 2] > 0.5))

    def goal_reward_terms(
        self, achieved: Array, desired: Array, evaluation: Evaluation, tcp_pose: Array
    ) -> dict[str, Array]:
        """``distance``: -1 at 20 cm, 0 when out. ``success``: -1 without it.

        No term is positive, or it would pay to put off the end that success brings.
        """
        return {
            "distance": -5.0 * evaluation.distance,
            "success": evaluation.success - np.float64(1),
        }

    def state_reward_terms(
        self, scene: Scene, state: WorldState, tcp_pose: Array
    ) -> dict[str, float]:
        """``reach``: at most 0.5 less the farther the finger's tip is from behind the cuboid.

        ``upright``: 0.5 less when the cuboid has fallen over.
        """
        pose = state.body_poses[CUBOID]
        behind = pose[:2] + np.array([0.0, cuboid_size(scene)[1] / 2])
        # The corner alone would reward no turn of the finger.
        tip = tcp_pose[:3] + FINGER * axis(tcp_pose[3:], 0)
        gap = max(float(np.linalg.norm(tip[:2] - behind)) - 0.02, 0.0)
        return {
            "reach": -0.5 * float(np.tanh(5.0 * gap)),
            "upright": 0.0 if is_upright(pose) else -0.5,
        }


def cuboid_size(scene: Scene) -> tuple[float, float, float]:
    """Width, depth and height of a scene's cuboid, m."""
    names = ("cuboid_width", "cuboid_depth", "cuboid_height")
    width, depth, height = (
        scene.get(name, default) for name, default in zip(names, SIZE, strict=True)
    )
    return width, depth, height


def half_extents(size: Sequence[float], yaw: float) -> tuple[float, float]:
    """Half of the extents along x and y of a box turned about the vertical, m."""
    c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
    return float(c * size[0] + s * size[1]) / 2, float(s * size[0] + c * size[1]) / 2


def gaps(
    cuboid: Sequence[float] | Array, size: Sequence[float], others: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Free width in m to the left (-x) and to the right (+x) of the cuboid.

    What is beside its way out counts, and for simplicity what is beside it and farther in, too.

    Args:
        cuboid: ``[x, y, yaw]``.
        size: Its width, depth and height, m.
        others: ``[x, y, yaw, width, depth, height]`` of each neighbour.
    """
    x, _, yaw = cuboid
    half, _ = half_extents(size, yaw)
    left, right = -WIDTH / 2, WIDTH / 2
    for nx, _, nyaw, *nsize in others:
        nhalf, _ = half_extents(nsize, nyaw)
        if nx < x:
            left = max(left, nx + nhalf)
        else:
            right = min(right, nx - nhalf)
    return x - half - left, right - x - half


def _standing(x: float, y: float, yaw: float, height: float) -> Pose:
    """Pose of a box of this height that stands on the floor."""
    return (x, y, FLOOR + height / 2, float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2)))


def _pose_features(pose: Array) -> Array:
    """Position (3,), x and z axis (6,): unlike a quaternion, continuous."""
    return np.concatenate([pose[:3], axis(pose[3:], 0), axis(pose[3:], 2)])


def _sample_neighbour(rng: np.random.Generator) -> list[float]:
    x = rng.uniform(-WIDTH / 2, WIDTH / 2)
    y = rng.uniform(OPENING, OPENING + DEPTH)
    return [x, y, rng.uniform(*NEIGHBOUR_YAW), *(rng.uniform(*side) for side in NEIGHBOUR_SIZE)]


def _fault(scene: Scene, min_clearance: float) -> str | None:
    """Why the scene cannot be set up, or None."""
    size = cuboid_size(scene)
    y, yaw = scene["cuboid"][1:]
    _, half = half_extents(size, yaw)
    if y - half < OPENING + FRONT:
        return f"the cuboid stands less than {FRONT} m behind the opening"
    if y + half > OPENING + DEPTH - BEHIND:
        return f"less than {BEHIND} m behind the cuboid are free for the hook's finger"
    neighbours = scene.get("neighbours", [])
    for i, (nx, ny, nyaw, *nsize) in enumerate(neighbours):
        nhalf_x, nhalf_y = half_extents(nsize, nyaw)
        if (
            abs(nx) + nhalf_x > WIDTH / 2 - APART
            or ny - nhalf_y < OPENING + FRONT
            or ny + nhalf_y > OPENING + DEPTH - APART
        ):
            return f"neighbour {i} does not stand inside the compartment"
        for other in neighbours[:i]:
            ohalf_x, ohalf_y = half_extents(other[3:], other[2])
            if (
                abs(nx - other[0]) < nhalf_x + ohalf_x + APART
                and abs(ny - other[1]) < nhalf_y + ohalf_y + APART
            ):
                return f"neighbour {i} stands in another one"
    sides = gaps(scene["cuboid"], size, neighbours)
    if min(sides) < APART:
        return "something stands in the cuboid's way out"
    if max(sides) < min_clearance:
        return f"less than {min_clearance} m beside the cuboid are free for the hook's shaft"
    return None


def _is_free(point: Array) -> bool:
    """Whether a point of the hook's axes may be there: a rod's radius and more off the shelf."""
    x, y, z = point
    off = ROD + MARGIN
    if y <= OPENING - LIP - off:
        return True  # in front of everything
    return bool(
        z >= FLOOR + off
        and (
            y <= OPENING - off
            or (
                abs(x) <= WIDTH / 2 - off
                and z <= FLOOR + HEIGHT - off
                and y <= OPENING + DEPTH - off
            )
        )
    )
