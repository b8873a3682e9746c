"""Policies from elsewhere: Python files, Stable-Baselines3, other processes; and failing ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
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
from conftest import PROJECT, run_module

from benchmark.evaluation.policy_info import identify, print_policy
from policies import load_policy
from policies.external.remote import RemoteError, RemotePolicy, decode_array, encode_array, unpack
from policies.external.sb3 import SB3Options, options_of

DOCS, EXAMPLES = PROJECT / "docs", PROJECT / "examples"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.run", "--no-report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def scored(out: Path, *arguments: object) -> Any:
    done = run("--env", "KomoPush-v0", "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "result.json").read_text())


def test_the_example_of_a_policy_is_short_and_is_scored(tmp_path):
    file = EXAMPLES / "my_policy.py"
    assert len(file.read_text().splitlines()) < 30
    spec = f"{file}:MyPolicy"
    refused = run("--policy", spec, "--env", "KomoPush-v0", "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert "say --trust-code if you trust it" in refused.stderr
    result = scored(tmp_path / "run", "--policy", spec, "--trust-code", "--episodes", 2)
    assert result["policy"]["name"] == "my policy"
    assert result["policy"]["weights_hashed"]
    options = {"image_size": [96, 96], "cameras": ["front"], "shadows": False}
    seen = {"obs_mode": "rgb", "control_mode": "ee", **options}
    assert result["env_options"] == {"KomoPush-v0": seen}
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


def test_two_checkpoints_of_one_python_file_have_two_hashes(tmp_path, capsys):
    file, weights = tmp_path / "policy.py", tmp_path / "weights.bin"
    text = (EXAMPLES / "my_policy.py").read_text()
    assert "WEIGHTS = []" in text
    file.write_text(text.replace("WEIGHTS = []", f"WEIGHTS = [pathlib.Path({str(weights)!r})]"))
    hashes = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        identified = identify(f"{file}:MyPolicy", ["KomoPush-v0"], trust_code=True)
        hashes.append(identified.policy.sha256)
    assert hashes[0] == hashes[2] != hashes[1]
    print_policy(*identified)
    assert "note" not in capsys.readouterr().err
    file.write_text(text.replace("sha256 =", "digest ="))
    identified = identify(f"{file}:MyPolicy", ["KomoPush-v0"], trust_code=True)
    assert not identified.policy.weights_hashed
    print_policy(*identified)
    assert "covers the Python file alone and no weights" in capsys.readouterr().err
    file.write_text(text.replace("sha256 =", "sha256 = 3 #"))
    with pytest.raises(ValueError, match="its sha256 is 3; expected 64 hexadecimal digits"):
        identify(f"{file}:MyPolicy", ["KomoPush-v0"], trust_code=True)


EACH = """
class Each:
    env_options = {"obs_mode": "rgb"}
    def __init__(self, env_id):
        self.sha256 = ("a" if "Hard" in env_id else "b") * 64
        self.privileged = "Hard" in env_id
        self.name = NAME
    def predict(self, obs, state=None, episode_start=None, deterministic=True): ...
