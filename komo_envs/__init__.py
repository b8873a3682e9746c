"""Gymnasium environments for manipulation without grasping. Importing this registers their ids."""

from gymnasium.envs.registration import register

_ENTRY_POINT = "komo_envs.env:KomoEnv"
_PUSH = {"entry_point": _ENTRY_POINT, "max_episode_steps": 150}

register("KomoPush-v0", kwargs={"task": "push"}, **_PUSH)
register("KomoPushPixels-v0", kwargs={"task": "push", "obs_mode": "rgb"}, **_PUSH)
register("KomoPushFixed-v0", kwargs={"task": "push-fixed"}, **_PUSH)
