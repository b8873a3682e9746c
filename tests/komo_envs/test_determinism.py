"""The same seed and actions give the same observations, bit for bit, pixels included."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from common import digest, random_rollout
from conftest import RunPython

from experts import make_expert

STEPS = 40
PIXELS = {"obs_mode": "rgbd", "cameras": ("front", "wrist")}
MODES: list[dict[str, Any]] = [
    {"obs_mode": "state", "control_mode": "joint"},
    {"obs_mode": "state", "control_mode": "ee"},
    {"control_mode": "ee_delta", **PIXELS},
    {"control_mode": "ee", "shadows": True, **PIXELS},
]

SCRIPT = """
import json, sys
import gymnasium as gym
from common import random_rollout
rollouts = []
for mode in json.loads(sys.argv[2]):
    env = gym.make(sys.argv[1], **mode)
    rollouts.append(random_rollout(env, 7, 40))
    env.close()
print(json.dumps(rollouts))
"""


@pytest.mark.parametrize(
    "env_id", ["KomoPush-v0", "KomoShelf-v0", "KomoPushHard-v0", "KomoShelfHard-v0"]
)
def test_same_in_another_process_and_after_messy_episodes(
    env_id: str, run_python: RunPython
) -> None:
    rollouts = []
    for mode in MODES:
        env = gym.make(env_id, **mode)
        expected = random_rollout(env, 7, STEPS)
        assert len(set(expected)) == STEPS + 1, "the arm moves"
        for seed in range(10):
            random_rollout(env, 1000 + seed, 2 + seed % 5)
        assert random_rollout(env, 7, STEPS) == expected
        env.close()
        rollouts.append(expected)
    done = run_python(SCRIPT, env_id, json.dumps(MODES))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == rollouts


def two_envs_and_an_expert() -> list[str]:
    """Digests of two envs' rollouts, the second in a process of its own, and of a plan."""
    envs = [gym.make("KomoPush-v0", obs_mode="rgb"), gym.make("KomoShelfHard-v0")]
    digests = [each for env in envs for each in random_rollout(env, 7, 3)]
    expert = make_expert("KomoPush-v0")
    expert.attach(envs[0])
    digests.append(digest(expert.predict(None)[0]))
    for env in envs:
        env.close()
    return digests


COMMAS = """
import json, locale, threading
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
from test_determinism import two_envs_and_an_expert
found = []
thread = threading.Thread(target=lambda: found.append(two_envs_and_an_expert()))
thread.start()
thread.join()
print(json.dumps([*found, f"{0.5:n}"]))
"""


def test_same_where_numbers_are_written_with_commas(run_python: RunPython, tmp_path: Path) -> None:
    compiled = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    if not shutil.which("localedef") or subprocess.run(compiled, check=False).returncode:
        pytest.skip("needs localedef and the sources of locales, Debian's package locales")
    done = run_python(COMMAS, LOCPATH=str(tmp_path), LC_ALL="de_DE.UTF-8")
    assert done.returncode == 0, done.stderr
    expected = two_envs_and_an_expert()
    assert json.loads(done.stdout) == [expected, "0,5"]


@pytest.mark.parametrize("env_id", ["KomoPush-v0", "KomoShelfHard-v0"])
def test_same_while_other_envs_come_and_go(env_id: str) -> None:
    mode = {"control_mode": "ee", **PIXELS}
    env = gym.make(env_id, **mode)
    expected = random_rollout(env, 7, STEPS)

    # Steps of the env in question, with those of others strewn in between; it is first the one
    # inside this process, then one outside.
    rng = np.random.default_rng(0)
    for inline in (True, False):
        if not inline:
            env.close()
            first = gym.make("KomoPush-v0")
            first.reset(seed=0)
            env = gym.make(env_id, **mode)
        others: list[gym.Env[Any, Any]] = []

        def disturb(others: list[gym.Env[Any, Any]] = others) -> None:
            choice = rng.integers(6)
            if choice == 0 and len(others) < 4:
                size = int(rng.integers(16, 200))
                other_id = ("KomoShelf-v0", "KomoPushHard-v0")[int(rng.integers(2))]
                mode = {"obs_mode": "rgb", "control_mode": "ee_delta"}
                others.append(gym.make(other_id, image_size=size, **mode))
                others[-1].reset(seed=int(rng.integers(1000)))
            elif choice == 1 and others:
                others.pop(int(rng.integers(len(others)))).close()
            elif others:
                other = others[int(rng.integers(len(others)))]
                if choice == 2:
                    other.reset(seed=int(rng.integers(1000)))
                else:
                    other.step(rng.uniform(-1, 1, other.action_space.shape))

        assert random_rollout(_Disturbed(env, disturb), 7, STEPS) == expected
        for other in others:
            other.close()
    env.close()
    first.close()


class _Disturbed(gym.Wrapper[Any, Any, Any, Any]):
    """Lets something happen before every step."""

    def __init__(self, env: gym.Env[Any, Any], disturb: Any) -> None:
        super().__init__(env)
        self._disturb = disturb

    def step(self, action: Any) -> Any:
        self._disturb()
        return super().step(action)