"""


def test_a_policy_is_identified_in_each_of_its_envs(tmp_path):
    file, envs = tmp_path / "each.py", ["KomoPush-v0", "KomoPushHard-v0"]
    file.write_text(EACH.replace("NAME", "'each'"))
    one, both = (identify(f"{file}:Each", some, trust_code=True) for some in (envs[:1], envs))
    assert one.policy.sha256 != both.policy.sha256
    assert (one.policy.privileged, both.policy.privileged) == (False, True)
    assert [*both.env_options] == envs
    file.write_text(EACH.replace("NAME", "env_id"))
    with pytest.raises(ValueError, match="its name is KomoPush-v0 in KomoPush-v0 and KomoPushHard"):
        identify(f"{file}:Each", envs, trust_code=True)


def rescaled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models that have learned nothing, by the name of their file, and the folder of the files."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    def save(name: str, env: Any, kind: Any = sb3.PPO, **options: Any) -> None:
        made[name] = kind("MultiInputPolicy", env, device="cpu", **options)
        made[name].save(folder / name)

    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Any] = {"folder": folder}
    small = {"n_steps": 8, "batch_size": 8}
    wrist = {"obs_mode": "rgb", "cameras": ("wrist",), "image_size": 48, "shadows": True}
    save("sac.zip", gym.make("KomoPush-v0"), sb3.SAC, buffer_size=10)
    save("delta.zip", gym.make("KomoPush-v0", control_mode="ee_delta"), **small)
    save("wrist.zip", gym.make("KomoPush-v0", **wrist), **small)
    save("joint.zip", rescaled(gym.make("KomoPush-v0", control_mode="joint")), **small)
    env = VecNormalize(DummyVecEnv([lambda: rescaled(gym.make("KomoPush-v0"))]))
    save("normalized.zip", env, **small)
    env.reset()
    for _ in range(5):
        env.step(np.array([env.action_space.sample()]))
    (folder / "KomoPush-v0").mkdir()
    env.save(folder / "KomoPush-v0" / "vecnormalize.pkl")
    made["statistics"] = env
    env.close()
    return made


def test_the_wrapper_of_the_page_flattens_two_cameras_for_stable_baselines3():
    sb3 = pytest.importorskip("stable_baselines3")
    page = (DOCS / "benchmark.md").read_text()
    [lines] = re.findall(r"```python\n([^`]*class FlatCameras[^`]*)```", page)
    names: dict[str, Any] = {}
    exec(lines, names)
    both = gym.make("KomoPush-v0", obs_mode="rgbd", cameras=("front", "wrist"), image_size=48)
    with pytest.raises(NotImplementedError, match="Nested observation spaces"):
        sb3.PPO("MultiInputPolicy", both, device="cpu")
    env = names["FlatCameras"](both)
    seen, _ = env.reset(seed=0)
    images = {f"{key}_{name}" for key in ("pixels", "depth") for name in ("front", "wrist")}
    assert set(seen) == {*images, "agent_pos", "goal"}
    assert env.observation_space.contains(seen)
    model = sb3.PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, device="cpu")
    assert env.action_space.contains(model.predict(seen)[0])
    env.close()


CAMERAS, SHADOWS = "--cameras front or --cameras wrist", "--shadows yes or --shadows no"
CONTROL = "--control-mode ee_delta or --control-mode ee --rescale-action"


@pytest.mark.parametrize(
    ("name", "stated", "message"),
    [
        ("sac.zip", {"vec_normalize": None}, "state --vec-normalize .*/vecnormalize.pkl or --vec"),
        ("delta.zip", {}, f"state {CONTROL}$"),
        ("delta.zip", {"rescale_action": True}, f"state {CONTROL}$"),
        ("normalized.zip", {"control_mode": "ee"}, "state --control-mode ee --rescale-action$"),
        ("joint.zip", {}, "state --control-mode joint --rescale-action$"),
        (
            "joint.zip",
            {"control_mode": "ee"},
            r"\(7,\), float32\) is not that of --control-mode ee,",
        ),
        ("wrist.zip", {}, f"state {CAMERAS}; {SHADOWS}$"),
        ("wrist.zip", {"cameras": ("top",)}, "--cameras top: expected front or wrist$"),
        ("wrist.zip", {"image_size": (96,)}, "--image-size 96: expected 48 48$"),
        ("wrist.zip", {"obs_mode": "state"}, "--obs-mode state: expected rgb$"),
        ("sac.zip", {"shadows": "no"}, "--shadows no: expected no such option"),
        ("sac.zip", {"vec_normalize": "sac.zip"}, "--vec-normalize sac.zip: cannot be read"),
    ],
)
def test_what_the_spaces_of_a_model_do_not_prove_is_asked_for(models, name, stated, message):
    options = SB3Options(**{"vec_normalize": "none", **stated})
    with pytest.raises(ValueError, match=message):
        load_policy(str(models["folder"] / name), "KomoPush-v0", trust_code=True, sb3=options)


def test_a_model_is_refused_where_its_spaces_are_others(models):
    options = SB3Options(vec_normalize="none")
    with pytest.raises(ValueError, match=r"its observation space .* is none of KomoShelfHard-v0's"):
        load_policy(str(models["folder"] / "sac.zip"), "KomoShelfHard-v0", True, sb3=options)
    done = run("--policy", "zero", "--env", "KomoPush-v0", "--shadows", "no")
    assert done.returncode == 2
    assert "--shadows no: expected only with a .zip of Stable-Baselines3" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "options"),
    [
        (
            "normalized.zip",
            ("--control-mode", "ee", "--rescale-action", "--vec-normalize", "STATISTICS"),
            {"obs_mode": "state", "control_mode": "ee"},
        ),
        (
            "wrist.zip",
            ("--cameras", "wrist", "--shadows", "yes", "--vec-normalize", "none"),
            {
                "obs_mode": "rgb",
                "control_mode": "ee",
                "image_size": [48, 48],
                "cameras": ["wrist"],
                "shadows": True,
            },
        ),
    ],
)
def test_a_model_of_stable_baselines3_is_played_as_it_was_trained(
    tmp_path, models, name, words, options
):
    file = models["folder"] / "KomoPush-v0" / "vecnormalize.pkl"
    words = [str(file) if word == "STATISTICS" else word for word in words]
    zipped = models["folder"] / name
    one = ("--policy", zipped, "--trust-code")
    done = run("--env", "KomoPush-v0", "--out", tmp_path, *one, "--episodes", 1, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    policy = result["policy"]
    assert policy["name"] == "Stable-Baselines3 PPO or A2C"
    assert policy["privileged"] == (options["obs_mode"] == "state")
    assert result["env_options"] == {"KomoPush-v0": options}
    normalized = name == "normalized.zip"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if normalized else None
    expected = {**options, "rescale_action": normalized, "vec_normalize": sha256}
    assert policy["trained_in"] == expected
    assert done.stderr.startswith(
        f"{policy['name']} in KomoPush-v0: obs_mode {options['obs_mode']}, control_mode ee"
    )
    if normalized:  # the verifier needs no more than the statistics: the result says the rest
        done = run_module("verify", tmp_path / "result.json", *one, "--vec-normalize", file)
        assert done.returncode == 0, done.stderr
    # What it does is what it did in its training.
    sb3 = options_of(policy["trained_in"], str(file) if normalized else None)
    loaded = load_policy(str(zipped), "KomoPush-v0", trust_code=True, sb3=sb3)
    env = gym.make("KomoPush-v0", **loaded.env_options)
    seen = env.observation_space.sample()
    theirs = models["statistics"].normalize_obs(seen) if normalized else seen
    action, _ = models[name].predict(theirs, deterministic=True)
    if normalized:
        action = rescaled(env).action(action)
        assert np.abs(action - models[name].predict(seen, deterministic=True)[0]).max() > 0.01
    np.testing.assert_array_equal(loaded.predict(seen)[0], action)
    assert env.action_space.contains(action)
    env.close()


@contextlib.contextmanager
def serving(script: Path) -> Iterator[str]:
    """The server in ``script``, in a process of its own; yields its address."""
    command = [sys.executable, str(script), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.kill()


def test_a_policy_in_another_process_is_scored(tmp_path):
    with serving(EXAMPLES / "policy_server.py") as address:
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
    text = (EXAMPLES / "policy_server.py").read_text()
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
        (hello(env_options={"backend": "real"}), "env_options \\{'backend"),
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
