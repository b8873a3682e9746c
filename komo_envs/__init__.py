"""Gymnasium environments for manipulation without grasping. Importing this registers their ids."""

from typing import Any

from gymnasium.envs.registration import register

_PUSH: dict[str, dict[str, Any]] = {
    "KomoPush-v0": {"task": "push"},
    "KomoPushPixels-v0": {"task": "push", "obs_mode": "rgb"},
    "KomoPushFixed-v0": {"task": "push-fixed"},
}

for _id, _kwargs in _PUSH.items():
    register(_id, "komo_envs.env:KomoEnv", max_episode_steps=150, kwargs=_kwargs)
