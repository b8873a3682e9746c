"""The expert of the shelf task: KOMO plans the way behind the cuboid, feedback pulls it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from experts.base import Expert, Style
from experts.komo.problem import EQ, INEQ, SLICES, Plan, Problem
from experts.komo.route import RIGHT
from komo_envs.entities import Array
from komo_envs.env import KomoEnv
from komo_envs.tasks.base import is_upright
from komo_envs.tasks.shelf import (
    CUBOID,
    FINGER,
    FLOOR,
    LIP,
    OPENING,
    PITCH,
    ROD,
    Shelf,
    cuboid_size,
    gaps,
    half_extents,
)
from komo_envs.worlds import CONTROL_PERIOD
from komo_envs.worlds.rai import ry

PHASES = ("withdraw", "approach", "enter", "hook", "pull")

BEFORE_LIP = OPENING - LIP - 0.01  # m along y
HOOK_HEIGHT = FLOOR + 0.05
"""Height in m of the hook's corner in the compartment: low, so that it does not tip the cuboid."""
LANE = 2 * ROD + 0.005  # m beside the cuboid that let the shaft pass
CLEARANCE = 0.006
"""Distance at which the hook passes the cuboid, or half of the gap where that is less, m."""
BEHIND = 0.004  # m between cuboid and finger when that turns: the hand is close to the opening
TOOL_SPEED = {"withdraw": 0.25, "approach": 0.40, "enter": 0.25, "hook": 0.40, "pull": 0.12}
"""Limits in m/s."""
JOINT_SPEED = 0.9  # rad/s, a little under the env's limit, so that it never bends a path
ACROSS = 0.1  # rad of roll from a quarter turn at which the finger is behind the cuboid
UP = 0.2  # rad of roll at which the finger points up
OVER = 0.006  # m that the finger's tip should be beyond the cuboid's center
SHIFT = 0.005  # m in a step by which the hook may move laterally in the pull
INWARD = 0.002  # m that the finger may lack to where it should be before it pulls
BEYOND = 0.008  # m beyond its goal to which the cuboid is pulled
MOVED = np.array([0.006, 0.006, 0.06])  # m, m and rad of the cuboid before it is hooked, and
DRAGGED = np.array([0.012, np.inf, 0.12])  # of the hooked one, after which it is planned again
COMMITMENT = 2.0
"""Yaw that outweighs one meter of the hook on the other side of the cuboid, rad. The expert keeps
the side that it has begun with, and so can a student, which knows a yaw near zero only roughly."""
ASTRAY = 0.02  # m between hook and plan
RADIUS = 0.1  # m that a radian of roll counts as


