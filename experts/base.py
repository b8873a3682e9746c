"""What every expert is: a policy that is handed its env, sees the true state, and plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from experts.planning import Plan
from komo_envs.env import KomoEnv
from komo_envs.scene import Array


class Expert(ABC):
    """A closed-loop policy that acts on the true state of the env it is attached to.

    A subclass says what to do next; the rest is the same for all tasks: it acts in every control
    mode, begins anew with every episode, and keeps the time that its plans took.
    """

    name = "expert"
    privileged = True
    task: ClassVar[type]
    """The class of tasks that it solves."""

    def __init__(self, draw_side: bool = False) -> None:
        """Make an expert; ``attach`` it to an env before use.

        Args:
            draw_side: Where an object can be gone about from two sides, whether to draw one of
                those that are free, rather than take the better. So an expert has two modes.
        """
        self.draw_side = draw_side
        self.failure: str | None = None
        """Why the episode cannot be solved, once that is known."""
        self.plan_seconds: list[float] = []
        """Wall time of every plan made so far."""
        self.rng = np.random.default_rng(0)
        self._env: KomoEnv | None = None

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Give the expert the env whose true state it sees.

        Raises:
            ValueError: the env's task is not the expert's.
        """
        self._env = self.own(env)
        self.begin()

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
        if self._env.state.time == 0.0:
            self.failure = None
            self.begin()
        return self._env.controller.encode(self.act(self._env)), None

    def own(self, env: gym.Env[Any, Any]) -> KomoEnv:
        """The env under all wrappers.

        Raises:
            ValueError: its task is not the expert's.
        """
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, KomoEnv) or not isinstance(unwrapped.task, self.task):
            raise ValueError(f"env: {env} is not a {self.task.__name__.lower()} task")
        return unwrapped

    @abstractmethod
    def plan(self, env: gym.Env[Any, Any]) -> Plan:
        """Plan from the env's present state; nothing moves. An infeasible plan says so."""

    @abstractmethod
    def begin(self) -> None:
        """Forget the last episode."""

    @abstractmethod
    def act(self, env: KomoEnv) -> Array:
        """The next joint reference (7,), rad."""
