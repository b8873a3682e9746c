"""Several envs in one program: vector envs, forks, plain scripts, and processes that die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from common import random_rollout
from conftest import PROJECT, RunPython

import komo_envs.worlds
from komo_envs.worlds.physx import PhysxWorld
from komo_envs.worlds.rai import SimulationError

VECTOR = """
import random, sys
import gymnasium as gym, numpy as np, komo_envs
from common import digest, random_rollout
make = lambda: gym.make(sys.argv[4], obs_mode="rgbd", image_size=32)

if sys.argv[1] == "sync":
    vector = gym.vector.SyncVectorEnv([make] * 8)
    envs = list(vector.envs)
    observations, _ = vector.reset(seed=50)
    first = digest({k: v[3] for k, v in observations.items()})
    for _ in range(10):
        observations = vector.step(vector.action_space.sample())
else:
    from stable_baselines3.common.vec_env import DummyVecEnv
    vector = DummyVecEnv([make] * 8)
    envs = list(vector.envs)
    vector.seed(50)
    observations = vector.reset()
    first = digest({k: v[3] for k, v in observations.items()})
    for _ in range(10):
        vector.step(np.stack([vector.action_space.sample() for _ in range(8)]))

random.seed(int(sys.argv[2]))
random.shuffle(envs)
for env in envs[: int(sys.argv[3])]:  # the others are left open
    env.close()
alone = make()
observation, _ = alone.reset(seed=53)
assert digest(observation) == first
print("fine")
"""


@pytest.mark.parametrize(
    ("kind", "seed", "closed", "env_id"),
    [
        ("sync", 0, 8, "KomoPush-v0"),
        ("sync", 1, 3, "KomoShelf-v0"),
        ("dummy", 1, 3, "KomoPush-v0"),
        ("dummy", 0, 8, "KomoShelf-v0"),
    ],
)
def test_eight_envs_in_one_process_closed_in_any_order(
    kind: str, seed: int, closed: int, env_id: str, run_python: RunPython
) -> None:
    if kind == "dummy":
        pytest.importorskip("stable_baselines3")
    done = run_python(VECTOR, kind, str(seed), str(closed), env_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_two_envs_in_a_script_without_a_main_guard(run_python: RunPython) -> None:
    script = """
import gymnasium as gym, komo_envs
a, b = gym.make("KomoPush-v0"), gym.make("KomoShelf-v0")
a.reset(seed=0), b.reset(seed=0)
del a
print("once")
"""
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers_of_an_async_vector_env_match(context: str, run_python: RunPython) -> None:
    script = """
import sys
import gymnasium as gym, komo_envs
from common import digest

def make():
    return gym.make("KomoPush-v0", obs_mode="rgb")

if __name__ == "__main__":
    here = make()
    expected = digest(here.reset(seed=31)[0])  # simulator and renderer are alive when it forks
    vector = gym.vector.AsyncVectorEnv([make] * 2, context=sys.argv[1])
    observations, _ = vector.reset(seed=30)
    assert digest({k: v[1] for k, v in observations.items()}) == expected
    for _ in range(5):
        vector.step(vector.action_space.sample())
    vector.close()
    here.step(here.action_space.sample())
    print("fine")
"""
    done = run_python(script, context, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_stable_baselines_match(method: str, run_python: RunPython) -> None:
    pytest.importorskip("stable_baselines3")
    script = """
import sys
import gymnasium as gym, komo_envs
from common import digest
from stable_baselines3.common.vec_env import SubprocVecEnv

def make():
    return gym.make("KomoShelf-v0")

if __name__ == "__main__":
    here = make()
    expected = digest(here.reset(seed=31)[0])
    vector = SubprocVecEnv([make] * 2, start_method=sys.argv[1])
    vector.seed(30)
    observations = vector.reset()
    assert digest({k: v[1] for k, v in observations.items()}) == expected
    goals = observations["achieved_goal"], observations["desired_goal"]
    rewards = vector.env_method("compute_reward", *goals, [{}, {}], indices=[0])[0]
    assert rewards.tolist() == [-1.0, -1.0]
    for _ in range(5):
        vector.step([vector.action_space.sample() for _ in range(2)])
    vector.close()
    here.step(here.action_space.sample())
    print("fine")
