"""The tasks, one file each."""

from komo_envs.tasks.base import EndEffector, Scene, Task

__all__ = ["EndEffector", "Scene", "Task"]
