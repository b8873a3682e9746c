"""Push: slide a puck over the table to a target, with a stick that cannot grasp it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from komo_envs.entities import Array, Body, Camera, Mask
from komo_envs.poses import axis, look_at, uprightness
from komo_envs.tasks.base import TABLE, TABLE_TOP, EndEffector, Evaluation, Scene, Task, is_at_rest
from komo_envs.tasks.checks import (
    MAX_SAMPLES,
    Range,
    check_keys,
    check_numbers,
    check_option,
    check_range_option,
    check_rows,
    check_sampled,
    no_scene,
    sampled_ranges,
)
from komo_envs.worlds.base import WorldState

BASE = np.array([0.0, -0.2])  # m, where the robot stands on it; the arm looks along +y
PUCK = 2  # its index in Push.bodies
PUCK_RADIUS = 0.04
PUCK_HEIGHT = 0.03
PUCK_MASS = 0.2
PUCK_FRICTION = 1.0
STICK_RADIUS = 0.012
STICK_LENGTH = 0.12
REACH = (0.40, 0.66)  # m from the base, where a puck can be pushed in every direction
HALF_ANGLE = 0.8  # rad to either side of the arm's forward direction
DISTANCE = (0.08, 0.40)  # m between start and target

# Parameters that a scene can sample besides start and target, and their widest ranges.
SAMPLED: dict[str, Range] = {
    "puck_radius": (0.03, 0.05),
    "puck_mass": (0.05, 1.0),
    "puck_friction": (0.2, 1.0),
}
MOST_OBSTACLES = 3
OBSTACLE_RADIUS = (0.02, 0.035)  # m, the range that each is sampled from
OBSTACLE_HEIGHT = PUCK_HEIGHT  # what passes over the puck passes over them too
CLEARANCE = 0.04  # m between an obstacle and what is beside it: room for the stick
TRIES = 10  # to place an obstacle
BLOCKED = 0.3  # an obstacle's distance from the straight way, as a share of both radii

STATE_HIGH = np.array([3.0] * 3 + [1.0] * 3 + [10.0] * 3 + [100.0] * 3)
"""The most of the puck's position, axis, linear and angular velocity that is observed."""
TOOL_LOW = np.array([-0.70, -0.10, TABLE_TOP + 0.008])
TOOL_HIGH = np.array([0.70, 0.60, TABLE_TOP + 0.30])

CAMERAS: tuple[Camera, ...] = (
    Camera("front", look_at((0.0, 0.93, 1.38), (0.0, 0.19, TABLE_TOP)), fov=55.0),
    # Beside the hand, looking past the stick's tip; coordinates of the hand, whose z axis points
    # along the fingers.
    Camera(
        "wrist",
        look_at((0.09, 0.0, 0.0), (0.0, 0.0, 0.20), up=(-1.0, 0.0, 0.0)),
        parent="hand",
        fov=70.0,
    ),
)
RENDER_CAMERA = Camera("view", look_at((0.95, 1.08, 1.34), (0.02, 0.10, 0.91)), fov=45.0)