class ShelfExpert(Expert):
    """A closed-loop expert: it plans, executes, and replans where things are not as planned.

    KOMO optimizes one joint path through the remaining phases: withdraw (out of the
    compartment, where the hook is neither beside nor behind the cuboid), approach (to the opening),
    enter (beside the cuboid, the finger up), hook (turn the finger behind it), pull. The remaining
    phases, and the progress on the plan, depend on the positions of hook and cuboid, not on time.
    The pull is steered: where the finger does not reach far enough behind the cuboid, the hook
    first moves inward, pressing it straight. The expert replans as the cuboid turns.

    The hook passes the cuboid on the right (+x) where its yaw is positive, on the left where it is
    negative: there the farthest corner is the nearer one, and the pull turns the cuboid straight.
    Where the yaw is small, it passes on the side that it is already on.
    Where a side is too narrow, it takes the wider one. With ``sample_side`` the side is sampled
    where both are wide enough: in four of five scenes, and in less than half of the hard ones.
    """

    task = Shelf

    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state, through the remaining phases.

        Nothing moves. The plan may be infeasible.

        Raises:
            ValueError: The env's task is not shelf.
            RuntimeError: The env has not been reset.
        """
        unwrapped = self.own(env)
        view = _View(unwrapped)
        side = self._side(view)
        corner, cuboid, half_x, half_y = view.corner, view.cuboid, view.half_x, view.half_y
        free = view.gaps[int(side > 0)]
        lane_x = cuboid[0] + side * (half_x + ROD + min(CLEARANCE, max(free / 2 - ROD, 0.0)))
        behind = cuboid[1] + half_y + ROD + BEHIND
        phases = view.phases(side)
        lane, hooked = [lane_x, 0, HOOK_HEIGHT], [lane_x, behind, HOOK_HEIGHT]
        first = corner if phases == PHASES[4:] else hooked
        out = [view.pull_x(side, first[0]), view.goal + view.size[1] / 2 + ROD, HOOK_HEIGHT]
        across = np.array([first[1] - out[1], out[0] - first[0]])
        across /= np.linalg.norm(across)

        problem = Problem(Shelf.tcp_offset, unwrapped.controller.command, phases)
        add, hook, at = problem.add, ["tool"], ry.FS.position
        x, y, z, xz = [[10, 0, 0]], [[0, 10, 0]], [[0, 0, 10]], [[10, 0, 0], [0, 0, 10]]
        down = [[0, 0, -10]]
        shaft, finger = ry.FS.vectorY, ry.FS.vectorX

        # An arm that was moved outside may hold the shaft otherwise: it gets time to turn.
        straight = [0.8, len(phases)] if phases[0] in PHASES[:2] else []
        add("shaft into the shelf", EQ, straight, shaft, hook, xz, [0, 0, -np.sin(PITCH)])
        for i, phase in enumerate(phases):
            during, end = [i, i + 1], [i + 1]
            if phase == "withdraw":
                add("withdraw in line", EQ, during, at, hook, xz, corner[:3])
                add("withdraw", INEQ, end, at, hook, y, [0, view.mouth, 0])
            elif phase == "approach":
                if i == 0:
                    self.add_style(problem, corner[:3], np.array([lane_x, view.mouth, HOOK_HEIGHT]))
                add("stay outside", INEQ, during, at, hook, y, [0, view.mouth, 0])
                if corner[1] < BEFORE_LIP and corner[2] < FLOOR + 0.02:
                    before, then = [i, i + 0.6], [i + 0.6, i + 1]
                    add("rise", INEQ, before, at, hook, y, [0, BEFORE_LIP, 0])
                    add("over the lip", INEQ, then, at, hook, down, [0, 0, FLOOR + 0.03])
            elif phase == "enter":
                add("finger up", EQ, during, finger, hook, x)
                add("beside the cuboid", EQ, during, at, hook, xz, lane)
            elif phase == "hook":
                add("behind the cuboid", EQ, during, at, hook, 10, hooked)
            else:
                add("finger across", EQ, during, finger, hook, xz, [-side, 0, 0])
                add("pull straight", EQ, during, at, hook, [[*10 * across, 0], *z], out)
                add("pull out", EQ, end, at, hook, y, out)
                add("stop", EQ, end, ry.FS.qItself, [], 1, order=1)
        return problem.solve(TOOL_SPEED, JOINT_SPEED, stops=("pull",))

    def possible_style(self, env: KomoEnv) -> Style:
        """The style without a bend, and with a side only where both are wide enough."""
        style = replace(super().possible_style(env), bend=0)
        return style if min(_View(env).gaps) >= LANE else replace(style, side=None)

    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad."""
        view = _View(env)
        cuboid, *neighbours = env.state.body_poses[CUBOID:]
        if not is_upright(cuboid):
            self.failure = "the cuboid has fallen over"
        elif not all(is_upright(pose) and pose[1] >= OPENING for pose in neighbours):
            self.failure = "a neighbour has fallen over or come out"
        elif view.cuboid[1] > view.goal:
            if self._plan is None or self._is_outdated(view):
                self._replan(view)
            if self._plan is not None:
                return self._next(view, self._plan)
        return env.controller.command

    def _replan(self, view: _View) -> None:
        self._plan = self.make_plan(view.env)
        self._planned_cuboid = view.cuboid
        if self._plan is not None:
            coordinates = view.env.controller.coordinates
            self._way = np.array([coordinates(q) for q in self._plan.path])

    def _is_outdated(self, view: _View) -> bool:
        """Whether cuboid or hook are no longer where the plan has them."""
        moved = np.abs(view.cuboid - self._planned_cuboid)
        if view.is_hooked:
            return bool(np.any(moved > DRAGGED))
        return bool(np.any(moved > MOVED) or self._nearest(view.corner)[1] > ASTRAY)

    def _next(self, view: _View, plan: Plan) -> Array:
        """The next joint reference (7,): one period ahead on the plan, or in the steered pull."""
        if not view.is_hooked:
            point, _ = self._nearest(view.corner)
            rows = np.arange(len(plan.times))
            return plan.at(np.interp(point, rows, plan.times) + CONTROL_PERIOD)
        x, y = view.corner[:2]
        lateral = view.pull_x(view.hook_side, x) - x
        x += np.clip(lateral, -SHIFT, SHIFT)
        y -= TOOL_SPEED["pull"] * CONTROL_PERIOD
        if abs(lateral) > INWARD:
            touching = view.cuboid[1] + view.half_y + ROD + 0.001
            y = max(y, min(view.corner[1], touching))
        first = plan.ends["pull"] - SLICES
        row = first + np.argmin(np.abs(plan.tool[first:, 1] - y))
        corner = np.array([x, y, HOOK_HEIGHT, -view.hook_side * np.pi / 2])
        return view.env.controller.solve(corner, rest=plan.path[row])

    def _nearest(self, corner: Array) -> tuple[float, float]:
        """Row of the plan's point that is nearest to the hook, a fraction, and its distance."""
        scale = np.array([1.0, 1.0, 1.0, RADIUS])
        start, step = self._way[:-1] * scale, np.diff(self._way * scale, axis=0)
        offset = corner * scale - start
        share = (offset * step).sum(axis=1) / np.maximum((step**2).sum(axis=1), 1e-12)
        share = np.clip(share, 0.0, 1.0)
        error = np.linalg.norm(offset - share[:, None] * step, axis=1)
        row = int(np.argmin(error))
        return row + float(share[row]), float(error[row])

    def _side(self, view: _View) -> float:
        """The side of the cuboid that the hook is on, or goes to: -1 or 1, the sign of x."""
        if view.corner[1] > view.mouth and abs(view.corner[0] - view.cuboid[0]) > view.half_x:
            return float(np.sign(view.corner[0] - view.cuboid[0]))
        left, right = view.gaps
        if min(left, right) < LANE:
            return 1.0 if right > left else -1.0
        if self.style.side is None:
            lean = view.cuboid[2] + COMMITMENT * (view.corner[0] - view.cuboid[0])
            return 1.0 if lean >= 0 else -1.0
        return 1.0 if self.style.side == RIGHT else -1.0


