"""The expert of the push task: KOMO plans the approach and the push, feedback steers the puck."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from experts.base import Expert
from experts.planning import EQ, INEQ, Plan, Problem
from komo_envs.env import KomoEnv
from komo_envs.scene import Array
from komo_envs.tasks.push import PUCK, PUCK_HEIGHT, PUCK_RADIUS, STICK_RADIUS, TABLE_TOP, Push
from komo_envs.worlds import CONTROL_PERIOD
from komo_envs.worlds.panda import GRIPPER, load_panda
from komo_envs.worlds.rai import quiet, ry

CONTACT = PUCK_RADIUS + STICK_RADIUS
"""m between the axes of puck and stick when they touch."""
PUSH_HEIGHT = TABLE_TOP + 0.012
"""Height in m of the stick's tip while it pushes."""
CLEAR_HEIGHT = TABLE_TOP + PUCK_HEIGHT + 0.02
"""Height in m of the tip above which it passes over the puck."""
TOOL_SPEED = {"approach": 0.45, "push": 0.18, "retreat": 0.45}
"""Limits in m/s; a puck pushed at 0.5 m/s slides on out of control."""
JOINT_SPEED = 0.9  # rad/s, a little under the env's limit, so that it never bends a path
PUSH_ACCELERATION = 0.4  # m/s^2 of the puck, at both ends of a push
LOOKAHEAD = 0.06  # m
LARGEST_TURN = 0.6  # rad by which the stick is set beside the heading
TOLERANCE = 0.002  # m before the target at which a push is over
GOOD_ENOUGH = 0.006  # m from the target at which no other push would better it
LOST_ANGLE = 1.0  # rad between the push and the stick's side of the puck: it has slipped off
LOST_GAP = 0.04  # m between stick and puck
LOST_HEIGHT = 0.012  # m of the tip above where it pushes: it may stand on the puck
MOVED = 0.01  # m by which the puck has moved before it was pushed
ASTRAY = 0.03  # m between the commanded tip and its plan: someone else has moved it


