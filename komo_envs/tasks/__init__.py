"""The tasks, by the names that the registered ids use."""

from collections.abc import Callable, Mapping

from komo_envs.tasks.base import EndEffector, Scene, Task
from komo_envs.tasks.push import Push

__all__ = ["TASKS", "EndEffector", "Scene", "Task"]

TASKS: Mapping[str, Callable[[], Task]] = {
    "push": Push,
    "push-fixed": lambda: Push(success_radius=0.05, fixed_target=(0.3, 0.15)),
}
