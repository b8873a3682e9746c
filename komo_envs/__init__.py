"""Gymnasium environments for manipulation without grasping. Importing this registers their ids."""

from typing import Any

from gymnasium.envs.registration import register

_PUSH = "komo_envs.tasks.push:Push"

_SHELF = "komo_envs.tasks.shelf:Shelf"

_ENVS: dict[str, dict[str, Any]] = {
    "KomoPush-v0": {"task": _PUSH},
    "KomoPushPixels-v0": {"task": _PUSH, "obs_mode": "rgb"},
    "KomoPushRandomized-v0": {"task": _PUSH, "randomize": "all"},
    "KomoPushFixed-v0": {"task": _PUSH, "success_radius": 0.05, "fixed_target": (0.3, 0.15)},
    "KomoPushHard-v0": {
        "task": _PUSH,
        "success_radius": 0.01,
        "puck_radius": (0.03, 0.05),
        "puck_mass": (0.05, 1.0),
        "puck_friction": (0.2, 1.0),
        "obstacles": (1, 3),
    },
    "KomoShelf-v0": {"task": _SHELF, "control_mode": "joint"},
    "KomoShelfPixels-v0": {"task": _SHELF, "control_mode": "joint", "obs_mode": "rgb"},
    "KomoShelfRandomized-v0": {"task": _SHELF, "control_mode": "joint", "randomize": "all"},
    "KomoShelfFixed-v0": {
        "task": _SHELF,
        "control_mode": "joint",
        "yaw": (0.0, 0.0),
        "lateral_range": 0.04,
        "success_radius": 0.05,
    },
    "KomoShelfHard-v0": {
        "task": _SHELF,
        "control_mode": "joint",
        "yaw": (-0.5, 0.5),
        "cuboid_width": (0.04, 0.08),
        "cuboid_depth": (0.07, 0.12),
        "cuboid_height": (0.12, 0.18),
        "cuboid_mass": (0.1, 1.0),
        "cuboid_friction": (0.2, 0.7),
        "neighbours": (1, 2),
        "min_clearance": 0.018,
    },
}

for _id, _kwargs in _ENVS.items():
    register(_id, "komo_envs.env:KomoEnv", max_episode_steps=150, kwargs=_kwargs)
