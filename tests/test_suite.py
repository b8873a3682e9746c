"""What a version of the suite freezes: its seeds, and the scenes that they draw."""

from __future__ import annotations

import hashlib
import json

import gymnasium as gym
import pytest

from benchmark.protocol import ENVS, SUITE, TEST, TRAIN, VALIDATION

# A change here makes the scores on the leaderboard incomparable: it needs a new suite version.
SCENES = {
    "0.1": {
        "KomoPush-v0": "47d2021a3aa1624433ea183f756b6122a6f4aff7b541683c48aca841a4c3b29e",
    }
}


def test_the_splits_are_frozen() -> None:
    assert (TRAIN.start, TRAIN.stop) == (0, 1_000_000)
    assert (VALIDATION.start, VALIDATION.stop) == (1_000_000, 1_010_000)
    assert (TEST.start, TEST.stop) == (2_000_000, 2_010_000)


@pytest.mark.parametrize("env_id", ENVS)
def test_the_test_scenes_are_frozen(env_id: str) -> None:
    env = gym.make(env_id)
    scenes = []
    for seed in TEST[:500]:
        scene = env.reset(seed=seed)[1]["scene"]
        # To the nanometre, since the last digits of a sine are the machine's.
        scenes.append({name: [round(x, 9) for x in value] for name, value in scene.items()})
    env.close()
    digest = hashlib.sha256(json.dumps(scenes, sort_keys=True).encode()).hexdigest()
    assert digest == SCENES[SUITE][env_id]
