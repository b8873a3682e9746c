"""Policies that look at nothing: what any other has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policies.base import Observation


class RandomPolicy:
    """Draws every action uniformly from the action space.

    Args:
        observation_space: Tells a batch of observations from a single one.
        action_space: Bounded.
        seed: Of the random generator; ``set_random_seed`` starts it anew.
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
        """Let the actions that follow depend on ``seed`` alone."""
        # The environment draws its scene from default_rng(seed): the word keeps the two apart.
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
    """Always gives the action of zeros, or the one nearest to it in the action space.

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


def batch_shape(obs: Observation, space: spaces.Dict) -> tuple[int, ...]:
    """``()`` for one observation of ``space``, ``(B,)`` for a batch of B.

    Raises:
        ValueError: It is neither.
    """
    key, part = next(iter(space.items()))  # one entry tells: all have the batch axis, or none
    if key not in obs:
        raise ValueError(f"observation: {key!r} is missing, got {sorted(obs)}")
    if isinstance(part, spaces.Dict):  # the images of several cameras
        return batch_shape(obs[key], part)
    shape, single = np.shape(obs[key]), part.shape
    assert single is not None  # our observations hold only arrays
    if shape == single:
        return ()
    if shape[1:] == single:
        return shape[:1]
    raise ValueError(f"observation[{key!r}]: expected {single} or (B, *{single}), got {shape}")
