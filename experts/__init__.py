"""KOMO experts: privileged policies that see the true state, plan, and plan again."""

from __future__ import annotations

import gymnasium as gym

import komo_envs  # noqa: F401 - registers the ids
from experts.base import Expert
from experts.planning import Plan
from experts.push import PushExpert

__all__ = ["EXPERTS", "Expert", "Plan", "PushExpert", "make_expert"]

EXPERTS: dict[str, type[Expert]] = {
    "komo_envs.tasks.push:Push": PushExpert,
}
"""The expert of each task, by the ``task`` that its ids are registered with."""


def make_expert(env_id: str, draw_side: bool = False) -> Expert:
    """The expert for a registered env; ``attach`` it to one before use.

    Args:
        env_id: A registered id.
        draw_side: See ``Expert``.

    Raises:
        ValueError: there is none.
    """
    task = gym.spec(env_id).kwargs.get("task")
    if task not in EXPERTS:
        raise ValueError(f"env: {env_id!r} has no expert")
    return EXPERTS[task](draw_side)
