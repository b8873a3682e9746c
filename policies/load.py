"""Load policies by their specs."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
from gymnasium import spaces

import komo_envs  # noqa: F401  (registers the environments)
from komo_envs.registration import check_module
from komo_envs.utils.extras import missing
from policies.base import Policy
from policies.baselines import RandomPolicy, ZeroPolicy
from policies.external.sb3 import SB3Options, load_sb3
from policies.spec import BUILT_IN, REMOTE, TRAINING, check_spec, split_spec


def load_policy(
    spec: str,
    env_id: str,
    trust_code: bool = False,
    device: str = "cpu",
    sb3: SB3Options | None = None,
) -> Policy:
    """Load a policy for an environment.

    Args:
        spec: ``"expert"``, ``"random"`` or ``"zero"``; ``"pretrained:NAME"``; the folder of a
            checkpoint, or a student's ONNX file; ``"file.py:Class"``; a .zip of Stable-Baselines3; ``"tcp://HOST:PORT"``.
        env_id: A registered id, or ``"module:Id"``. The policy is for its default options, or for
            those in its ``env_options``.
        trust_code: Whether code of the author of the policy may be run.
        device: PyTorch device of a checkpoint.
        sb3: How a model of Stable-Baselines3 was trained; ignored by others.

    Raises:
        ValueError: There is no such policy, or none for this environment, or it has code that is
            not trusted, or it does not compute on the device.
        OSError: A file of a checkpoint cannot be read.
        ImportError: A library that the policy needs is not installed.
    """
    check_spec(spec, trust_code)
    path, class_name = split_spec(spec)
    if device != "cpu" and not path.is_dir():
        raise ValueError(
            f"--device {device}: expected cpu with {spec!r}, no folder of a checkpoint"
        )
    # Imported late: each kind needs a library that others do not (PyTorch, the planner, ...).
    if spec.startswith(REMOTE):
        from policies.external.remote import RemotePolicy

        return RemotePolicy(spec, env_id)
    if spec not in BUILT_IN:
        if path.suffix == ".py":
            from policies.external.python_file import load_python

            return load_python(path, class_name, env_id)
        if path.suffix == ".zip":
            try:
                model = load_sb3(path, env_id, sb3)
            except ModuleNotFoundError as error:
                raise missing(f"policy {spec}", "rl", error) from error
            model.name = training_of(path).get("name", model.name)
            return model
        from policies.student.policy import load_student

        return load_student(path, env_id, device)
    if spec == "expert":
        from experts import make_expert

        return make_expert(env_id)
    env = gym.make(env_id)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    assert isinstance(observation_space, spaces.Dict)
    assert isinstance(action_space, spaces.Box)
    if spec == "random":
        return RandomPolicy(observation_space, action_space)
    return ZeroPolicy(observation_space, action_space)


def learned_env(spec: str, trust_code: bool = False) -> str | None:
    """The id of the environment that a policy was trained in; None if it is not known.

    Raises:
        ValueError: There is no such policy, or the environment is another module's and code is not
            trusted.
        OSError: A file cannot be read.
        ImportError: A library that the policy needs is not installed.
    """
    check_spec(spec, trust_code)
    path, _ = split_spec(spec)
    if spec in BUILT_IN or spec.startswith(REMOTE) or path.suffix == ".py":
        return None
    if path.suffix == ".zip":
        env_id = training_of(path).get("env_id")
    elif path.suffix == ".onnx":
        from policies.student.onnx_student import OnnxStudent

        env_id = OnnxStudent(path).features.env_id
    else:
        from policies.student.checkpoint import read_card

        env_id = read_card(path).features.env_id
    if env_id is not None:
        check_module(f"policy {spec}", env_id, trust_code)
    return env_id


def training_of(path: Path) -> dict[str, str]:
    """The name of a policy and the id of its environment, as policies.train_rl wrote them.

    The dict is empty for a policy of another training.

    Raises:
        ValueError: The file beside the policy is damaged.
        OSError: The file cannot be read.
    """
    file = path.parent / TRAINING
    if path.name != "policy.zip" or not file.exists():
        return {}
    try:
        said = json.loads(file.read_bytes())
        return {name: str(said[name]) for name in ("name", "env_id")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is damaged: {type(error).__name__}: {error}") from error
