"""The policy contract, and the policies that look at nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import komo_envs  # noqa: F401
from komo_envs.provenance import hash_sources
from komo_envs.utils import extras
from policies import RandomPolicy, load_policy
from policies.hashing import hash_policy
from policies.load import learned_env
from policies.spec import CARD, PRETRAINED, canonical_spec, check_spec

ENVS = ("KomoPush-v0", "KomoPushPixels-v0", "KomoShelf-v0", "KomoShelfHard-v0")


def batch_of(obs: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {key: np.stack([value] * count) for key, value in obs.items()}


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("spec", ["random", "zero"])
def test_actions_have_the_shape_of_their_observations_and_fit_the_space(spec, env_id):
    env = gym.make(env_id)
    policy = load_policy(spec, env_id)
    obs = env.observation_space.sample()
    env.close()

    action, state = policy.predict(obs)
    assert env.action_space.contains(action)
    assert state is None

    actions, _ = policy.predict(batch_of(obs, 3))
    assert actions.shape == (3, *env.action_space.shape)
    assert all(env.action_space.contains(action) for action in actions)


def test_random_actions_depend_on_the_seed_alone():
    policy = load_policy("random", ENVS[0])
    env = gym.make(ENVS[0])
    obs = batch_of(env.observation_space.sample(), 100)
    env.close()
    draws = []
    for seed in (7, 8, 7):
        policy.set_random_seed(seed)
        draws.append(policy.predict(obs)[0])
        policy.predict(obs)  # history that must not matter
    np.testing.assert_array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[1])


def test_a_policy_says_which_env_it_learned(tmp_path):
    assert learned_env("zero") is None
    assert learned_env(str(PRETRAINED / "shelf-hard")) == "KomoShelfHard-v0"
    model, said = tmp_path / "policy.zip", tmp_path / "training.json"
    model.touch()
    assert learned_env(str(model), trust_code=True) is None
    said.write_text('{"name": "SAC", "env_id": "KomoPush-v0"}')
    assert learned_env(str(model), trust_code=True) == "KomoPush-v0"
    said.write_text("{")
    with pytest.raises(ValueError, match=r"training\.json: is damaged"):
        learned_env(str(model), trust_code=True)
    card = json.loads((PRETRAINED / "push" / "policy.json").read_text())
    card["features"]["env_id"] = "evil:Evil-v0"
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "policy.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="which would import the module 'evil'"):
        learned_env(str(tmp_path / "student"))


def test_a_pretrained_student_has_one_name_on_every_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert learned_env("pretrained:push-hard") == "KomoPushHard-v0"
    policies = [
        load_policy(spec, ENVS[0]) for spec in ("pretrained:push", str(PRETRAINED / "push"))
    ]
    assert policies[0].name == policies[1].name
    assert canonical_spec(str(PRETRAINED / "push")) == "pretrained:push"
    monkeypatch.chdir(PRETRAINED)
    assert canonical_spec("./push") == canonical_spec("pretrained:push") == "pretrained:push"
    for spec in ("random", "tcp://127.0.0.1:5555", "push/policy.json", "mine.py:Mine", "."):
        assert canonical_spec(spec) == spec
    for wrong in ("", "psh", "../pretrained/push", "/etc"):
        with pytest.raises(ValueError, match="expected pretrained: and one of push, push-hard"):
            check_spec(f"pretrained:{wrong}")


def test_acting_imports_no_more_than_it_needs(run_python):
    done = run_python("import sys, policies.student.policy; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "policies.student.network" in loaded
    unneeded = {"h5py", "experts", "komo_envs.lab", "policies.training", "policies.export_onnx"}
    assert not loaded & {*unneeded, "onnx", "onnxscript", "onnxruntime"}


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    absent = ModuleNotFoundError("No module named 'onnx'", name="onnx")
    monkeypatch.chdir(extras.CHECKOUT)
    said = "ONNX needs onnx: pip install -e '.[onnx]' -c constraints.txt"
    assert str(extras.missing("ONNX", "onnx", absent)) == said
    monkeypatch.chdir(tmp_path)
    assert f"pip install -e '{extras.CHECKOUT}[rl]' -c " in extras.install_command("rl")
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)  # where pip puts a wheel
    assert extras.install_command("rl") == "pip install 'komo-envs[rl]'"
    broken = ImportError("libusb-1.0.so.0: cannot open shared object file")
    assert str(extras.missing("camera", "real", broken)) == f"camera: {broken}"


def test_random_actions_fill_the_space():
    space = gym.spaces.Box(np.array([-1, 5], np.float32), np.array([1, 6], np.float32))
    obs_space = gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (2,))})
    actions, _ = RandomPolicy(obs_space, space).predict({"a": np.zeros((4000, 2))})
    np.testing.assert_allclose(actions.mean(axis=0), [0, 5.5], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), [2 / 12**0.5, 1 / 12**0.5], atol=0.02)


def test_zero_is_clipped_into_the_action_space():
    policy = load_policy("zero", ENVS[0])
    env = gym.make(ENVS[0])
    action, _ = policy.predict(env.observation_space.sample())
    env.close()
    low, high = env.action_space.low, env.action_space.high
    assert (low > 0).any(), "this env's space leaves zero out, which is what the test needs"
    np.testing.assert_array_equal(action, np.maximum(low, np.minimum(high, 0)))


@pytest.mark.parametrize("obs", [{}, {"a": np.zeros(3)}, {"a": np.zeros((2, 3))}])
def test_an_observation_of_another_space_is_refused(obs):
    space = gym.spaces.Box(-1, 1, (1,))
    policy = RandomPolicy(gym.spaces.Dict({"a": gym.spaces.Box(0, 1, (2,))}), space)
    with pytest.raises(ValueError, match="observation"):
        policy.predict(obs)


def test_the_expert_is_privileged_and_the_others_are_not():
    privileged = [load_policy(spec, ENVS[0]).privileged for spec in ("expert", "random", "zero")]
    assert privileged == [True, False, False]


def test_the_expert_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match=r"CartPole-v1.*expert"):
        load_policy("expert", "CartPole-v1")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nowhere", None, "nowhere is not there"),
        ("folder", {}, "is no checkpoint: the folder has no policy.json"),
        ("model.zip", "", "say --trust-code"),
        ("mine.py:Mine", "", "say --trust-code"),
        ("mine.py", "", r"expected file\.py:Class"),
        ("mine.pt", "", r"files ending in '\.pt'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_its_kind(tmp_path, name, content, reason):
    path = tmp_path / name.partition(":")[0]
    if isinstance(content, dict):
        path.mkdir()
        for file, text in content.items():
            (path / file).write_text(text)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        load_policy(str(tmp_path / name), ENVS[0])


def test_a_policys_hash_is_that_of_its_sources(tmp_path, monkeypatch):
    package = tmp_path / "some_sources"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "b.py").write_text("1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = hash_sources("some_sources")
    assert before == hash_sources("some_sources")
    for ignored in (".hidden", "__pycache__/b.pyc", "results/r.json"):
        (package / ignored).parent.mkdir(exist_ok=True)
        (package / ignored).write_text("1")
    assert hash_sources("some_sources", without=("results",)) == before
    hashes = {before, hash_sources("some_sources")}
    (package / "mesh.npz").write_bytes(b"1")  # data that code reads
    hashes.add(hash_sources("some_sources"))
    (package / "b.py").write_text("2")
    hashes.add(hash_sources("some_sources"))
    (package / "b.py").rename(package / "c.py")
    hashes.add(hash_sources("some_sources"))
    assert len(hashes) == 5

    random, expert = (load_policy(spec, ENVS[0]) for spec in ("random", "expert"))
    assert hash_policy("random", random) == hash_sources("policies.baselines")
    assert hash_policy("expert", expert) != hash_policy("random", random)
    with pytest.raises(ValueError, match="is not there"):
        load_policy(str(Path("no") / "policy"), ENVS[0])


def test_a_student_of_images_with_shadows_sees_shadows(tmp_path, command):
    student = tmp_path / "student"
    shutil.copytree(PRETRAINED / "push", student)
    card = json.loads((student / CARD).read_text())
    for file in card["origin"]["demos"].values():
        file["camera_options"] = {"shadows": True}
    (student / CARD).write_text(json.dumps(card))
    assert load_policy(str(student), ENVS[0]).env_options["shadows"] is True
    assert "shadows" not in load_policy(str(PRETRAINED / "push"), ENVS[0]).env_options
    done = command("policies.collect", "--policy", student, "--out", tmp_path / "push.h5")
    assert done.returncode == 2
    assert "learned from images with shadows" in done.stderr
