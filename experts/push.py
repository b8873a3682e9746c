"""The expert of the push task: KOMO plans the approach and the push, feedback steers the puck."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from experts.base import Expert, Style
from experts.komo.problem import EQ, INEQ, Plan, Problem
from experts.komo.route import Route, find_routes
from komo_envs.entities import Array
from komo_envs.env import KomoEnv
from komo_envs.tasks.base import TABLE_TOP
from komo_envs.tasks.push import BASE, PUCK, PUCK_HEIGHT, STICK_RADIUS, Push, puck_radius
from komo_envs.worlds import CONTROL_PERIOD
from komo_envs.worlds.rai import ry

PUSH_HEIGHT = TABLE_TOP + 0.012
"""Height in m of the stick's tip while it pushes."""
CLEAR_HEIGHT = TABLE_TOP + PUCK_HEIGHT + 0.02
"""Height in m of the tip above which it passes over the puck and the obstacles."""
TOOL_SPEED = {"approach": 0.45, "push": 0.18, "retreat": 0.45}
"""Limits in m/s; a puck pushed at 0.5 m/s slides on out of control."""
JOINT_SPEED = 0.9  # rad/s, a little under the env's limit, so that it never bends a path
FIRST_SPEED = 0.09  # m/s at which a puck at rest is met
PUSH_ACCELERATION = 0.4  # m/s^2 of the puck, at both ends of a push
LARGEST_YIELD = 0.03  # m by which the stick may be held back by a puck that it pushes
LOOKAHEAD = 0.06  # m ahead of the puck, to which it is steered on the last leg of its way
LOOKAHEAD_IN_BENDS = 0.08  # m; smoother, and it cuts corners by less than the margin
DRAG = 0.31
"""Distance that a puck is dragged by a stick that moves sideways on its rim without slipping, as a
share of the stick's way: c^2 / (c^2 + R^2), where friction over the whole face resists turning
like a force on the arm c = 2/3 R (Lynch, Maekawa and Tanie, "Manipulation and active sensing by
pushing using tactile feedback", 1992)."""
LARGEST_TURN = 0.6  # rad by which the stick is set beside the heading
LARGEST_STEP = 0.025  # m in a control period by which the stick is moved while it pushes
TOUCHING = 0.002  # m between stick and puck
TOLERANCE = 0.002  # m before the target at which a push is over
GOOD_ENOUGH = 0.006  # m from the target at which no other push would better it
LOST_ANGLE = 1.0  # rad between the push and the stick's side of the puck: it has slipped off
LOST_GAP = 0.04  # m between stick and puck
LOST_HEIGHT = 0.012  # m of the tip above where it pushes: it may stand on the puck
MOVED = 0.01  # m by which the puck has moved before it was pushed
ASTRAY = 0.03  # m between the commanded tip and its plan: someone else has moved it

ROUTE_REACH = (0.34, 0.68)  # m from the base, within which a puck can be pushed around obstacles
MARGINS = (0.014, 0.008, 0.002)  # m between puck and obstacles; the widest that leaves a way
BEND = 0.25  # m of a via point from the straight way, for each m of that
STICK_MARGIN = 0.003  # m between stick and obstacles
VIAS = 4  # points, equally far apart along the way, that a plan's push goes by


