"""Rollouts: a policy acts in an env until the episode ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np

from komo_envs.control import as_array
from policies.base import Policy


def rollout(
    policy: Policy,
    env: gym.Env[Any, Any],
    seed: int,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[dict[str, Any]]:
    """Play the episode of a seed; yield ``info`` after the reset and after every step.

    Args:
        policy: The policy.
        env: An env with its options.
        seed: Seed of the episode.
        guard: Makes the context in which code of the policy runs.

    Raises:
        ActionError: The policy gave an action that the environment refused.
    """
    with guard():
        if hasattr(policy, "set_random_seed"):
            policy.set_random_seed(seed)
    observation, info = env.reset(seed=seed)
    yield info
    state, start, over = None, True, False
    while not over:
        with guard():
            first = np.array([start])
            action, state = policy.predict(observation, state, first, deterministic=True)
            action = as_array(action)  # which may run code of the policy, too
        observation, _, terminated, truncated, info = env.step(action)
        start, over = False, terminated or truncated
        yield info


def successes(policy: Policy, env: gym.Env[Any, Any], seeds: Sequence[int]) -> list[bool]:
    """Whether the episode of each seed ends in success."""
    return [bool([*rollout(policy, env, seed)][-1]["is_success"]) for seed in seeds]
