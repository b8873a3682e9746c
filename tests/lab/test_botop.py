"""The robot in real time, as BotOp simulates it: how it moves, and what stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from common import wait_for
from conftest import PROJECT, Command, run_module

import komo_envs  # noqa: F401 - registers the ids
from experts.dataset.format import DemoFile
from komo_envs.control import ActionError
from komo_envs.utils.workers import descendants
from komo_envs.worlds import CONTROL_PERIOD
from komo_envs.worlds.botop import MAX_STEP, STALE
from komo_envs.worlds.rai import RobotStopped, SimulationError
from komo_envs.worlds.trajectory import MAX_ACCELERATION, MAX_SPEED, follow, stand

ENV = "KomoPush-v0"


@pytest.fixture(scope="module", autouse=True)
def no_display() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    made = gym.make(ENV, control_mode="joint", backend="botop", disable_env_checker=True)
    yield made.unwrapped
    made.close()


def test_a_policy_cannot_tell() -> None:
    for options in ({"obs_mode": "state"}, {"obs_mode": "rgbd", "cameras": ("front", "wrist")}):
        both = [
            gym.make("KomoShelf-v0", backend=backend, **options) for backend in ("sim", "botop")
        ]
        simulated, robot = both
        assert robot.observation_space == simulated.observation_space
        assert robot.action_space == simulated.action_space
        seen = [each.reset(seed=3) for each in both]
        for observation, info in seen:
            assert robot.observation_space.contains(observation)
            assert info.keys() == seen[0][1].keys()
            assert info["scene"] == seen[0][1]["scene"]
        observation, *_ = robot.step(robot.action_space.sample())
        assert robot.observation_space.contains(observation)
        for each in both:
            each.close()


def test_a_motion_follows_within_the_limits_and_ends_at_rest() -> None:
    rng = np.random.default_rng(0)
    behind, braked = [], 0
    for speed in (0.2, 1.0):
        reference = np.zeros(7)
        motion, sent = stand(reference), 0.0
        step = rng.uniform(-1, 1, 7) * speed * CONTROL_PERIOD
        for period in range(200):
            now = period * CONTROL_PERIOD + rng.uniform(0, 0.05)
            if period % 8 == 0:  # what it is to do changes
                step = rng.uniform(-1, 1, 7) * speed * CONTROL_PERIOD
            reference = reference + step
            q, qdot = motion.at(now - sent)
            left = (period + 1) * CONTROL_PERIOD - now
            motion, sent = follow(q, qdot, reference, step / CONTROL_PERIOD, left), now
            times, positions = motion.waypoints()
            assert np.allclose(motion.at(0.0), (q, qdot)), "it goes on from what was"
            assert np.allclose(motion.at(times[-1])[1], 0), "an arm that is told nothing stands"
            moments = np.linspace(0, times[-1], 200)
            speeds = np.array([motion.at(moment)[1] for moment in moments])
            accelerations = np.diff(speeds, axis=0) / np.diff(moments)[:, None]
            assert np.all(np.abs(accelerations) <= MAX_ACCELERATION * 1.001)
            assert np.all(np.abs(speeds) <= MAX_SPEED * 1.02)
            assert np.allclose(positions[-1], motion.at(9.0)[0])
            if len(motion.pieces) == 2:
                assert np.allclose(positions[-1], reference), "it rests where it was told to be"
            behind.append(np.abs(motion.at(left)[0] - reference).max() / speed)
            braked += len(motion.pieces) == 1
    assert np.median(behind) < 0.1, "it keeps up: so many seconds behind"
    assert braked < 10


def test_it_moves_as_it_is_told_and_no_further(env: Any) -> None:
    env.reset(seed=0)
    home = env.controller.command
    target = home + np.array([0.25, 0.1, 0, 0.1, 0, 0, 0.2])
    seen = [env.step(target)[4] for _ in range(8)]
    assert np.abs(env.state.q - target).max() < 0.01
    assert 0.01 < max(info["tracking_error"] for info in seen) < 0.15
    assert min(info["latency"] for info in seen) < 0.06
    assert env.state.time >= 8 * CONTROL_PERIOD


def test_who_is_told_nothing_stands_still_and_what_is_late_is_said(env: Any) -> None:
    env.reset(seed=0)
    home = env.controller.command
    away = home + np.array([0.5, 0, 0, 0, 0, 0, 0])
    for _ in range(2):
        env.step(away)
    time.sleep(0.3)  # a policy that thinks
    *_, info = env.step(env.controller.command)
    assert 0.2 <= info["latency"] < STALE
    stood = env.state.q
    assert np.abs(stood - env.controller.command).max() < 0.005
    time.sleep(0.3)
    *_, info = env.step(env.controller.command)
    assert np.abs(env.state.q - stood).max() < 1e-3
    # An answer to what was seen long ago is not followed, and what comes next is.
    time.sleep(2 * STALE)  # its clock may fall behind ours
    for _ in range(3):
        *_, info = env.step(away)
        assert info["latency"] > STALE
        assert np.abs(env.state.q - stood).max() < 1e-3
        time.sleep(2 * STALE)
    env.reset(seed=0)
    for _ in range(4):
        env.step(away)
    assert env.state.q[0] > home[0] + 0.05


def test_a_late_action_that_is_delayed_too_is_no_jump() -> None:
    delayed = {"action_delay": 0.1}
    env: Any = gym.make(ENV, control_mode="joint", backend="botop", randomize=delayed).unwrapped
    env.reset(seed=1)
    home = env.controller.command
    assert env.scene["randomize"]["action_delay"] > 0.02
    away = home + np.array([0.6, 0, 0, 0, 0, 0, 0])
    for _ in range(3):
        env.step(away)
    for _ in range(2):  # what was decided long ago is not followed, nor remembered
        before = env.controller.command
        time.sleep(2 * STALE)
        *_, info = env.step(away)
        assert info["latency"] > STALE
        assert np.array_equal(env.controller.command, before)
    for _ in range(12):
        env.step(2 * home - away)
    assert np.abs(env.state.q - env.controller.command).max() < 0.15
    assert env.state.q[0] < home[0] - 0.4
    env.close()


def test_no_action_that_is_none_moves_it(env: Any) -> None:
    env.reset(seed=0)
    home = env.controller.command
    for action in (np.full(7, np.nan), np.zeros(6), np.array(["a"] * 7)):
        with pytest.raises(ActionError):
            env.step(action)
    env.step(home)
    assert np.abs(env.state.q - home).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (np.nan, "expected 7 finite numbers"),
        (2 * MAX_STEP, "refused a jump of joint 2"),
        (3.0, "beyond the joint limits"),
    ],
)
def test_the_robot_refuses_what_no_controller_should_say(env: Any, change: float, why: str) -> None:
    env.reset(seed=0)
    reference = env.controller.command.copy()
    reference[1] += change
    with pytest.raises(RobotStopped, match=why):
        env.world.step(reference)
    with pytest.raises(SimulationError, match="step before reset"):
        env.world.step(env.controller.command)
    env.reset(seed=0)
    env.step(env.controller.command)


def test_an_arm_that_is_held_up_is_stopped(env: Any) -> None:
    env.reset(seed=0)
    home = env.controller.command
    pole = replace(
        next(body for body in env.bodies if body.name == "puck"),
        name="pole",
        shape="box",
        size=(0.05, 0.05, 0.6),
        mass=None,
        bevel=0.0,
        pose=(0.15, 0.2, 0.95, 1.0, 0.0, 0.0, 0.0),
    )
    env.world.reset(home, (*env.bodies, pole), True)
    reference = home.copy()
    with pytest.raises(RobotStopped, match=r"joint \d is 0.2\d rad from where it is sent"):
        turn_until_stopped(env.world, reference)


def turn_until_stopped(world: Any, reference: np.ndarray) -> None:
    for _ in range(20):
        reference[0] -= 0.05
        world.step(reference)


def test_a_robot_that_hangs_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = gym.make(ENV, backend="botop", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    monkeypatch.setattr("komo_envs.utils.child._EXIT_TIMEOUT", 1.0)
    monkeypatch.setattr("komo_envs.utils.child._ANSWER_TIMEOUT", 1.0)
    process = env.world.process.pid
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(SimulationError, match=r"ended during step \(no answer for 1 s\)"):
        env.step(env.action_space.sample())
    assert not Path(f"/proc/{process}").exists()
    env.close()


SCRIPT = """
import gymnasium as gym, komo_envs
env = gym.make("KomoPush-v0", backend="botop")
env.reset(seed=0)
print("moves", flush=True)
while True:
    env.step(env.action_space.sample())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_who_commands_it(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"moves\n"
    robot = list(descendants(process.pid))
    assert robot
    os.kill(process.pid, number)
    process.wait(10)
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in robot), 10)


