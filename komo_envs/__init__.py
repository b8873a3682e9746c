"""Gymnasium environments for manipulation without grasping. Importing this registers their ids."""

from typing import Any

from gymnasium.envs.registration import register

_PUSH = "komo_envs.tasks.push:Push"

_ENVS: dict[str, dict[str, Any]] = {
    "KomoPush-v0": {"task": _PUSH},
    "KomoPushPixels-v0": {"task": _PUSH, "obs_mode": "rgb"},
    "KomoPushFixed-v0": {"task": _PUSH, "success_radius": 0.05, "fixed_target": (0.3, 0.15)},
}

for _id, _kwargs in _ENVS.items():
    register(_id, "komo_envs.env:KomoEnv", max_episode_steps=150, kwargs=_kwargs)
