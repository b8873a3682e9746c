"""Baselines that ignore observations: random actions, and zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policies.base import Observation, batch_shape


class RandomPolicy:
    """Samples every action uniformly from the action space.

    Args:
        observation_space: Tells a batch of observations from a single one.
        action_space: Bounded.
        seed: Seed of the random generator; ``set_random_seed`` sets it again.
    """

    name = "random"
    privileged = False

    def __init__(
        self, observation_space: spaces.Dict, action_space: spaces.Box, seed: int = 0
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.set_random_seed(seed)

    def set_random_seed(self, seed: int) -> None:
        """Make the following actions depend on ``seed`` alone."""
        # The environment samples its scene from default_rng(seed): the word keeps the two apart.
        self._rng = np.random.default_rng([seed, *b"policy"])

    def predict(
        self,
        obs: Observation,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """A random action (A,), or (B, A) for a batch, whatever the observation."""
        shape = (*batch_shape(obs, self.observation_space), *self.action_space.shape)
        action = self._rng.uniform(self.action_space.low, self.action_space.high, shape)
        return action.astype(self.action_space.dtype), state


class ZeroPolicy:
    """Always returns the zero action, clipped to the action space.

    Args:
        observation_space: Tells a batch of observations from a single one.
        action_space: Its bounds clip the zeros.
    """

    name = "zero"
    privileged = False

    def __init__(self, observation_space: spaces.Dict, action_space: spaces.Box) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def predict(
        self,
        obs: Observation,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """The same action (A,), or (B, A) for a batch, whatever the observation."""
        shape = (*batch_shape(obs, self.observation_space), *self.action_space.shape)
        zeros = np.zeros(shape, self.action_space.dtype)
        return np.clip(zeros, self.action_space.low, self.action_space.high), state
