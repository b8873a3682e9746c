"""KOMO experts: privileged policies that see the true state, plan, and plan again."""

from __future__ import annotations

import gymnasium as gym

import komo_envs  # noqa: F401 - registers the ids
from experts.planning import Plan
from experts.push import PushExpert

__all__ = ["Plan", "PushExpert", "make_expert"]

_EXPERTS = {"push": PushExpert, "push-fixed": PushExpert}


def make_expert(env_id: str) -> PushExpert:
    """The expert for a registered env; ``attach`` it to one before use.

    Raises:
        ValueError: there is none.
    """
    task = gym.spec(env_id).kwargs.get("task")
    if task not in _EXPERTS:
        raise ValueError(f"env: {env_id!r} has no expert")
    return _EXPERTS[task]()
