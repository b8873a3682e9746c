"""Push: slide a puck over the table to a target, with a stick that cannot grasp it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from komo_envs.scene import Array, Body, Camera, Mask, Pose, axis, look_at, uprightness
from komo_envs.tasks.base import EndEffector, Scene
from komo_envs.worlds.base import WorldState

TABLE_TOP = 0.65  # m, as in rai's scene of the Panda on a table
BASE = np.array([0.0, -0.2])  # m, where the robot stands on it; the arm looks along +y
PUCK = 2  # its index in Push.bodies
PUCK_RADIUS = 0.04
PUCK_HEIGHT = 0.03
PUCK_MASS = 0.2
STICK_RADIUS = 0.012
STICK_LENGTH = 0.12
REACH = (0.40, 0.66)  # m from the base, where a puck can be pushed in every direction
HALF_ANGLE = 0.8  # rad to either side of the arm's forward direction
DISTANCE = (0.08, 0.40)  # m between start and target

REST_SPEED = 0.01  # m/s
REST_SPIN = 0.5  # rad/s, about any axis
UPRIGHT = np.deg2rad(10)
STILL_ABOVE_TABLE = 0.005  # m by which a puck at rest may seem lifted

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
VIEW = Camera("view", look_at((0.95, 1.08, 1.34), (0.02, 0.10, 0.91)), fov=45.0)


@dataclass(frozen=True)
class Push:
    """The puck rests, flat on either face, within ``success_radius`` of its target.

    A scene is ``{"puck": [x, y], "target": [x, y]}``: centres on the table in m, world frame.
    Goals are ``[x, y, rest]``: the puck's centre, and 1 when it rests upright on the table, else 0.
    End-effector coordinates are the stick's tip ``x, y, z``; the stick is kept vertical.
    """

    success_radius: float = 0.02
    """Distance in m from the target that counts as success."""
    fixed_target: tuple[float, float] | None = None
    """None, or where every episode's target is; the start is then drawn from ``start_box``."""
    start_box: tuple[tuple[float, float], tuple[float, float]] = ((-0.16, 0.21), (0.16, 0.40))
    """Corners (x, y) of the box of starts for a fixed target, m."""

    description = "Push the red puck to the green target."
    home = np.array([0.0, -0.2542, 0.0, -2.6911, 0.0, 2.4369, 0.785])  # tip at (0, 0.2, 0.77)
    tool: ClassVar[Pose] = (0.0, 0.0, 0.03 - STICK_LENGTH, 1.0, 0.0, 0.0, 0.0)
    arm_collides = False
    end_effector = EndEffector(("x", "y", "z"), TOOL_LOW, TOOL_HIGH, np.full(3, 0.05))
    cameras = CAMERAS
    view = VIEW
    goal_low = np.array([-3.0, -3.0, 0.0])
    goal_high = np.array([3.0, 3.0, 1.0])
    command_low = goal_low[:2]
    command_high = goal_high[:2]
    privileged_low = np.array([-3.0] * 3 + [-1.0] * 3 + [-10.0] * 3 + [-100.0] * 3)
    privileged_high = -privileged_low

    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """Start and target, uniform over the reachable table at a distance within ``DISTANCE``."""
        while True:
            if self.fixed_target is None:
                puck, target = _sample_reachable(rng), _sample_reachable(rng)
            else:
                puck, target = rng.uniform(*self.start_box), np.array(self.fixed_target)
            distance = float(np.linalg.norm(target - puck))
            # A fixed target is fair at any distance that leaves something to do.
            longest = DISTANCE[1] if self.fixed_target is None else np.inf
            if DISTANCE[0] <= distance <= longest:
                return {"puck": puck.tolist(), "target": target.tolist()}

    def check_scene(self, scene: Mapping[str, Any]) -> Scene:
        """The scene with plain floats.

        Raises:
            ValueError: a key is missing or unknown, a position is not two finite numbers or lies
                beyond reach, start and target overlap, or the target is another than the fixed one.
        """
        if not isinstance(scene, Mapping) or set(scene) != {"puck", "target"}:
            keys = sorted(map(str, scene)) if isinstance(scene, Mapping) else repr(scene)
            raise ValueError(f"scene: expected the keys 'puck' and 'target', got {keys}")
        checked: Scene = {}
        for name, value in scene.items():
            try:
                position = np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                position = np.empty(0)
            if position.shape != (2,) or not np.isfinite(position).all():
                raise ValueError(f"scene[{name!r}]: expected two finite numbers, got {value!r}")
            if not _is_reachable(position):
                raise ValueError(
                    f"scene[{name!r}]: {position.tolist()} is out of reach; expected {REACH[0]} to "
                    f"{REACH[1]} m from the base at {BASE.tolist()}, at most {HALF_ANGLE} rad "
                    "from straight ahead (+y)"
                )
            checked[name] = position.tolist()
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
        return checked

    def bodies(self, scene: Scene) -> tuple[Body, ...]:
        """Table, target disc, puck and stick, in this order."""
        (px, py), (tx, ty) = scene["puck"], scene["target"]
        return (
            Body(
                "table",
                "box",
                (2.5, 2.5, 0.1),
                color=(0.55, 0.57, 0.60),
                pose=(0.0, 0.0, TABLE_TOP - 0.05, 1.0, 0.0, 0.0, 0.0),
                friction=0.1,
                bevel=0.02,
            ),
            Body(
                "target",
                "cylinder",
                (0.004, PUCK_RADIUS),
                color=(0.10, 0.62, 0.30),
                pose=(tx, ty, TABLE_TOP, 1.0, 0.0, 0.0, 0.0),
                solid=False,
                bevel=0.001,
            ),
            Body(
                "puck",
                "cylinder",
                (PUCK_HEIGHT, PUCK_RADIUS),
                color=(0.80, 0.10, 0.08),
                pose=(px, py, TABLE_TOP + PUCK_HEIGHT / 2, 1.0, 0.0, 0.0, 0.0),
                mass=PUCK_MASS,
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
        )

    def tool_target(self, coordinates: Array) -> tuple[Array, dict[str, Array]]:
        """The tip at ``coordinates`` (3,), the stick vertical, its yaw free."""
        return coordinates, {"z": np.array([0.0, 0.0, 1.0])}

    def tool_coordinates(self, tool_pose: Array) -> Array:
        """The tip's position (3,)."""
        return tool_pose[:3]

    def is_safe(self, tool_pose: Array, link_poses: Array) -> bool:
        """The tip is over the table and off the base, the stick steep, the arm above the table."""
        tip = tool_pose[:3]
        margin = 0.005
        return bool(
            np.all(tip >= TOOL_LOW - margin)
            and np.all(tip <= TOOL_HIGH + margin)
            and np.linalg.norm(tip[:2] - BASE) >= 0.28
            and uprightness(tool_pose[3:]) >= np.cos(np.deg2rad(20))
            and link_poses[3:, 2].min() >= TABLE_TOP + 0.05
        )

    def command(self, scene: Scene) -> Array:
        """The target's position ``[x, y]``."""
        return np.array(scene["target"])

    def privileged(self, scene: Scene, state: WorldState) -> Array:
        """Puck: position (3,), axis (3,), linear (3,) and angular velocity (3,)."""
        pose = state.body_poses[PUCK]
        return np.concatenate([pose[:3], axis(pose[3:], 2), state.body_velocities[PUCK]])

    def achieved_goal(self, scene: Scene, state: WorldState) -> Array:
        """``[x, y, rest]`` of the puck."""
        pose, velocity = state.body_poses[PUCK], state.body_velocities[PUCK]
        rest = (
            np.linalg.norm(velocity[:3]) <= REST_SPEED
            and np.linalg.norm(velocity[3:]) <= REST_SPIN
            and abs(uprightness(pose[3:])) >= np.cos(UPRIGHT)
            and abs(pose[2] - TABLE_TOP - PUCK_HEIGHT / 2) <= STILL_ABOVE_TABLE
        )
        return np.array([pose[0], pose[1], rest], dtype=np.float32)

    def desired_goal(self, scene: Scene) -> Array:
        """``[x, y, 1]`` of the target."""
        return np.array([*scene["target"], 1.0], dtype=np.float32)

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Horizontal distance of the puck's centre from the target, m."""
        return np.linalg.norm(achieved[..., :2] - desired[..., :2], axis=-1)

    def is_success(self, achieved: Array, desired: Array) -> Mask:
        """At rest within the success radius."""
        near = self.distance(achieved, desired) <= self.success_radius
        return near & (achieved[..., 2] > 0.5)

    def goal_reward_terms(self, achieved: Array, desired: Array) -> dict[str, Array]:
        """``distance``: -1 at 40 cm, 0 on the target. ``success``: 1."""
        return {
            "distance": -2.5 * self.distance(achieved, desired),
            "success": self.is_success(achieved, desired).astype(float),
        }

    def other_reward_terms(self, scene: Scene, state: WorldState, tool: Array) -> dict[str, float]:
        """``reach``: at most 0.25 less the farther the tip is from the puck."""
        gap = float(np.linalg.norm(tool - state.body_poses[PUCK, :3])) - PUCK_RADIUS
        return {"reach": -0.25 * float(np.tanh(5.0 * max(gap, 0.0)))}


def _sample_reachable(rng: np.random.Generator) -> Array:
    """A point (2,) uniform over the area of the reachable table."""
    radius = np.sqrt(rng.uniform(REACH[0] ** 2, REACH[1] ** 2))
    angle = rng.uniform(-HALF_ANGLE, HALF_ANGLE)
    return BASE + radius * np.array([np.sin(angle), np.cos(angle)])


def _is_reachable(position: Array) -> bool:
    x, y = position - BASE
    tolerance = 1e-9
    return bool(
        REACH[0] - tolerance <= np.hypot(x, y) <= REACH[1] + tolerance
        and abs(np.arctan2(x, y)) <= HALF_ANGLE + tolerance
    )
