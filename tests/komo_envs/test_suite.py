"""What a version of the suite freezes: its seeds, and the scenes that they draw."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import seeding

import komo_envs  # noqa: F401
from komo_envs.suite import ENVS, SUITE, TEST, TRAIN, VALIDATION

# A change here makes the scores on the leaderboard incomparable: it needs a new suite version.
SCENES = {
    "0.2": {
        "KomoPush-v0": "47d2021a3aa1624433ea183f756b6122a6f4aff7b541683c48aca841a4c3b29e",
        "KomoShelf-v0": "1f86a2676260c7a706563714f283f1ed1320fe004516ff1b9717ec57e6d9b908",
        "KomoPushHard-v0": "6835b8e43c7d1d4f4c0b76ef507af6afe6f150a1d36eef6d5e7dc92a8e381be8",
        "KomoShelfHard-v0": "616bbfa1fb43dc354f53437128422c942fb8dd98c3d29a5ebfa25a96e8031c8d",
    }
}


def test_the_splits_are_frozen() -> None:
    assert (TRAIN.start, TRAIN.stop) == (0, 1_000_000)
    assert (VALIDATION.start, VALIDATION.stop) == (1_000_000, 1_010_000)
    assert (TEST.start, TEST.stop) == (2_000_000, 2_010_000)


@pytest.mark.parametrize("env_id", ENVS)
def test_the_test_scenes_are_frozen(env_id: str) -> None:
    env = gym.make(env_id)
    # As a reset draws them, without the simulation.
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    scenes = [task.sample_scene(seeding.np_random(seed)[0]) for seed in TEST[:500]]
    assert scenes[-1] == env.reset(seed=TEST[499])[1]["scene"]
    env.close()
    text = json.dumps(rounded(scenes), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == SCENES[SUITE].get(env_id), f'"{env_id}": "{digest}",'


@pytest.mark.parametrize(
    ("env_id", "solved", "not_solved"),
    [
        ("KomoPush-v0", [0.0199, 0.0], [0.0201, 0.0]),
        ("KomoPushHard-v0", [0.0, 0.0099], [0.0, 0.0101]),
        ("KomoPushFixed-v0", [0.0499, 0.0], [0.0501, 0.0]),
        ("KomoShelf-v0", [0.3, -0.0201], [0.0, -0.0199]),
        ("KomoShelfHard-v0", [0.3, -0.0201], [0.0, -0.0199]),
        ("KomoShelfFixed-v0", [0.0, 0.0499], [0.0, 0.0501]),
    ],
)
def test_what_counts_as_success_is_frozen(
    env_id: str, solved: list[float], not_solved: list[float]
) -> None:
    """Offsets in m from the target, or in shelf from the middle of the opening's edge."""
    env = gym.make(env_id)
    unwrapped: Any = env.unwrapped
    target = env.reset(seed=0)[0]["desired_goal"]
    origin = np.array([0.0, 0.56, 1.0]) if "Shelf" in env_id else target
    rewards = [
        unwrapped.compute_reward(np.float32(origin + np.array([*offset, rest])), target, {})
        for offset, rest in ((solved, 0), (not_solved, 0), (solved, -1))
    ]
    assert rewards == [0.0, -1.0, -1.0]
    spec = gym.spec(env_id)
    assert spec.max_episode_steps == 150
    env.close()


def rounded(value: Any) -> Any:
    """To the nanometre, since the last digits of a sine are the machine's."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 9)
