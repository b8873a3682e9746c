"""Policies from elsewhere: Python files, Stable-Baselines3, other processes; and failing ones."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgpack
import numpy as np
import pytest
from conftest import PROJECT

from policies import load_policy
from policies.remote import RemoteError, RemotePolicy, decode_array, encode_array, unpack

DOCS = PROJECT / "docs"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.run", "--no-report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def scored(out: Path, *arguments: object) -> Any:
    done = run("--env", "KomoPush-v0", "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "result.json").read_text())


def test_the_example_of_a_policy_is_short_and_is_scored(tmp_path):
    file = DOCS / "my_policy.py"
    assert len(file.read_text().splitlines()) < 30
    spec = f"{file}:MyPolicy"
    refused = run("--policy", spec, "--env", "KomoPush-v0", "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert "say --trust-code if you trust it" in refused.stderr
    result = scored(tmp_path / "run", "--policy", spec, "--trust-code", "--episodes", 2)
    assert result["policy"]["name"] == "my policy"
    assert [episode["failure"] for episode in result["episodes"]] == ["timeout"] * 2
    # It goes to where it says: over the goal.
    env = gym.make("KomoPush-v0", obs_mode="rgb")
    policy = load_policy(spec, "KomoPush-v0", trust_code=True)
    observation, _ = env.reset(seed=0)
    state = None
    for step in range(30):
        action, state = policy.predict(observation, state, np.array([step == 0]))
        observation, *_ = env.step(action)
    assert state == 29
    assert np.abs(observation["agent_pos"][14:16] - observation["goal"]).max() < 0.01
    env.close()


@pytest.mark.parametrize("options", [{}, {"obs_mode": "rgb", "control_mode": "ee_delta"}])
def test_a_model_of_stable_baselines3_is_scored(tmp_path, options):
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("KomoPush-v0", **options)
    kind = sb3.PPO if options else sb3.SAC
    small = {"n_steps": 8, "batch_size": 8} if options else {"buffer_size": 10}
    model = kind("MultiInputPolicy", env, device="cpu", **small)
    model.save(tmp_path / "model.zip")
    env.close()
    words = ("--policy", tmp_path / "model.zip", "--trust-code", "--episodes", 1)
    result = scored(tmp_path / "run", *words)
    assert result["policy"]["name"] == f"Stable-Baselines3 {'PPO or A2C' if options else 'SAC'}"
    assert result["policy"]["privileged"] == (not options)
    assert result["episodes"][0]["failure"] == "timeout"
    loaded = load_policy(str(tmp_path / "model.zip"), "KomoPush-v0", trust_code=True)
    observation = env.observation_space.sample()
    np.testing.assert_array_equal(
        loaded.predict(observation)[0], model.predict(observation, deterministic=True)[0]
    )
    with pytest.raises(ValueError, match="in no obs_mode and control_mode"):
        load_policy(str(tmp_path / "model.zip"), "KomoShelfHard-v0", trust_code=True)


@contextlib.contextmanager
def serving(script: Path) -> Iterator[str]:
    """The server in ``script``, in a process of its own; yields its address."""
    command = [sys.executable, str(script), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.kill()


def test_a_policy_in_another_process_is_scored(tmp_path):
    with serving(DOCS / "policy_server.py") as address:
        words = ("--policy", address, "--episodes", 2)
        one = scored(tmp_path / "one", *words, "--workers", 1)
        two = scored(tmp_path / "two", *words, "--workers", 2)
    assert one["policy"]["name"] == "my policy"
    assert one["episodes"] == two["episodes"]
    assert one["episodes"][0]["distance"] != one["episodes"][1]["distance"]
    gone = run("--policy", address, "--env", "KomoPush-v0", "--out", tmp_path / "no")
    assert gone.returncode == 2
    assert "Connection refused" in gone.stderr
    assert gone.stderr.count("\n") == 1


def test_a_server_that_fails_fails_its_episodes_alone(tmp_path):
    script = tmp_path / "server.py"
    text = (DOCS / "policy_server.py").read_text()
    act = "        return self.generator.uniform(-1, 1, 3).astype(np.float32)\n"
    assert act in text
    broken = (
        '        if observation["goal"][0] > 0:\n            raise RuntimeError("to the right")\n'
    )
    script.write_text(text.replace(act, broken + act))
    with serving(script) as address:
        result = scored(tmp_path / "run", "--policy", address, "--episodes", 6)
    rights = {episode["scene"]["target"][0] > 0 for episode in result["episodes"]}
    assert rights == {True, False}
    for episode in result["episodes"]:
        right = episode["scene"]["target"][0] > 0
        said = "error: RemoteError: the server says: RuntimeError: to the right"
        assert episode["failure"] == (said if right else "timeout")


def framed(message: Any) -> bytes:
    data = message if isinstance(message, bytes) else msgpack.packb(message)
    return struct.pack(">I", len(data)) + data


def hello(**changed: Any) -> bytes:
    said = {"name": "x", "sha256": "0" * 64, "privileged": False, "env_options": {}}
    return framed({"type": "hello", "version": 1, **said, **changed})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the connection was closed"),
        (b"\x7f", "the connection was closed"),
        (struct.pack(">I", 2**31), "a message of 2147483648 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a message of 1213486160 bytes"),
        (framed(b"\xc1\xc1\xc1"), "no message"),
        (framed([1, 2]), "a message is a list"),
        (hello(version=2), "version 2: expected 1"),
        (hello(name="a\nb"), "name 'a"),
        (hello(sha256="../../x"), "sha256 '"),
        (hello(env_options={"world": "real"}), "env_options \\{'world"),
        (hello(type="error", message="no"), "the server says: no"),
        (hello(type="action"), "the answer is 'action'; expected 'hello'"),
    ],
)
def test_what_a_strange_server_says_is_one_clear_error(answer, message):
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(2**16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match=message):
            RemotePolicy(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "KomoPush-v0")
        thread.join()


def test_arrays_come_over_the_wire_as_they_are():
    for array in (
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.zeros((0, 3), np.uint8),
        np.array(True),
    ):
        again = decode_array(unpack(msgpack.packb({"a": encode_array(array)}))["a"])
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)
    good = encode_array(np.zeros(3))
    for change in (
        {"dtype": "object"},
        {"shape": [2**40]},
        {"shape": [-3]},
        {"data": b""},
        {"x": 1},
    ):
        with pytest.raises(RemoteError):
            decode_array({**good, **change})


BROKEN = """
import numpy as np, os, time
class Policy:
    env_options = {"obs_mode": "state", "control_mode": "ee_delta"}
    def __init__(self, env_id): pass
    def set_random_seed(self, seed): self.kind = seed % 5
    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        if self.kind == 0: raise ZeroDivisionError("by nought")
        if self.kind == 1: time.sleep(10000)
        if self.kind == 2: return np.full(3, np.nan), None
        if self.kind == 3: self.hoard = np.ones(2**28); time.sleep(10000)
        return np.zeros(3, np.float32), None
"""


def test_a_policy_that_misbehaves_fails_its_episodes_and_not_the_run(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    words = ("--policy", f"{file}:Policy", "--trust-code", "--episodes", 5)
    limits = ("--episode-seconds", 20, "--memory-gib", 1.5)
    result = scored(tmp_path / "run", *words, *limits)
    assert (result["episode_seconds"], result["memory_gib"]) == (20, 1.5)
    failures = {episode["seed"] % 5: episode["failure"] for episode in result["episodes"]}
    assert failures[0] == "error: ZeroDivisionError: by nought"
    assert failures[1] == "error: it took longer than 20 s"
    assert failures[2].startswith("error: ActionError: ")
    assert "nan" in failures[2]
    assert failures[3] == "error: it took more than 1.5 GiB of memory"
    assert failures[4] == "timeout"
