"""The base class of experts: privileged policies that plan from the true state of their env."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from experts.komo.problem import SOS, Plan, Problem
from experts.komo.route import LEFT, RIGHT
from komo_envs.entities import Array
from komo_envs.env import KomoEnv
from komo_envs.tasks import Scene
from komo_envs.worlds import CONTROL_PERIOD
from komo_envs.worlds.rai import ry

POSTURES = (-0.4, 0.0, 0.4)
"""Null-space postures: angles of joint 3, rad, which move the elbow to a side."""
BENDS = (-1, 0, 1)
FARTHEST_VIA = (0.06, 0.06)
"""Largest distances of the approach's via point from the middle of its way: lateral, upward; m."""


@dataclass(frozen=True)
class Style:
    """Choices of an expert for one episode, where a task can be solved in several ways."""

    side: int | None = None
    """``LEFT`` or ``RIGHT`` where an object can be passed on two sides; None for the better one."""
    bend: int = 0
    """Way of an object without obstacles: straight (0), or through a via point to the left (1) or
    to the right (-1)."""
    via: tuple[float, float] | None = None
    """Via point of the approach: lateral, -1 to 1, and up, 0 to 1, in ``FARTHEST_VIA``; None for
    none."""
    posture: float = 0.0
    """Null-space posture: angle of joint 3, rad, which moves the elbow and not the tool."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Style:
        """A random style, uniform in each of its fields."""
        return cls(
            side=int(rng.choice([LEFT, RIGHT])),
            bend=int(rng.choice(BENDS)),
            via=(float(rng.uniform(-1.0, 1.0)), float(rng.uniform(0.0, 1.0))),
            posture=float(rng.choice(POSTURES)),
        )


class Expert(ABC):
    """A policy that plans from the true state of the env that it is attached to.

    A subclass has at least a ``plan``, which is then made once an episode and executed open loop;
    with an ``act`` of its own it can close the loop. The rest is common to all tasks: an expert
    acts in every control mode, and starts again with every episode.
    """

    name = "expert"
    privileged = True
    task: ClassVar[type]
    """Class of the tasks that it solves."""

    def __init__(self, sample_side: bool = False, diverse: bool = False) -> None:
        """Make an expert; ``attach`` it to an env before use.

        Args:
            sample_side: Whether to sample the side in each episode where an object can be passed
                on both, rather than to take the better one: the expert then has two modes.
            diverse: Whether to sample the whole style in each episode: the side, via points, and
                the null-space posture (which has an effect in control mode ``joint`` only).
        """
        self.sample_side = sample_side
        self.diverse = diverse
        self.plan_seconds: list[float] = []
        """Wall time of every plan made so far, s."""
        self.rng = np.random.default_rng(0)
        self._env: KomoEnv | None = None
        self._clone: KomoEnv | None = None
        self._scene: Scene = {}
        self.begin()

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Give the expert the env whose true state it sees.

        Raises:
            ValueError: the env's task is not the expert's.
        """
        self.close()
        self._env, self._scene = self.own(env), {}

    def close(self) -> None:
        """Close the clone that ``label`` has made; the attached env stays open."""
        if self._clone is not None:
            self._clone.close()
            self._clone = None

    def set_random_seed(self, seed: int) -> None:
        """Seed what the expert samples from here on, as is done before every episode."""
        # The scene is sampled from default_rng(seed): the word keeps the two apart.
        self.rng = np.random.default_rng([seed, *b"style"])

    def predict(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """The next action (A,) of the attached env, in its control mode, and None.

        The arguments are those of every policy; the expert uses the env's state instead.

        Raises:
            RuntimeError: no env is attached, or it has not been reset.
        """
        if self._env is None:
            raise RuntimeError("the expert has no env: call attach(env) first")
        return self._env.controller.encode(self.reference(self._env)), None

    def reference(self, env: gym.Env[Any, Any]) -> Array:
        """The joint reference (7,), rad, that the expert wants next in the attached env.

        Raises:
            RuntimeError: the env has not been reset.
        """
        unwrapped = self.own(env)
        unwrapped.state  # noqa: B018 - raises if there is none
        return self.act(unwrapped)

    def label(self, env: gym.Env[Any, Any], steps: int = 8) -> Array:
        """The expert's next actions from the attached env's present state, whoever acted before.

        The first is that of ``predict``. The others are exact, too: a clone of the env is brought
        into the same state by the same actions, and the expert acts there. Nothing moves in the env
        itself.

        Args:
            env: The attached env; wrappers do not matter.
            steps: Number of actions T; 1 needs no clone.

        Returns:
            Actions (T, A), float32, in the env's control mode.

        Raises:
            RuntimeError: the env has not been reset.
        """
        unwrapped = self.own(env)
        actions = [unwrapped.controller.encode(self.reference(unwrapped))]
        if steps > 1:
            clone = self._clone_of(unwrapped)
            clone.reset(options={"scene": unwrapped.scene})
            for action in unwrapped.actions:
                clone.step(action)
            other = copy.copy(self)
            other._env = clone
            other._scene = clone.scene
            while len(actions) < steps:
                clone.step(actions[-1])
                actions.append(clone.controller.encode(other.reference(clone)))
        return np.stack(actions)

    def _clone_of(self, env: KomoEnv) -> KomoEnv:
        """The clone of the attached env, made at the first call and closed with the expert."""
        if self._clone is None:
            self._clone = env.clone()
        return self._clone

    def own(self, env: gym.Env[Any, Any]) -> KomoEnv:
        """The env under all wrappers. If it is the attached one, and was reset, begin an episode.

        Raises:
            ValueError: its task is not the expert's.
        """
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, KomoEnv) or not isinstance(unwrapped.task, self.task):
            raise ValueError(f"env: {env} is not a {self.task.__name__.lower()} task")
        if unwrapped is self._env and unwrapped.scene is not self._scene:
            self._scene = unwrapped.scene  # every reset makes a new one
            self.begin()
            self.style = self.possible_style(unwrapped)
        return unwrapped

    @abstractmethod
    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state; nothing moves. The plan may be infeasible."""

    def begin(self) -> None:
        """Forget the last episode, and sample a style for this one if it is to be sampled."""
        self.failure: str | None = None
        """Reason why the episode cannot be solved from the present state; None if there is none."""
        self.style = Style()
        if self.diverse:
            self.style = Style.sample(self.rng)
        elif self.sample_side:
            self.style = Style(side=int(self.rng.choice([LEFT, RIGHT])))
        self._plan: Plan | None = None
        self._gave_up: list[Array] | None = None

    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad: the plan's, or the last one if there is none."""
        if self._plan is None:
            self._plan = self.make_plan(env)
        if self._plan is None:
            return env.controller.command
        return self._plan.at(env.state.time + CONTROL_PERIOD)

    def possible_style(self, env: KomoEnv) -> Style:
        """The episode's style without the fields that have no effect in this env or scene."""
        return self.style if env.control_mode == "joint" else replace(self.style, posture=0.0)

    def add_style(self, problem: Problem, start: Array, end: Array) -> None:
        """Add the episode's style to the problem of a plan whose first phase is the approach.

        Args:
            problem: Problem of the plan.
            start: Position of the tool (3,), world frame, m.
            end: Position of the tool at the end of the approach (3,), world frame, m.
        """
        if self.style.posture:
            joint = np.zeros((1, 7))
            joint[0, 2] = 1.0
            target = np.zeros(7)
            target[2] = self.style.posture
            problem.add("null-space posture", SOS, [], ry.FS.qItself, [], joint, target)
        if self.style.via is not None:
            lateral, up = self.style.via * np.array(FARTHEST_VIA)
            along = end[:2] - start[:2]
            along /= max(float(np.linalg.norm(along)), 1e-9)
            left = np.array([-along[1], along[0], 0.0])
            via = (start + end) / 2 + lateral * left + [0.0, 0.0, up]
            problem.add("via point", SOS, [0.5], ry.FS.position, ["tool"], 10, via)

    def make_plan(self, env: KomoEnv) -> Plan | None:
        """A plan that can be executed; None, with the reason in ``failure``, if none is found.

        After a failure, planning is not tried again until something has moved.
        """
        now = [env.controller.command, env.state.body_poses]
        if self._gave_up and all(map(np.allclose, now, self._gave_up)):
            return None
        plan = self.plan(env)
        self.plan_seconds.append(plan.solve_seconds)
        self.failure = None
        if not plan.feasible:
            self.failure = "no feasible plan"
        elif not all(env.task.is_safe(*env.controller.kinematics.poses(q)) for q in plan.path):
            self.failure = "the plan leaves the workspace"
        plain = Style(self.style.side)
        if self.failure and self.style != plain:
            self.style = plain  # as some via points are out of reach
            return self.make_plan(env)
        self._gave_up = now if self.failure else None
        return None if self.failure else plan