"""
    done = run_python(script, method, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_vector_env_by_name_stacks_frames(mode: str, run_python: RunPython) -> None:
    script = """
import sys
import gymnasium as gym, komo_envs, numpy as np
from common import digest

def stack(env):
    return gym.wrappers.FrameStackObservation(env, 3)

if __name__ == "__main__":
    vector = gym.make_vec(
        "KomoPush-v0", 2, vectorization_mode=sys.argv[1], wrappers=[stack], obs_mode="rgb",
        image_size=32,
    )
    observations, _ = vector.reset(seed=30)
    assert observations["pixels"].shape == (2, 3, 32, 32, 3)
    alone = stack(gym.make("KomoPush-v0", obs_mode="rgb", image_size=32))
    alone.reset(seed=31)
    for _ in range(4):
        actions = vector.action_space.sample()
        observations, *_ = vector.step(actions)
        expected, *_ = alone.step(actions[1])
        assert digest({k: v[1] for k, v in observations.items()}) == digest(expected)
    vector.close()
    print("fine")
"""
    done = run_python(script, mode, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_killed_simulation_process_is_one_clear_error() -> None:
    inline, isolated = gym.make("KomoPush-v0"), gym.make("KomoPush-v0")
    inline.reset(seed=0)
    expected = random_rollout(isolated, 4, 10)
    world: Any = isolated.unwrapped.world  # type: ignore[attr-defined]
    world.process.kill()
    world.process.wait()
    with pytest.raises(SimulationError, match="reset starts a new one"):
        isolated.step(np.array([0.0, 0.3, 0.7]))
    assert random_rollout(isolated, 4, 10) == expected
    inline.close()
    isolated.close()
    assert world.process is None


def test_a_simulation_moves_to_a_fresh_process_before_it_has_leaked_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(komo_envs.worlds, "RESETS_OF_A_PROCESS", 3)
    monkeypatch.setattr(PhysxWorld, "resets", 0)
    env = gym.make("KomoShelfHard-v0", control_mode="ee_delta")
    rollouts, processes = [], []
    for _ in range(7):
        rollouts.append(random_rollout(env, 4, 10))
        world: Any = env.unwrapped.world  # type: ignore[attr-defined]
        processes.append(None if isinstance(world, PhysxWorld) else world.process)
    env.close()
    assert rollouts == [rollouts[0]] * 7
    here, second, third = processes[0], processes[3], processes[6]
    assert here is None
    assert processes == [here] * 3 + [second] * 3 + [third]
    assert len({here, second, third}) == 3
    assert [second.wait(), third.wait()] == [0, 0]


@pytest.mark.parametrize("inline", [True, False])
def test_an_env_that_was_forked_goes_on_in_both_processes(
    inline: bool, run_python: RunPython
) -> None:
    script = """
import multiprocessing, sys, time
import gymnasium as gym, komo_envs
from common import random_rollout

first = gym.make("KomoPush-v0", obs_mode="rgb")
if sys.argv[1] == "False":
    first.reset(seed=0)
env = gym.make("KomoPush-v0", obs_mode="rgb")
expected = random_rollout(env, 3, 10)

def child(connection):
    try:
        env.unwrapped.step(env.action_space.sample())
    except RuntimeError as error:
        connection.send(str(error))
    connection.send(random_rollout(env, 3, 10) == expected)
    connection.send(random_rollout(env, 3, 10) == expected)
    time.sleep(60)