class _View:
    """The state of hook and cuboid that the expert uses, and quantities derived from it."""

    def __init__(self, env: KomoEnv) -> None:
        self.env = env
        self.corner = env.controller.ee_command
        self.cuboid = _planar(env.state.body_poses[CUBOID])
        self.size = cuboid_size(env.scene)
        self.half_x, self.half_y = half_extents(self.size, self.cuboid[2])
        self.goal = float(env.task.desired_goal(env.scene)[1]) - BEYOND
        """y of the cuboid's center at which it is out, m."""
        self.mouth = min(OPENING, self.cuboid[1] - self.half_y) - 0.02
        """y in front of which the hook touches nothing, m."""

    @property
    def gaps(self) -> tuple[float, float]:
        """Free space to the left and to the right of the cuboid, m."""
        poses = self.env.state.body_poses[CUBOID + 1 :]
        scene = self.env.scene.get("neighbours", [])
        now = [[*_planar(pose), *was[3:]] for pose, was in zip(poses, scene, strict=True)]
        return gaps(self.cuboid, self.size, now)

    @property
    def hook_side(self) -> float:
        """The side that the finger points away from: -1 or 1."""
        return -float(np.sign(self.corner[3]))

    @property
    def is_hooked(self) -> bool:
        """Whether the finger is across and behind the cuboid."""
        x, y, _, roll = self.corner
        offset = self.hook_side * (x - self.cuboid[0])
        return bool(
            abs(abs(roll) - np.pi / 2) < ACROSS
            and y > self.cuboid[1]
            and ROD < offset < self.half_x + FINGER
        )

    def pull_x(self, side: float, x: float) -> float:
        """x of the hook's corner for the pull, m: ``x``, or further in.

        The finger's tip should be ``OVER`` beyond the cuboid's center, and beyond its farthest
        corner where that is behind the other half: else it would turn the cuboid away. If the
        cuboid is in the way, the shaft presses it straight.
        """
        width, depth, _ = self.size
        yaw = side * self.cuboid[2]
        corner = (depth * np.sin(yaw) - width * np.cos(yaw)) / 2
        offset = side * (x - self.cuboid[0])
        return self.cuboid[0] + side * min(offset, FINGER - OVER - max(corner, 0.0))

    def phases(self, side: float) -> tuple[str, ...]:
        """The remaining phases."""
        x, y, z, roll = self.corner
        beside = side * (x - self.cuboid[0]) >= self.half_x + ROD and z < HOOK_HEIGHT + 0.02
        if self.is_hooked:
            return PHASES[4:]
        if beside and y >= self.cuboid[1] + self.half_y + ROD:
            return PHASES[3:]
        if y <= self.mouth + 1e-3:
            return PHASES[1:]
        return PHASES[2:] if beside and abs(roll) < UP else PHASES


def _planar(pose: Array) -> Array:
    """Position x, y in m and angle about the vertical in rad of a pose (7,)."""
    w, x, y, z = pose[3:]
    return np.array([*pose[:2], np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))])