class PushExpert(Expert):
    """A closed-loop expert: it plans, executes, and replans where the puck is not as planned.

    The puck's way is the shortest one past the obstacles (``experts.komo.route``): a straight line
    where there are none. KOMO optimizes one joint path for it through three phases: approach (over
    the puck and down behind it), push (along the way), retreat.

    Each action depends on where things are, not on time: the expert remembers only its plan and its
    progress on it, since the plan passes some places twice. When the stick is behind the puck, the
    puck is pushed, and feedback keeps the stick on the side of it that brings it back to its way.
    Before and after the push the arm follows its plan from where it is. If the puck was moved
    before it was touched, slipped off, or came to rest beside its target, the expert replans.

    An obstacle in the straight way is passed on the side with the shorter way, on the left if they
    are equal. With ``sample_side`` the side is sampled, and taken if it is free with the puck as
    far from the obstacles as possible; of the hard scenes, four in five have both. Without
    obstacles there is only one side to push from.
    """

    task = Push

    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad, on a plan, which is made if there is none."""
        return self._replan(env) if self._plan is None else self._next(env, self._plan)

    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state: the way behind the puck, the push, the retreat.

        Nothing moves. The plan may be infeasible.

        Raises:
            ValueError: The env's task is not push.
            RuntimeError: The env has not been reset.
        """
        unwrapped = self.own(env)
        route = self._route_of(unwrapped)
        fixed = [b for b in unwrapped.bodies if b.name == "stick" or b.name.startswith("obstacle")]
        puck, contact, tip = _puck(unwrapped), _contact(unwrapped), unwrapped.controller.ee_command
        gone = np.linspace(0.0, route.length, VIAS + 1)
        ways = [_direction(route.at(s), route.at(s + LOOKAHEAD)) for s in gone]
        ways[0] = _direction(puck, route.points[1])
        places = [route.at(s) - contact * way for s, way in zip(gone, ways, strict=True)]
        start, d, n = places[0], ways[0], np.array([-ways[0][1], ways[0][0]])
        end, last_d, last_n = places[-1], ways[-1], np.array([-ways[-1][1], ways[-1][0]])

        phases = ("approach", "push", "retreat")
        problem = Problem(Push.tcp_offset, unwrapped.controller.command, phases, fixed)
        add, at, stick, joints = problem.add, ry.FS.position, ["tool"], ry.FS.qItself
        along, across = [[*(10 * d), 0]], [[*(10 * n), 0]]
        last_along, last_across = [[*(10 * last_d), 0]], [[*(10 * last_n), 0]]
        level, up, down = [[10, 0, 0], [0, 10, 0]], [[0, 0, 10]], [[0, 0, -10]]
        touching, pushing = [*start, PUSH_HEIGHT], [0, 0, PUSH_HEIGHT]
        over, risen = [0, 0, CLEAR_HEIGHT], [0, 0, CLEAR_HEIGHT + 0.01]
        behind, away = [*(start - 0.012 * d), 0], [*(end - 0.04 * last_d), 0]

        self.add_style(problem, tip, np.array([*start, CLEAR_HEIGHT]))
        add("stick vertical", EQ, [], ry.FS.vectorZ, stick, level)
        add("tip above the table", INEQ, [], at, stick, down, [0, 0, TABLE_TOP + 0.008])
        for body in fixed[1:]:
            pair = ["stick", body.name]
            add(f"clear of {body.name}", INEQ, [], ry.FS.negDistance, pair, 10, [-STICK_MARGIN])
        if tip[2] < CLEAR_HEIGHT and np.linalg.norm(tip[:2] - puck) < contact + 0.05:
            add("lift straight off", EQ, [0, 0.25], at, stick, level, tip)
        add("pass over the puck", INEQ, [0.3, 0.7], at, stick, down, over)
        add("come down in the line of the push", EQ, [0.75, 1], at, stick, across, touching)
        add("come down behind the puck", INEQ, [0.75, 0.9], at, stick, along, behind)
        add("touch", EQ, [1], at, stick, 10, touching)
        add("push with the tip down", EQ, [1, 2], at, stick, up, pushing)
        for i, place in enumerate(places[1:], 1):
            add(f"push, part {i}", EQ, [1 + i / VIAS], at, stick, level, [*place, 0])
        add("stop at the target", EQ, [2], joints, [], 1, order=1)
        add("leave in the line of the push", EQ, [2, 2.3], at, stick, last_across, [*end, 0])
        add("leave the puck", INEQ, [3], at, stick, last_along, away)
        add("rise", INEQ, [3], at, stick, down, risen)
        add("stop", EQ, [3], joints, [], 1, order=1)
        return problem.solve(TOOL_SPEED, JOINT_SPEED, stops=("push", "retreat"))

    def possible_style(self, env: KomoEnv) -> Style:
        """The style with a side only where obstacles are, and a bend only where none are."""
        style = super().possible_style(env)
        if "obstacles" in env.scene:
            side = style.side if style.side in self._routes(env) else None
            return replace(style, side=side, bend=0)
        return replace(style, side=None, bend=style.bend if self._bent_route(env) else 0)

    def _route_of(self, env: KomoEnv) -> Route:
        """The puck's way from where it is to its target."""
        routes = self._routes(env)
        if self.style.side in routes:
            return routes[self.style.side]
        if routes and (bent := self._bent_route(env)):
            return bent
        if routes:  # the left one comes first, so it is taken where they are equal
            return min(routes.values(), key=lambda route: round(route.length, 6))
        return Route([_puck(env), env.scene["target"]])

    def _routes(self, env: KomoEnv) -> dict[int, Route]:
        """The shortest ways past either side of the first obstacle in the straight way."""
        puck, target = _puck(env), np.array(env.scene["target"])
        obstacles = np.array(env.scene.get("obstacles", [])).reshape(-1, 3)
        radius = np.array([0.0, 0.0, 1.0])
        stick = obstacles + (STICK_RADIUS + STICK_MARGIN) * radius
        for margin in MARGINS:
            circles = obstacles + (puck_radius(env.scene) + margin) * radius
            routes = find_routes(puck, target, circles, BASE, ROUTE_REACH, _contact(env), stick)
            if routes:
                return routes
        return {}

    def _bent_route(self, env: KomoEnv) -> Route | None:
        """The way through the style's via point, if that is in reach and the puck at its start."""
        start, end = _puck(env), np.array(env.scene["target"])
        touched = np.linalg.norm(start - env.scene["puck"]) > MOVED
        if not self.style.bend or "obstacles" in env.scene or touched:
            return None
        along = end - start
        via = (start + end) / 2 + self.style.bend * BEND * np.array([-along[1], along[0]])
        low, high = ROUTE_REACH
        return Route([start, via, end]) if low <= np.linalg.norm(via - BASE) <= high else None

    def _replan(self, env: KomoEnv) -> Array:
        """The first joint reference (7,) of a new plan; the last command if there is none."""
        self._plan = self.make_plan(env)
        if self._plan is None:
            return env.controller.command
        self._route = self._route_of(env)
        self._progress = 0.0
        self._planned_puck = _puck(env)
        return self._next(env, self._plan)

    def _next(self, env: KomoEnv, plan: Plan) -> Array:
        """The next joint reference (7,), in the phase that the puck and the stick are in."""
        puck = _puck(env)
        left = self._route.length - self._route.distance(puck)
        if left <= TOLERANCE:
            if np.linalg.norm(puck - env.scene["target"]) > GOOD_ENOUGH:
                return self._replan(env)
            self._progress = max(self._progress, plan.end_time("push"))
            return self._follow(env, plan, plan.times[-1])[0]
        if self._is_behind(env, puck):
            return self._push(env, plan, puck, left)
        reference, gap = self._follow(env, plan, plan.end_time("approach"))
        arrived = self._progress >= plan.end_time("approach")
        if np.linalg.norm(puck - self._planned_puck) > MOVED or gap > ASTRAY or arrived:
            return self._replan(env)
        return reference

    def _follow(self, env: KomoEnv, plan: Plan, end: float) -> tuple[Array, float]:
        """The next joint reference (7,) on the plan, and the tip's distance in m from the plan.

        The arm continues from the plan's point that is nearest to the commanded tip. A plan may
        pass a place twice, on the way up and down, so the point is searched from the last one on.
        """
        ahead = np.linspace(self._progress, min(self._progress + 2 * CONTROL_PERIOD, end), 21)
        tips = np.stack([np.interp(ahead, plan.times, column) for column in plan.tool.T], axis=1)
        gaps = np.linalg.norm(tips - env.controller.ee_command, axis=1)
        self._progress = float(ahead[np.argmin(gaps)])
        return plan.at(min(self._progress + CONTROL_PERIOD, end)), float(gaps.min())

    def _push(self, env: KomoEnv, plan: Plan, puck: Array, left: float) -> Array:
        """The joint reference (7,) that moves the stick to the puck's rear, one period ahead.

        The puck is steered like a car: toward a point of its way a little ahead of it (pure
        pursuit). It moves in the direction from the stick to its center. While the stick moves from
        its present contact to the next one, that direction is the mean of both, so the next contact
        mirrors the present one at the heading; the stick moves farther by the drag of the puck.
        """
        tip, command = env.controller.coordinates(env.state.q), env.controller.ee_command
        heading = self._heading(puck)
        gap = _gap(env, tip, puck)
        speed = max(float(np.linalg.norm(env.state.body_velocities[PUCK, :2])), FIRST_SPEED)
        speed += PUSH_ACCELERATION * CONTROL_PERIOD
        speed = min(speed, TOOL_SPEED["push"], float(np.sqrt(2 * PUSH_ACCELERATION * left)))
        advance = min(speed * CONTROL_PERIOD - gap, left)
        turn = 0.0
        if gap < TOUCHING:
            turn = (2 / (1 - DRAG) - 1) * _angle(_direction(tip[:2], puck), heading)
            turn = float(np.clip(turn, -LARGEST_TURN, LARGEST_TURN))
        # A heavy puck holds the stick back, so its target is moved ahead by as much.
        yielded = np.clip((command - tip)[:2] @ heading, 0.0, LARGEST_YIELD)
        spot = puck + (advance + yielded) * heading - _contact(env) * _rotate(heading, turn)
        step = spot - command[:2]
        step *= min(1.0, LARGEST_STEP / max(float(np.linalg.norm(step)), 1e-9))
        wanted = np.array([*(command[:2] + step), PUSH_HEIGHT])
        first, last = plan.ends["approach"], plan.ends["push"] + 1
        nearest = first + np.argmin(np.linalg.norm(plan.tool[first:last] - wanted, axis=1))
        return env.controller.solve(wanted, rest=plan.path[nearest])

    def _heading(self, puck: Array) -> Array:
        """Direction (2,) in which the puck should move."""
        gone = self._route.distance(puck)
        ahead = LOOKAHEAD_IN_BENDS if gone < self._route.last_bend else LOOKAHEAD
        return _direction(puck, self._route.at(gone + ahead))

    def _is_behind(self, env: KomoEnv, puck: Array) -> bool:
        """Whether the stick is in contact behind the puck, or near enough to push it."""
        tip = env.controller.coordinates(env.state.q)
        turn = _angle(_direction(tip[:2], puck), self._heading(puck))
        low = bool(tip[2] <= PUSH_HEIGHT + LOST_HEIGHT)
        return low and abs(turn) <= LOST_ANGLE and _gap(env, tip, puck) <= LOST_GAP


def _puck(env: KomoEnv) -> Array:
    """Position (2,) of the puck's center, m."""
    return env.state.body_poses[PUCK, :2]


def _contact(env: KomoEnv) -> float:
    """Distance in m between the axes of puck and stick when they touch."""
    return puck_radius(env.scene) + STICK_RADIUS


def _gap(env: KomoEnv, tip: Array, puck: Array) -> float:
    """Distance in m between stick and puck."""
    return float(np.linalg.norm(puck - tip[:2])) - _contact(env)


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
