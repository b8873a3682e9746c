"""KOMO experts: privileged policies that plan from the true state, and replan."""

from __future__ import annotations

from experts.base import Expert, Style
from experts.komo.problem import Plan
from experts.push import PushExpert
from experts.shelf import ShelfExpert
from komo_envs.registration import find_spec

__all__ = ["EXPERTS", "Expert", "Plan", "PushExpert", "ShelfExpert", "Style", "make_expert"]

EXPERTS: dict[str, type[Expert]] = {
    "komo_envs.tasks.push:Push": PushExpert,
    "komo_envs.tasks.shelf:Shelf": ShelfExpert,
}
"""Expert classes, by the ``task`` that the ids of a task are registered with."""


def make_expert(env_id: str, sample_side: bool = False, diverse: bool = False) -> Expert:
    """Make the expert for a registered env; ``attach`` it to one before use.

    Args:
        env_id: A registered id, or ``"module:Id"``.
        sample_side: See ``Expert``.
        diverse: See ``Expert``.

    Raises:
        ValueError: The env is not registered, or its task has no expert.
    """
    task = find_spec(env_id).kwargs.get("task")
    if task not in EXPERTS:
        raise ValueError(f"env: {env_id!r} has no expert: its task, {task!r}, is not in EXPERTS")
    return EXPERTS[task](sample_side, diverse)