class PushExpert(Expert):
    """A closed-loop expert: it plans, executes, and plans again where the puck is not as planned.

    KOMO optimises one joint path through three phases: approach (over the puck and down behind
    it), push (in a straight line), retreat. Approach and retreat are executed as planned. During
    the push, feedback keeps the stick on that side of the puck which brings it back to the planned
    line, in the planned posture. Where the puck was moved before it was touched, slipped off, or
    came to rest beside its target, the expert lifts the stick and plans again.
    """

    task = Push

    def __init__(self, draw_side: bool = False) -> None:
        """As every expert; pushed in a straight line, a puck has but one side to push from."""
        super().__init__(draw_side)
        self._config = load_panda((), meshes=False)
        with quiet():
            self._config.addFrame("tip", GRIPPER).setRelativePose(list(Push.tool))

    def begin(self) -> None:
        """Forget the last episode's plan."""
        self._plan: Plan | None = None

    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad: of a plan, which is made if there is none."""
        if self._plan is None and self.failure is None:
            self._begin(env, self.plan(env))
        return env.controller.command if self._plan is None else self._next(env)

    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state: the way behind the puck, the push, the retreat.

        Nothing moves. The plan may be infeasible, which it says.

        Raises:
            ValueError: the env's task is not push.
            RuntimeError: the env has not been reset.
        """
        unwrapped = self.own(env)
        puck, target = _puck(unwrapped), np.array(unwrapped.scene["target"])
        d = _direction(puck, target)
        n = np.array([-d[1], d[0]])
        start = puck - CONTACT * d
        end = target - CONTACT * d
        tip = unwrapped.controller.ee_command

        problem = Problem(
            self._config, unwrapped.controller.command, ("approach", "push", "retreat")
        )
        add, at, stick, joints = problem.add, ry.FS.position, ["tip"], ry.FS.qItself
        along, across = [[*(10 * d), 0]], [[*(10 * n), 0]]
        level, up, down = [[10, 0, 0], [0, 10, 0]], [[0, 0, 10]], [[0, 0, -10]]
        contact, goal = [*start, PUSH_HEIGHT], [*end, PUSH_HEIGHT]
        over, risen = [0, 0, CLEAR_HEIGHT], [0, 0, CLEAR_HEIGHT + 0.01]
        behind, away = [*(start - 0.02 * d), 0], [*(end - 0.04 * d), 0]

        add("stick vertical", EQ, [], ry.FS.vectorZ, stick, level)
        add("tip above the table", INEQ, [], at, stick, down, [0, 0, TABLE_TOP + 0.008])
        if tip[2] < CLEAR_HEIGHT and np.linalg.norm(tip[:2] - puck) < CONTACT + 0.05:
            add("lift straight off", EQ, [0, 0.25], at, stick, level, tip)
        add("pass over the puck", INEQ, [0.3, 0.7], at, stick, down, over)
        add("come down in the line of the push", EQ, [0.75, 1], at, stick, across, contact)
        add("come down behind the puck", INEQ, [0.75, 0.9], at, stick, along, behind)
        add("touch", EQ, [1], at, stick, 10, contact)
        add("push straight", EQ, [1, 2], at, stick, across + up, contact)
        add("reach the target", EQ, [2], at, stick, 10, goal)
        add("stop at the target", EQ, [2], joints, [], 1, order=1)
        add("leave in the line of the push", EQ, [2, 2.3], at, stick, across, goal)
        add("leave the puck", INEQ, [3], at, stick, along, away)
        add("rise", INEQ, [3], at, stick, down, risen)
        add("stop", EQ, [3], joints, [], 1, order=1)
        return problem.solve("tip", TOOL_SPEED, JOINT_SPEED, stops=("push", "retreat"))

    def _begin(self, env: KomoEnv, plan: Plan) -> None:
        self.plan_seconds.append(plan.solve_seconds)
        if not plan.feasible:
            self.failure = "no feasible plan"
            return
        if not all(env.task.is_safe(*env.controller.kinematics.poses(q)) for q in plan.path):
            self.failure = "the plan leaves the workspace"
            return
        self._plan = plan
        self._phase = "approach"
        self._clock = 0.0
        self._planned_puck = _puck(env)
        self._speed = TOOL_SPEED["push"] / 2

    def _next(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), in the phase that the puck and the stick are in."""
        plan = self._plan
        assert plan is not None
        puck, target = _puck(env), np.array(env.scene["target"])
        if self._phase == "approach":
            planned = env.controller.coordinates(plan.at(self._clock))
            astray = np.linalg.norm(env.controller.ee_command - planned)
            if np.linalg.norm(puck - self._planned_puck) > MOVED or astray > ASTRAY:
                return self._replan(env)
            self._clock += CONTROL_PERIOD
            if self._clock < plan.end_time("approach"):
                return plan.at(self._clock)
            self._phase = "push"
        if self._phase == "push":
            if (target - puck) @ _direction(self._planned_puck, target) > TOLERANCE:
                if self._lost(env, puck):
                    return self._replan(env)
                return self._push(env, plan, puck, target)
            self._phase = "retreat"
            self._clock = plan.end_time("push")
        self._clock += CONTROL_PERIOD
        if self._clock >= plan.times[-1] and not self._done(env):
            return self._replan(env)
        return plan.at(self._clock)

    def _push(self, env: KomoEnv, plan: Plan, puck: Array, target: Array) -> Array:
        """Move the stick to where it touches the puck from behind once the puck has gone on.

        The puck is steered like a car: toward a point of the planned line, ``LOOKAHEAD`` beyond
        the puck. It goes about where the stick's side of it faces; while the stick travels from
        its present side to the next one, that is their mean, so the next one mirrors the present
        one at the heading.
        """
        line = _direction(self._planned_puck, target)
        left = float((target - puck) @ line)
        self._speed = min(
            self._speed + PUSH_ACCELERATION * CONTROL_PERIOD,
            TOOL_SPEED["push"],
            np.sqrt(2 * PUSH_ACCELERATION * left),
        )
        advance = min(self._speed * CONTROL_PERIOD, left)
        heading = _direction(puck, target + (LOOKAHEAD - left) * line)
        side = _direction(env.controller.coordinates(env.state.q)[:2], puck)
        turn = np.clip(_angle(side, heading), -LARGEST_TURN, LARGEST_TURN)
        contact = puck + advance * heading - CONTACT * _rotate(heading, turn)
        tip = np.array([*contact, PUSH_HEIGHT])
        first, last = plan.ends["approach"], plan.ends["push"] + 1
        nearest = first + np.argmin(np.linalg.norm(plan.tool[first:last] - tip, axis=1))
        return env.controller.solve(tip, rest=plan.path[nearest])

    def _lost(self, env: KomoEnv, puck: Array) -> bool:
        """Whether the stick is no longer behind the puck."""
        tip = env.controller.coordinates(env.state.q)
        side = _direction(tip[:2], puck)
        turn = _angle(side, _direction(self._planned_puck, env.scene["target"]))
        gap = np.linalg.norm(puck - tip[:2]) - CONTACT
        return bool(abs(turn) > LOST_ANGLE or gap > LOST_GAP or tip[2] > PUSH_HEIGHT + LOST_HEIGHT)

    def _done(self, env: KomoEnv) -> bool:
        """Whether the puck is where another push would not better it."""
        return bool(np.linalg.norm(_puck(env) - env.scene["target"]) < GOOD_ENOUGH)

    def _replan(self, env: KomoEnv) -> Array:
        self._plan = None
        self._begin(env, self.plan(env))
        return env.controller.command if self._plan is None else self._next(env)


def _puck(env: KomoEnv) -> Array:
    """Position (2,) of the puck's centre, m."""
    return env.state.body_poses[PUCK, :2]


def _direction(start: Array, end: Array) -> Array:
    """Unit vector (2,) from one point to another."""
    offset = np.subtract(end, start)
    return offset / max(float(np.linalg.norm(offset)), 1e-9)


def _angle(start: Array, end: Array) -> float:
    """Signed angle in rad from one direction (2,) to another."""
    return float(np.arctan2(start[0] * end[1] - start[1] * end[0], start @ end))


def _rotate(direction: Array, angle: float) -> Array:
    """A direction (2,) turned by an angle in rad."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * direction[0] - s * direction[1], s * direction[0] + c * direction[1]])