ours, theirs = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
process.start()
print(ours.recv(), ours.recv(), ours.recv(), random_rollout(env, 3, 10) == expected)
started = time.time()
env.close()
assert time.time() - started < 3
process.kill()
process.join()
"""
    done = run_python(script, str(inline), timeout=60)
    message = "the env is not running in this process: call reset first"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{message} True True True\n", "")


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(0)",
        "env = None; gc.collect(); sys.exit(0)",
        "env.reset(seed=1); sys.exit(0)",
        "env.close(); sys.exit(0)",
        "other = gym.make('KomoPush-v0'); other.reset(seed=1); sys.exit(0)",
    ],
)
def test_a_forked_process_ends_however_it_treats_what_it_inherits(
    ending: str, run_python: RunPython
) -> None:
    script = f"""
import gc, os, sys, warnings
import gymnasium as gym, komo_envs
warnings.simplefilter("ignore")  # Python 3.12 and later warn of any fork beside threads
env = gym.make("KomoPush-v0", obs_mode="rgb")
env.reset(seed=0)
if not os.fork():
    {ending}
print(os.wait()[1])
"""
    done = run_python(script, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.parametrize("obs_mode", ["state", "rgb"])
def test_an_env_that_is_dropped_is_freed(obs_mode: str, run_python: RunPython) -> None:
    script = """
import gc, sys
import gymnasium as gym, komo_envs
gc.disable()
for _ in range(3):
    env = gym.make("KomoPush-v0", obs_mode=sys.argv[1])
    env.reset(seed=0)
    print(type(env.unwrapped.world).__name__)
    del env
"""
    done = run_python(script, obs_mode)
    assert (done.returncode, done.stdout) == (0, "PhysxWorld\n" * 3)


def test_envs_of_several_threads_start_together(run_python: RunPython) -> None:
    script = """
import os, threading
import gymnasium as gym
from common import random_rollout

expected = random_rollout(gym.make("KomoPush-v0"), 2, 20)
stdout = os.readlink("/proc/self/fd/1"), os.readlink("/proc/self/fd/2")
same = []

def work():
    env = gym.make("KomoPush-v0")
    for _ in range(3):
        same.append(random_rollout(env, 2, 20) == expected)

threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert (os.readlink("/proc/self/fd/1"), os.readlink("/proc/self/fd/2")) == stdout
print(same)
"""
    done = run_python(script, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{[True] * 12}\n", "")


@pytest.mark.parametrize("kind", ["inline", "isolated"])
def test_an_interrupt_ends_the_episode_and_nothing_else(kind: str, run_python: RunPython) -> None:
    script = """
import random, signal, sys
import gymnasium as gym, numpy as np
from common import random_rollout

first = gym.make("KomoPush-v0")
if sys.argv[1] == "isolated":
    first.reset(seed=0)
env = gym.make("KomoPush-v0", control_mode="joint")
expected = random_rollout(env, 6, 20)

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
ended = 0
for _ in range(20):
    env.reset(seed=1)
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-3, 1e-2))
        while True:
            env.step(env.action_space.sample())
    except KeyboardInterrupt:
        try:
            env.step(env.action_space.sample())
        except RuntimeError as error:
            ended += "call reset first" in str(error)
    assert random_rollout(env, 6, 20) == expected
print(ended > 0)
"""
    done = run_python(script, kind, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_an_isolated_world_imports_what_its_parent_does(
    run_python: RunPython, tmp_path: Path
) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "tempfile.py").write_text("raise ImportError('not the one you want')")
    odd = tmp_path / "a b:c"
    odd.symlink_to(PROJECT)
    script = f"""
import sys
sys.path.insert(0, {str(odd)!r})
import gymnasium as gym, komo_envs
envs = [gym.make("KomoPush-v0") for _ in range(2)]
print([len(env.reset(seed=0)) for env in envs], komo_envs.__file__)
"""
    done = run_python(script, PYTHONPATH=None)
    assert done.stderr == ""
    assert done.stdout == f"[2, 2] {odd}/komo_envs/__init__.py\n"
