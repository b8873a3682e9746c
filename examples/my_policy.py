"""A policy of your own: copy this, fill it in, and score it.

python -m benchmark.run --policy examples/my_policy.py:MyPolicy --env KomoPush-v0 --trust-code
"""

import hashlib
import pathlib

import numpy as np

WEIGHTS = []  # the files of your network: [pathlib.Path("checkpoint.pt")]


class MyPolicy:
    name = "my policy"
    sha256 = hashlib.sha256(b"".join(map(pathlib.Path.read_bytes, WEIGHTS))).hexdigest()
    env_options = {"obs_mode": "rgb", "control_mode": "ee"}  # of gym.make

    def __init__(self, env_id):
        pass  # load your network

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        """obs: dict of arrays, here pixels (96, 96, 3), agent_pos (20,) and goal (2,)."""
        first_step = state is None or episode_start.any()
        step = 0 if first_step else state + 1  # any state, which the next call gets back
        over_goal = np.array([*obs["goal"][:2], 0.75], np.float32)
        return over_goal, step