@dataclass(frozen=True)
class Push(Task):
    """Slide a puck over the table to a target disc, with a stick that cannot grasp it.

    ## Description
    The tool is a vertical round stick. The puck has a radius of 4 cm, a height of 3 cm, a mass of
    0.2 kg and a friction of 1; that of the table is 0.1, that of stick and obstacles 1. Obstacles
    are round posts fixed to the table, as low as the puck: the stick passes over them.

    ## Scene
    ``{"puck": [x, y], "target": [x, y]}``: centers on the table, m. Both are uniform over the
    table between 0.40 and 0.66 m from the base and up to 0.8 rad to either side, 8 to 40 cm apart,
    with obstacles far enough for one in between: 18 cm or more.
    Sampled options are there too: ``"puck_radius"``, ``"puck_mass"``, ``"puck_friction"``,
    and ``"obstacles"``, one ``[x, y, radius]`` each. At least one obstacle stands in the straight
    way from start to target, so that one straight push will not do. All stand in the circle whose
    diameter that way is, and so far from start, target and each other that puck and stick get past
    on either side.

    ## End-effector coordinates
    | coordinate | meaning               | range          | a step |
    | ---------- | --------------------- | -------------- | ------ |
    | x          | of the stick's tip, m | -0.70 to 0.70  | 0.05   |
    | y          |                       | -0.10 to 0.60  | 0.05   |
    | z          |                       | 0.658 to 0.95  | 0.05   |

    ## Goals and success
    Goals are ``[x, y, rest]``: the puck's center, and 1 when it rests flat on the table, either
    face up, else 0. It succeeds at rest within ``success_radius`` of the target. At rest it is
    slower than 1 cm/s and 0.5 rad/s; flat is within 10 degrees.

    ## Rewards
    | term       | value                                                 |
    | ---------- | ----------------------------------------------------- |
    | `distance` | -2.5 times the puck's distance from its target, m     |
    | `reach`    | 0 with the tip behind the puck, down to -0.5 far away |
    | `success`  | -1 without success, 0 with it                         |

    ## Privileged state
    The puck's position (3), axis (3; (0, 0, 1) when it lies flat), linear (3) and angular velocity
    (3), then those of its radius, mass and friction that are sampled. Then a slot for each possible
    obstacle: x, y and radius, or zeros.
    """

    success_radius: float = 0.02
    """Distance in m from the target that counts as success, 0.001 to 0.1."""
    fixed_target: tuple[float, float] | None = None
    """None, or where every episode's target is; the start is then sampled from ``start_box``."""
    start_box: tuple[tuple[float, float], tuple[float, float]] = ((-0.16, 0.21), (0.16, 0.40))
    """Corners (x, y) of the box of starts for a fixed target, m."""
    puck_radius: Range | None = None
    """Radius of the puck, m, within 0.03 to 0.05; None for 0.04."""
    puck_mass: Range | None = None
    """Mass of the puck, kg, within 0.05 to 1; None for 0.2."""
    puck_friction: Range | None = None
    """Friction of the puck, within 0.2 to 1; None for 1. A contact has both bodies' mean."""
    obstacles: tuple[int, int] | None = None
    """Fewest and most obstacles, within 1 to 3; None for none."""

    description = "Push the red puck to the green target."
    home = np.array([0.0, -0.2542, 0.0, -2.6911, 0.0, 2.4369, 0.785])  # tip at (0, 0.2, 0.77)
    tcp_offset = (0.0, 0.0, 0.03 - STICK_LENGTH, 1.0, 0.0, 0.0, 0.0)
    end_effector = EndEffector(("x", "y", "z"), TOOL_LOW, TOOL_HIGH, np.full(3, 0.05))
    cameras = CAMERAS
    render_camera = RENDER_CAMERA
    goal_low = np.array([-3.0, -3.0, 0.0])
    goal_high = np.array([3.0, 3.0, 1.0])

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: a range is empty, or wider than it may be.
        """
        check_option("success_radius", self.success_radius, (0.001, 0.1))
        for name, limits in {**SAMPLED, "obstacles": (1, MOST_OBSTACLES)}.items():
            check_range_option(name, getattr(self, name), limits)
        places = [*self.start_box]
        if self.fixed_target is not None:
            places.append(self.fixed_target)
            if not _is_place(self.fixed_target) or not _is_reachable(np.array(self.fixed_target)):
                raise ValueError(
                    f"fixed_target: {self.fixed_target!r}; expected None, or x and y in reach"
                )
        if not all(_is_place(place) for place in places):
            raise ValueError(f"start_box: {self.start_box!r}; expected two corners (x, y), m")

    @property
    def privileged_high(self) -> Array:
        """Bounds (P,) of the absolute values of ``privileged``."""
        numbers = [high for _, high in sampled_ranges(self, SAMPLED).values()]
        obstacle = [3.0, 3.0, OBSTACLE_RADIUS[1]]
        return np.array([*STATE_HIGH, *numbers, *obstacle * self._most_obstacles()])

    @property
    def observable_mask(self) -> Mask:
        """The puck's pose and radius, and all of the obstacles."""
        numbers = [name == "puck_radius" for name in sampled_ranges(self, SAMPLED)]
        return np.array([True] * 6 + [False] * 6 + numbers + [True] * 3 * self._most_obstacles())

    @property
    def object_slots(self) -> tuple[int, int]:
        """The obstacles."""
        return (self._most_obstacles(), 3) if self.obstacles else (0, 0)

    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """Start and target, uniform over the reachable table at a distance within ``DISTANCE``.

        Other parameters are uniform in their ranges. The first obstacle is placed onto the straight
        way, the others into the circle over it; where they do not fit, all are placed again.
        """
        ranges = sampled_ranges(self, SAMPLED)
        numbers = {name: float(rng.uniform(*between)) for name, between in ranges.items()}
        count = 0
        if self.obstacles is not None:
            count = int(rng.integers(self.obstacles[0], self.obstacles[1] + 1))
        for _ in range(MAX_SAMPLES):
            if self.fixed_target is None:
                puck, target = _sample_reachable(rng), _sample_reachable(rng)
            else:
                puck, target = rng.uniform(*self.start_box), np.array(self.fixed_target)
            distance = float(np.linalg.norm(target - puck))
            # A fixed target is fair at any distance that leaves something to do.
            longest = DISTANCE[1] if self.fixed_target is None else np.inf
            if not DISTANCE[0] <= distance <= longest or not _is_reachable(puck):
                continue
            scene = {"puck": puck.tolist(), "target": target.tolist(), **numbers}
            if self.obstacles is None:
                return scene
            if _add_obstacles(rng, scene, count):
                return scene
        raise no_scene(self)

    def check_scene(self, scene: Mapping[str, Any]) -> Scene:
        """The scene with plain floats.

        Raises:
            ValueError: a key is missing or unknown, a value is not of finite numbers or out of
                range, start and target overlap, the target is another than the fixed one, or the
                obstacles could not have been sampled.
        """
        ranges = sampled_ranges(self, SAMPLED)
        obstacles = ["obstacles"] if self.obstacles is not None else []
        check_keys(scene, ["puck", "target", *ranges, *obstacles])
        checked: Scene = {}
        for name in ("puck", "target"):
            position = check_numbers(name, scene[name], 2)
            if not _is_reachable(np.array(position)):
                raise ValueError(
                    f"scene[{name!r}]: {position} is out of reach; expected {REACH[0]} to "
                    f"{REACH[1]} m from the base at {BASE.tolist()}, at most {HALF_ANGLE} rad "
                    "from straight ahead (+y)"
                )
            checked[name] = position
        checked |= check_sampled(scene, ranges)
        distance = float(np.linalg.norm(np.subtract(checked["puck"], checked["target"])))
        if distance < DISTANCE[0]:
            raise ValueError(
                f"scene: puck and target overlap, {distance:.3f} m apart; "
                f"expected at least {DISTANCE[0]} m"
            )
        if self.fixed_target is not None and checked["target"] != list(self.fixed_target):
            raise ValueError(
                f"scene['target']: {checked['target']}; this env's target is fixed at "
                f"{list(self.fixed_target)}"
            )
        if self.obstacles is not None:
            checked["obstacles"] = check_rows("obstacles", scene["obstacles"], self.obstacles, 3)
            if fault := _fault(checked):
                raise ValueError(f"scene['obstacles']: {fault}")
        return checked

    def bodies(self, scene: Scene) -> tuple[Body, ...]:
        """Table, target disc, puck and stick, then the obstacles, in this order."""
        (px, py), (tx, ty) = scene["puck"], scene["target"]
        radius = puck_radius(scene)
        return (
            TABLE,
            Body(
                "target",
                "cylinder",
                (0.004, radius),
                color=(0.10, 0.62, 0.30),
                pose=(tx, ty, TABLE_TOP, 1.0, 0.0, 0.0, 0.0),
                solid=False,
                bevel=0.001,
            ),
            Body(
                "puck",
                "cylinder",
                (PUCK_HEIGHT, radius),
                color=(0.80, 0.10, 0.08),
                pose=(px, py, TABLE_TOP + PUCK_HEIGHT / 2, 1.0, 0.0, 0.0, 0.0),
                mass=scene.get("puck_mass", PUCK_MASS),
                friction=scene.get("puck_friction", PUCK_FRICTION),
                bevel=0.002,
            ),
            Body(
                "stick",
                "cylinder",
                (STICK_LENGTH, STICK_RADIUS),
                color=(0.12, 0.12, 0.14),
                pose=(0.0, 0.0, 0.03 - STICK_LENGTH / 2, 1.0, 0.0, 0.0, 0.0),
                parent="gripper",
                bevel=0.002,
            ),
            *(
                Body(
                    f"obstacle{i}",
                    "cylinder",
                    (OBSTACLE_HEIGHT, size),
                    color=(0.10, 0.25, 0.62),
                    pose=(x, y, TABLE_TOP + OBSTACLE_HEIGHT / 2, 1.0, 0.0, 0.0, 0.0),
                    bevel=0.002,
                )
                for i, (x, y, size) in enumerate(scene.get("obstacles", []))
            ),
        )

    def tool_target(self, coordinates: Array) -> tuple[Array, dict[str, Array]]:
        """The tip at ``coordinates`` (3,), the stick vertical, its yaw free."""
        return coordinates, {"z": np.array([0.0, 0.0, 1.0])}

    def tool_coordinates(self, tcp_pose: Array) -> Array:
        """The tip's position (3,)."""
        return tcp_pose[:3]

    def is_safe(self, tcp_pose: Array, link_poses: Array) -> bool:
        """The tip is over the table and off the base, the stick steep, the arm above the table."""
        tip = tcp_pose[:3]
        margin = 0.005
        return bool(
            np.all(tip >= TOOL_LOW - margin)
            and np.all(tip <= TOOL_HIGH + margin)
            and np.linalg.norm(tip[:2] - BASE) >= 0.28
            and uprightness(tcp_pose[3:]) >= np.cos(np.deg2rad(20))
            and link_poses[3:, 2].min() >= TABLE_TOP + 0.05
        )

    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """The puck's pose, velocity and sampled parameters, places and radii of the obstacles."""
        pose = state.body_poses[PUCK]
        numbers = [scene[name] for name in sampled_ranges(self, SAMPLED)]
        obstacles = np.zeros((self._most_obstacles(), 3))
        for i, obstacle in enumerate(scene.get("obstacles", [])):
            obstacles[i] = obstacle
        return np.concatenate(
            [pose[:3], axis(pose[3:], 2), state.body_velocities[PUCK], numbers, obstacles.ravel()]
        )

    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """``[x, y, rest]`` of the puck."""
        pose, velocity = state.body_poses[PUCK], state.body_velocities[PUCK]
        rest = is_at_rest(pose, velocity, TABLE_TOP + PUCK_HEIGHT / 2)
        return np.array([pose[0], pose[1], rest], dtype=np.float32)

    def desired_goal(self, scene: Scene) -> Array:
        """``[x, y, 1]`` of the target."""
        return np.array([*scene["target"], 1.0], dtype=np.float32)

    def evaluate(self, achieved: Array, desired: Array) -> Evaluation:
        """Horizontal distance of the puck's center from the target; success at rest near it."""
        distance = np.linalg.norm(achieved[..., :2] - desired[..., :2], axis=-1)
        near = distance <= self.success_radius
        return Evaluation(distance, near & (achieved[..., 2] > 0.5))

    def goal_reward_terms(
        self, achieved: Array, desired: Array, evaluation: Evaluation, tcp_pose: Array
    ) -> dict[str, Array]:
        """``distance``: -1 at 40 cm, 0 on the target. ``success``: -1 without it. ``reach``: at
        most 0.5 less the farther the tip is from where the puck is to be pushed from.

        No term is positive, or it would pay to put off the end that success brings. And it would
        pay to stay beside the puck, wherever, if the tip were only drawn to it.
        """
        distance = evaluation.distance
        way = (desired - achieved)[..., :2] / np.maximum(distance, 1e-6)[..., None]
        behind = achieved[..., :2] - way * (PUCK_RADIUS + STICK_RADIUS)
        gap = np.hypot(
            np.linalg.norm(tcp_pose[..., :2] - behind, axis=-1),
            np.maximum(tcp_pose[..., 2] - TABLE_TOP - PUCK_HEIGHT, 0.0),
        )
        far = distance > self.success_radius  # nearer, there is no way to speak of
        return {
            "distance": -2.5 * distance,
            "success": evaluation.success - np.float64(1),
            "reach": -0.5 * np.tanh(5.0 * gap) * far,
        }

    def _most_obstacles(self) -> int:
        return 0 if self.obstacles is None else self.obstacles[1]


