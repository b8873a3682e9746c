"""What every expert is: a policy that is handed its env, sees the true state, and plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from experts.planning import Plan
from experts.route import LEFT, RIGHT
from komo_envs.env import KomoEnv
from komo_envs.scene import Array
from komo_envs.tasks import Scene
from komo_envs.worlds import CONTROL_PERIOD


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

    def __init__(self, draw_side: bool = False) -> None:
        """Make an expert; ``attach`` it to an env before use.

        Args:
            draw_side: Where an object can be passed on two sides, whether to draw one of them in
                each episode, rather than take the better. So an expert has two modes.
        """
        self.draw_side = draw_side
        self.plan_seconds: list[float] = []
        """Wall time of every plan made so far."""
        self.rng = np.random.default_rng(0)
        self._env: KomoEnv | None = None
        self._scene: Scene = {}
        self.begin()

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Give the expert the env whose true state it sees.

        Raises:
            ValueError: the env's task is not the expert's.
        """
        self._env, self._scene = self.own(env), {}

    def set_random_seed(self, seed: int) -> None:
        """What the expert draws from here on, as the harness sets it before every episode."""
        self.rng = np.random.default_rng(seed)

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
        self._env.state  # noqa: B018 - raises if there is none
        return self._env.controller.encode(self.act(self.own(self._env))), None

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
        return unwrapped

    @abstractmethod
    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state; nothing moves. An infeasible plan says so."""

    def begin(self) -> None:
        """Forget the last episode, and draw a side for this one if it is to be drawn."""
        self.failure: str | None = None
        """Why the episode cannot be solved as things are."""
        self.side = int(self.rng.choice([LEFT, RIGHT])) if self.draw_side else None
        """``LEFT`` or ``RIGHT``, None if it is not drawn."""
        self._plan: Plan | None = None
        self._gave_up: list[Array] | None = None

    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad: the plan's, or the last one if there is none."""
        if self._plan is None:
            self._plan = self.make_plan(env)
        if self._plan is None:
            return env.controller.command
        return self._plan.at(env.state.time + CONTROL_PERIOD)

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
        self._gave_up = now if self.failure else None
        return None if self.failure else plan