def test_policies_are_scored_on_it(tmp_path: Path) -> None:
    common = ("--env", ENV, "KomoShelf-v0", "--episodes", 1, "--no-report")
    for backend in ("sim", "botop"):
        out = tmp_path / backend
        done = run_module("run", "--policy", "expert", *common, "--backend", backend, "--out", out)
        assert done.returncode == 0, done.stderr
        assert ("actions came after the end" in done.stdout) == (backend == "botop")
    simulated, robot = (
        json.loads((tmp_path / backend / "result.json").read_text()) for backend in ("sim", "botop")
    )
    assert (simulated["backend"], robot["backend"], robot["workers"]) == ("sim", "botop", 1)
    for one, other in zip(simulated["episodes"], robot["episodes"], strict=True):
        assert one["scene"] == other["scene"]
        assert other["success_at_end"], other
        assert one["tracking_error"] < 0.02 < other["tracking_error"] < 0.25
        assert one["latency"] == one["deadline_misses"] == 0
        assert other["latency"] > 0
    file = tmp_path / "botop" / "result.json"
    done = run_module("compare", tmp_path / "sim" / "result.json", file)
    assert done.returncode == 2
    assert done.stderr == "benchmark.compare: backend: sim and botop; expected the same\n"
    done = run_module("compare", "--sim-vs-real", tmp_path / "sim", tmp_path / "botop")
    assert done.returncode == 0, done.stderr
    assert f"expert, {ENV}, botop: " in done.stdout
    assert f"{ENV}: a correlation takes 3 policies" in done.stdout
    done = run_module("verify", file, "--policy", "expert")
    assert done.returncode == 2
    assert "backend: expected sim without a lab, got botop" in done.stderr


