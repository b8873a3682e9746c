"""What a policy is: anything with ``predict``, the signature of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Observation = Mapping[str, Any]
"""Arrays by name (with several cameras, dicts of arrays under ``pixels`` and ``depth``), each with
the shape that the observation space says, or with a batch axis B before it."""


class Policy(Protocol):
    """Maps observations to actions.

    A policy may also have the members below. Whoever runs it looks them up, so a model of
    Stable-Baselines3 is a policy as it stands.

    - ``name: str``: what to call it; else the name of its class.
    - ``env_options: Mapping[str, Any]``: the keyword arguments of ``gym.make`` that its
      observations and actions ask for; else the environment's defaults.
    - ``learning: Mapping[str, Any]``: what it took to train: ``parameters`` and
      ``demonstrations``, numbers, ``minutes``, and ``hardware`` in words.
    - ``privileged: bool``: whether it sees the state of the simulation.
    - ``attach(env)``: is called once with its environment, before its first episode there. An
      expert sees the state so.
    - ``set_random_seed(seed: int)``: called before every episode, so that what the policy draws
      depends on the episode alone. Whatever else it remembers starts anew at ``episode_start``.
    - ``failure: str | None``: after an episode, why the policy could not solve it, if it knows.
    """

    def predict(
        self,
        obs: Observation,
        /,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """Choose the next action.

        Args:
            obs: One observation, or a batch of B.
            state: What the previous call in this episode returned as second value.
            episode_start: Booleans (B,), or (1,) for one observation: True where a new episode
                begins, and ``state`` must be forgotten.
            deterministic: Whether to act without exploration.

        Returns:
            The action, shape (A,), or (B, A) for a batch, and the state for the next call.
        """
