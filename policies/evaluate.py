"""Closed-loop success of a student on seeds: how training sees what it has reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from policies.base import Policy


def successes(policy: Policy, env: gym.Env[Any, Any], seeds: Sequence[int]) -> list[bool]:
    """Whether each seed's episode ends in success."""
    ends = []
    for seed in seeds:
        if hasattr(policy, "set_random_seed"):
            policy.set_random_seed(seed)
        observation, info = env.reset(seed=seed)
        state, start, over = None, True, False
        while not over:
            action, state = policy.predict(observation, state, np.array([start]))
            observation, _, terminated, truncated, info = env.step(action)
            start, over = False, terminated or truncated
        ends.append(bool(info["is_success"]))
    return ends
