"""A policy plays in an env: how training sees what it has reached, and collecting what it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from policies.base import Policy


def infos(policy: Policy, env: gym.Env[Any, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Play the episode of a seed; yield ``info`` after every step."""
    if hasattr(policy, "set_random_seed"):
        policy.set_random_seed(seed)
    observation, _ = env.reset(seed=seed)
    state, start, over = None, True, False
    while not over:
        action, state = policy.predict(observation, state, np.array([start]))
        observation, _, terminated, truncated, info = env.step(action)
        start, over = False, terminated or truncated
        yield info


def successes(policy: Policy, env: gym.Env[Any, Any], seeds: Sequence[int]) -> list[bool]:
    """Whether each seed's episode ends in success."""
    return [bool([*infos(policy, env, seed)][-1]["is_success"]) for seed in seeds]
