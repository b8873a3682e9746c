"""The Panda as rai knows it: its frames, with a task's bodies around it, and its kinematics."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from komo_envs.entities import HAND_MIDDLE, HAND_SIZE, ROBOT_LINKS, Array, Body, Pose
from komo_envs.worlds.rai import quiet, reading_meshes, ry

GRIPPER = "l_gripper"
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, 0.5, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.0, 2.8973])
"""Joint limits of rai's model, rad. They are the real arm's but for joint 6, which is tighter."""
COLLISION_FRAMES = (
    *(f"l_panda_coll{i}" for i in range(1, 8)),
    "l_palm",
    "l_finger1",
    "l_finger2",
)
"""Capsules and boxes around the moving links, the hand and the fingers."""
DRIVE_STIFFNESS, DRIVE_DAMPING = 1000.0, 100.0
"""Gains of the joint drives that rai gives the simulated arm, N m/rad and N m s/rad."""
FINGER_GAP = 0.012
"""Distance in m of each finger from the gripper's center: closed around a tool."""

_MESH_FRAMES = {
    "link0": "l_panda_link0",
    **{f"link{i}": f"l_panda_joint{i}" for i in range(1, 8)},
    "hand": "l_panda_hand_joint",
    "leftfinger": "l_panda_finger_joint1",
    "rightfinger": "l_panda_rightfinger_0",
}
LINK_FRAMES = tuple(_MESH_FRAMES[link] for link in ROBOT_LINKS)

# Of the inverse kinematics.
_AXIS = {"x": ry.FS.vectorX, "y": ry.FS.vectorY, "z": ry.FS.vectorZ}
_RADIUS = 0.2  # m of position error that one radian of direction error is worth
_ITERATIONS = 20
_TOLERANCE = 1e-4  # m
_LARGEST_STEP = 0.1  # m
_DAMPING = 1e-5
_REST_GAIN = 0.1


def load_panda(
    bodies: Sequence[Body], meshes: bool = True, arm_collides: bool = False
) -> ry.Config:
    """The arm on its table with ``bodies`` around it, as a rai configuration.

    A body named ``table`` shapes the table that rai's scene already has; every other one becomes a
    frame of its own.

    Args:
        bodies: The bodies besides the arm.
        meshes: Whether the links have their visual meshes; the collision shapes are always there.
        arm_collides: Whether physics lets the collision shapes of arm and hand touch things.
    """
    with quiet():
        config = ry.Config()
        config.addConfigurationCopy(_bare_panda(meshes, arm_collides))
        for body in bodies:
            _add_body(config, body)
    return config


@functools.cache
def _bare_panda(meshes: bool, arm_collides: bool) -> ry.Config:
    """The arm alone, which every configuration copies: reading it from its files takes 0.1 s."""
    config = ry.Config()
    with reading_meshes():
        config.addFile(ry.raiPath("scenarios/pandaSingle.g"))
    for name in LINK_FRAMES:
        frame = config.getFrame(name)
        if meshes:
            # The visual meshes take no part in contacts: their hulls cost memory and time.
            frame.setAttributes({"simulate": False})
        else:
            frame.setShape(ry.ST.marker, [0.1])
    for name, side in (("l_panda_finger_joint1", 1.0), ("l_panda_finger_joint2", -1.0)):
        config.getFrame(name).setRelativePosition([0.0, side * FINGER_GAP, 0.0])
    # The hand's bounding box: rai's capsule is twice as thick as the hand.
    palm = config.getFrame("l_palm").setShape(ry.ST.ssBox, [*HAND_SIZE, 0.01])
    palm.setRelativePose([0.0, 0.0, HAND_MIDDLE, 1.0, 0.0, 0.0, 0.0])
    if arm_collides:
        for name in COLLISION_FRAMES:
            config.getFrame(name).setAttributes({"simulate": True})
    return config


