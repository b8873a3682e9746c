"""What every expert is: a policy that is handed its env, sees the true state, and plans."""

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

ELBOWS = (-0.4, 0.0, 0.4)
"""rad by which joint 3 may be drawn to a side, which brings the elbow there."""
BENDS = (-1, 0, 1)
FARTHEST_VIA = (0.06, 0.06)
"""m to the side and upward that the approach may go from half its way."""


@dataclass(frozen=True)
class Style:
    """How an expert does what can be done in several ways. Drawn anew in each episode."""

    side: int | None = None
    """``LEFT`` or ``RIGHT`` where an object can be passed on two sides; None for the better one."""
    bend: int = 0
    """Whether an object that need not be passed by goes straight (0), or by a point to the left (1)
    or to the right (-1)."""
    via: tuple[float, float] | None = None
    """How far to the side, -1 to 1, and how high, 0 to 1, the approach goes; None for neither."""
    elbow: float = 0.0
    """rad that joint 3 is drawn to: it moves the elbow to a side, and not the tool."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Style:
        """A style of every kind there is, each alike."""
        return cls(
            side=int(rng.choice([LEFT, RIGHT])),
            bend=int(rng.choice(BENDS)),
            via=(float(rng.uniform(-1.0, 1.0)), float(rng.uniform(0.0, 1.0))),
            elbow=float(rng.choice(ELBOWS)),
        )


class Expert(ABC):
    """A closed-loop policy that acts on the true state of the env it is attached to.

    A subclass has at least a ``plan``, which is then made once an episode and followed blindly;
    with an ``act`` of its own it can look at what happens. The rest is the same for all tasks: an
    expert acts in every control mode, and begins anew with every episode.
    """

    name = "expert"
    privileged = True
    task: ClassVar[type]
    """The class of tasks that it solves."""

    def __init__(self, draw_side: bool = False, diverse: bool = False) -> None:
        """Make an expert; ``attach`` it to an env before use.

        Args:
            draw_side: Where an object can be passed on two sides, whether to draw one of them in
                each episode, rather than take the better. So an expert has two modes.
            diverse: Whether to draw all of its style in each episode: the side, by-ways, the
                elbow's posture (which shows in control mode ``joint`` alone).
        """
        self.draw_side = draw_side
        self.diverse = diverse
        self.plan_seconds: list[float] = []
        """Wall time of every plan made so far."""
        self.rng = np.random.default_rng(0)
        self._env: KomoEnv | None = None
        self._twin: KomoEnv | None = None
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
        """Free what ``label`` has made; the attached env stays as it is."""
        if self._twin is not None:
            self._twin.close()
            self._twin = None

    def set_random_seed(self, seed: int) -> None:
        """What the expert draws from here on, as the harness sets it before every episode."""
        # The scene is drawn from default_rng(seed): the word keeps the two apart.
        self.rng = np.random.default_rng([seed, *b"style"])

    def predict(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """The next action (A,) of the attached env, in its control mode, and None.

        The arguments are those of every policy; the expert looks at none, but at the env's state.

        Raises:
            RuntimeError: no env is attached, or it has not been reset.
        """
        if self._env is None:
            raise RuntimeError("the expert sees no env yet: call attach(env) first")
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
        """The expert's next actions from the attached env's present state, whoever led there.

        The first is what ``predict`` gives. The others are what follows if they are carried out,
        and no guess: a twin of the env is brought into the same state, by the same actions, and
        the expert goes on there. Nothing moves in the env itself.

        Args:
            env: The attached env; wrappers do not matter.
            steps: How many, T; 1 takes no twin.

        Returns:
            Actions (T, A), float32, in the env's control mode.

        Raises:
            RuntimeError: the env has not been reset.
        """
        unwrapped = self.own(env)
        actions = [unwrapped.controller.encode(self.reference(unwrapped))]
        if steps > 1:
            twin = self._twin_of(unwrapped)
            twin.reset(options={"scene": unwrapped.scene})
            for action in unwrapped.actions:
                twin.step(action)
            other = copy.copy(self)
            other._env, other._scene = twin, twin.scene
            while len(actions) < steps:
                twin.step(actions[-1])
                actions.append(twin.controller.encode(other.reference(twin)))
        return np.stack(actions)

    def _twin_of(self, env: KomoEnv) -> KomoEnv:
        """The twin of the attached env: made when first asked for, and closed with the expert."""
        if self._twin is None:
            self._twin = env.clone()
        return self._twin

    def own(self, env: gym.Env[Any, Any]) -> KomoEnv:
        """The env under all wrappers; if it is the attached one, and was reset, the expert begins.

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
        """Plan from the env's present state; nothing moves. An infeasible plan says so."""

    def begin(self) -> None:
        """Forget the last episode, and draw a style for this one if it is to be drawn."""
        self.failure: str | None = None
        """Why the episode cannot be solved as things are."""
        self.style = Style()
        if self.diverse:
            self.style = Style.draw(self.rng)
        elif self.draw_side:
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
        """The episode's style without what has no effect in this env, or in this scene."""
        return self.style if env.control_mode == "joint" else replace(self.style, elbow=0.0)

    def add_style(self, problem: Problem, start: Array, end: Array) -> None:
        """Let a plan whose first phase is the approach have the episode's style.

        Args:
            problem: The plan's.
            start: Where the tool is, (3,), m.
            end: Where the approach brings it, (3,), m.
        """
        if self.style.elbow:
            joint = np.zeros((1, 7))
            joint[0, 2] = 1.0
            target = np.zeros(7)
            target[2] = self.style.elbow
            problem.add("elbow", SOS, [], ry.FS.qItself, [], joint, target)
        if self.style.via is not None:
            aside, up = self.style.via * np.array(FARTHEST_VIA)
            along = end[:2] - start[:2]
            along /= max(float(np.linalg.norm(along)), 1e-9)
            left = np.array([-along[1], along[0], 0.0])
            via = (start + end) / 2 + aside * left + [0.0, 0.0, up]
            problem.add("by-way", SOS, [0.5], ry.FS.position, ["tool"], 10, via)

    def make_plan(self, env: KomoEnv) -> Plan | None:
        """A plan that can be executed; None, and the reason in ``failure``, if there is none.

        Where none was found it is not tried again until something has moved.
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
            self.style = plain  # as some by-ways are out of reach
            return self.make_plan(env)
        self._gave_up = now if self.failure else None
        return None if self.failure else plan