def test_demonstrations_are_collected_on_it_and_learned_from(
    tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "robot.h5"
    words = ("--env", ENV, "--backend", "botop", "--episodes", 2, "--image-size", 48, "--out", out)
    done = command("experts.collect", *words)
    assert done.returncode == 0, done.stderr
    with DemoFile(out) as file:
        assert file.backend == "botop"
        assert "--backend botop" in out.with_suffix(".md").read_text()
        assert all(demo.success for demo in file)
        demo = file[0]
        trailing = np.abs(demo.obs["agent_pos"][:, :7] - demo.obs["agent_pos"][:, 7:14])
        assert 0.01 < trailing.max() < 0.4, "it is the robot that is seen"
    done = command("experts.replay", out)
    assert done.returncode == 2
    assert "was collected in real time" in done.stderr
    tiny = ("--steps", 20, "--n-eval-episodes", 1, "--num-demos", 1)
    done = command("policies.train", "--demos", out, "--out", tmp_path / "student", *tiny)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student" / "seed0" / "model.safetensors").exists()
    # A file of a stranger's says what to make, but not that a robot is to move.
    with h5py.File(out, "r+") as raw:
        head = json.loads(raw["data"].attrs["env_args"])
        head["env_kwargs"]["backend"] = "botop"
        raw["data"].attrs["env_args"] = json.dumps(head)
    with pytest.raises(ValueError, match="env_kwargs: 'backend': expected some of"):
        DemoFile(out)