def _add_body(config: ry.Config, body: Body) -> None:
    known = body.name in config.getFrameNames()
    if known:
        frame = config.getFrame(body.name)
    else:
        parent = GRIPPER if body.parent else "world" if body.mass is None else ""
        frame = config.addFrame(body.name, parent)
        if body.parent:
            frame.setRelativePose(list(body.pose))
        else:
            frame.setPose(list(body.pose))
    if body.shape == "box":
        if body.bevel > 0:
            frame.setShape(ry.ST.ssBox, [*body.size, body.bevel])
        else:
            frame.setShape(ry.ST.box, [*body.size])
    elif body.bevel > 0:
        frame.setShape(ry.ST.ssCylinder, [*body.size, body.bevel])
    else:
        frame.setShape(ry.ST.cylinder, [*body.size])
    frame.setAttributes({"friction": body.friction, "simulate": body.solid})
    if body.mass is not None:
        frame.setMass(body.mass)


def set_stiffness(config: ry.Config, stiffness: float) -> None:
    """Make a configuration's joint drives so many times as stiff as they normally are.

    Attributes are shared by all configurations that were copied from one, so every simulation has
    to say what it wants.
    """
    gains = {"motorKp": DRIVE_STIFFNESS * stiffness, "motorKd": DRIVE_DAMPING}
    for joint in range(1, 8):
        config.getFrame(f"l_panda_joint{joint}").setAttributes(gains)


class Kinematics:
    """Forward and inverse kinematics of the tool that the gripper holds.

    The tool frame is fixed to the gripper; ``tool`` is its pose (7,) there.
    """

    def __init__(self, tool: Pose) -> None:
        self._tool = tool
        self._config = load_panda((), meshes=False)
        self._frame = self._config.addFrame("tool", GRIPPER).setRelativePose(list(tool))
        names = self._config.getFrameNames()
        self._rows = [names.index(name) for name in LINK_FRAMES]

    def __reduce__(self) -> tuple[type[Kinematics], tuple[Pose]]:
        """Make pickles and copies anew from the tool, since rai's configuration allows neither."""
        return Kinematics, (self._tool,)

    def tool_pose(self, q: Array) -> Array:
        """Pose (7,) of the tool frame, world frame, at joint positions ``q`` (7,) in rad."""
        self._config.setJointState(q)
        return self._frame.getPose()

    def poses(self, q: Array) -> tuple[Array, Array]:
        """Poses of the tool frame (7,) and of the links (11, 7), world frame, at ``q`` (7,)."""
        self._config.setJointState(q)
        return self._frame.getPose(), self._config.getFrameState()[self._rows]

    def solve(self, start: Array, position: Array, axes: Mapping[str, Array], rest: Array) -> Array:
        """Joint positions (7,) that bring the tool to a position and its axes to directions.

        Damped least squares from ``start``, within the joint limits; what freedom remains pulls
        toward ``rest``. Where the target is out of reach, the nearest that was found.

        Args:
            start: Joint positions (7,) to begin from, rad.
            position: Wanted position (3,) of the tool, world frame, m.
            axes: Wanted unit directions (3,), world frame, of the tool's "x", "y" or "z" axis.
            rest: Joint positions (7,) that the redundancy is drawn to, rad.
        """
        features = [(ry.FS.position, np.asarray(position), 1.0)]
        features += [(_AXIS[name], np.asarray(axis), _RADIUS) for name, axis in axes.items()]
        q = np.array(start, dtype=float)
        best, best_error = q, np.inf
        for _ in range(_ITERATIONS):
            self._config.setJointState(q)
            residuals, jacobians = [], []
            for feature, target, scale in features:
                value, jacobian = self._config.eval(feature, ["tool"])
                residuals.append(scale * (target - value))
                jacobians.append(scale * jacobian)
            residual, jacobian = np.concatenate(residuals), np.concatenate(jacobians)
            error = float(np.abs(residual).max())
            if error < best_error:
                best, best_error = q, error
            if error < _TOLERANCE:
                break
            residual *= min(1.0, _LARGEST_STEP / error)
            # The damping is a length: it bounds joint motion where the arm is near a singularity.
            gain = jacobian.T @ np.linalg.inv(
                jacobian @ jacobian.T + _DAMPING * np.eye(len(residual))
            )
            free = rest - q
            free -= gain @ (jacobian @ free)
            q = np.clip(q + gain @ residual + _REST_GAIN * free, JOINT_LOW, JOINT_HIGH)
        return best