def puck_radius(scene: Scene) -> float:
    """Radius of a scene's puck, m."""
    return scene.get("puck_radius", PUCK_RADIUS)


def _sample_reachable(rng: np.random.Generator) -> Array:
    """A point (2,) uniform over the area of the reachable table."""
    radius = np.sqrt(rng.uniform(REACH[0] ** 2, REACH[1] ** 2))
    angle = rng.uniform(-HALF_ANGLE, HALF_ANGLE)
    return BASE + radius * np.array([np.sin(angle), np.cos(angle)])


def _is_place(value: Any) -> bool:
    return np.shape(value) == (2,) and all(isinstance(x, Real) and math.isfinite(x) for x in value)


def _is_reachable(position: Array) -> bool:
    x, y = position - BASE
    tolerance = 1e-9
    return bool(
        REACH[0] - tolerance <= np.hypot(x, y) <= REACH[1] + tolerance
        and abs(np.arctan2(x, y)) <= HALF_ANGLE + tolerance
    )


def _add_obstacles(rng: np.random.Generator, scene: Scene, count: int) -> bool:
    """Draw the obstacles of a scene, one after the other; whether they all found a place."""
    start, target = np.array(scene["puck"]), np.array(scene["target"])
    along = target - start
    length = np.linalg.norm(along)
    across = np.array([-along[1], along[0]]) / length
    placed: list[list[float]] = []
    for _ in range(TRIES * count):
        radius = rng.uniform(*OBSTACLE_RADIUS)
        if not placed:
            offset = BLOCKED * (puck_radius(scene) + radius)
            place = start + rng.uniform() * along + rng.uniform(-offset, offset) * across
        else:
            angle, reach = rng.uniform(-np.pi, np.pi), length / 2 * np.sqrt(rng.uniform())
            place = start + along / 2 + reach * np.array([np.cos(angle), np.sin(angle)])
        scene["obstacles"] = [*placed, [*place.tolist(), float(radius)]]
        if _fault(scene) is None:
            placed = scene["obstacles"]
            if len(placed) == count:
                return True
    return False


