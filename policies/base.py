"""The policy contract: ``predict``, with the signature of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from komo_envs.utils.foreign_code import ForeignError, foreign_code

ENV_OPTIONS = ("obs_mode", "control_mode", "image_size", "cameras", "shadows")
"""Options of ``gym.make`` that a policy may set: observations and actions, not the task."""

Observation = Mapping[str, Any]
"""Arrays by name; with several cameras, dicts of arrays under ``pixels`` and ``depth``. Each has
its shape in the observation space, or a batch axis B before it."""


class Policy(Protocol):
    """Maps observations to actions.

    A policy may also have the members below. All are optional, so a model of Stable-Baselines3 is a
    policy as it stands.

    - ``name: str``: display name; by default the name of its class.
    - ``env_options: Mapping[str, Any]``: the keyword arguments of ``gym.make`` that its
      observations and actions need, of ``ENV_OPTIONS``; by default those of the environment.
    - ``sha256: str``: hexadecimal, over all files that it reads besides its own source, such as
      weights. The hash of a policy of a Python file is of that file and of this; without it two
      checkpoints have one hash.
    - ``training: Mapping[str, Any]``: what it took to train: ``parameters`` and
      ``demonstrations``, numbers, ``minutes``, and ``hardware`` in words.
    - ``privileged: bool``: whether it observes the state of the simulation, as all do with
      ``obs_mode="state"``. If it also has ``attach(env)``, that is called once with its
      environment, before the first episode there: so an expert gets the state.
    - ``set_random_seed(seed: int)``: called before every episode, so that random numbers of the
      policy depend on the episode alone. All other state is reset at ``episode_start``.
    - ``failure: str | None``: after an episode, why the policy failed, if it knows.
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
            state: The second value that the previous call in this episode returned.
            episode_start: Booleans (B,), or (1,) for one observation: True where a new episode
                begins, and ``state`` must be forgotten.
            deterministic: Whether to act without exploration.

        Returns:
            The action, shape (A,), or (B, A) for a batch, and the state for the next call.
        """


def env_options_of(policy: Policy) -> dict[str, Any]:
    """The options of ``gym.make`` that a policy sets.

    Raises:
        ValueError: One of them is not in ``ENV_OPTIONS``, or they are no mapping.
    """
    try:
        with foreign_code():
            options = dict(getattr(policy, "env_options", {}))
    except ForeignError as error:
        raise ValueError(f"env_options of the policy: {error}") from error
    for name in options:
        if name not in ENV_OPTIONS:
            raise ValueError(
                f"env_options of the policy: {name!r}: expected some of {', '.join(ENV_OPTIONS)}"
            )
    return options


def batch_shape(obs: Observation, space: spaces.Dict) -> tuple[int, ...]:
    """Batch shape of an observation: ``()`` for one of ``space``, ``(B,)`` for a batch of B.

    Raises:
        ValueError: The observation is neither.
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