def _fault(scene: Scene) -> str | None:
    """Why the obstacles of a scene cannot be set up, or None."""
    start, target = np.array(scene["puck"]), np.array(scene["target"])
    puck, tolerance = puck_radius(scene), 1e-9
    along = target - start
    blocked = False
    for i, (x, y, radius) in enumerate(scene["obstacles"]):
        place = np.array([x, y])
        obstacle = f"number {i} at {[x, y]}"
        low, high = OBSTACLE_RADIUS
        if not low <= radius <= high:
            return f"{obstacle} has radius {radius}; expected {low} to {high} m"
        if np.linalg.norm(place - start - along / 2) > np.linalg.norm(along) / 2 + tolerance:
            return f"{obstacle} is not in the circle over the way from puck to target"
        # Between two obstacles the puck itself passes, too.
        others = [(end, scene[end], puck, CLEARANCE) for end in ("puck", "target")]
        for j, (*other, size) in enumerate(scene["obstacles"][:i]):
            others.append((f"number {j}", other, size, 2 * puck + CLEARANCE))
        for name, other, size, least in others:
            gap = float(np.linalg.norm(place - other)) - radius - size
            if gap < least - tolerance:
                return f"{obstacle} is {gap:.3f} m from {name}; expected at least {least:.3f} m"
        offset = abs(_cross(along, place - start)) / np.linalg.norm(along)
        blocked |= bool(offset <= BLOCKED * (radius + puck) + tolerance)
    return None if blocked else "none stands in the straight way from puck to target"


def _cross(a: Array, b: Array) -> float:
    return float(a[0] * b[1] - a[1] * b[0])
