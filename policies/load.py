"""From a word on the command line to a policy."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
from gymnasium import spaces

import komo_envs  # noqa: F401  (registers the environments)
from policies.base import Policy
from policies.trivial import RandomPolicy, ZeroPolicy

BUILT_IN = ("expert", "random", "zero")
CARD, WEIGHTS = "policy.json", "model.safetensors"
"""The files of a checkpoint."""
PRETRAINED = Path(__file__).parent / "pretrained"
"""The checkpoints that come with the project: a folder each."""


def load_policy(spec: str, env_id: str) -> Policy:
    """Load a policy for an environment.

    Args:
        spec: ``"expert"``, ``"random"`` or ``"zero"``, the folder of a checkpoint, or a student's
            ONNX file.
        env_id: A registered id, or ``"module:Id"``; the policy is for its default options, or for
            those that its ``env_options`` name.

    Raises:
        ValueError: There is no such policy, or none for this environment.
        OSError: A file of a checkpoint cannot be read.
    """
    check_spec(spec)
    if spec not in BUILT_IN:
        from policies.acting import load_student  # imports PyTorch, which the others do without

        return load_student(Path(spec), env_id)
    if spec == "expert":
        from experts import make_expert  # imports the planner, which the others do without

        return make_expert(env_id)
    env = gym.make(env_id)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    assert isinstance(observation_space, spaces.Dict)
    assert isinstance(action_space, spaces.Box)
    if spec == "random":
        return RandomPolicy(observation_space, action_space)
    return ZeroPolicy(observation_space, action_space)


def check_spec(spec: str) -> None:
    """Refuse what names no policy, or one of a kind that cannot be loaded yet.

    Raises:
        ValueError: The message says what ``spec`` is and what was expected.
    """
    if spec in BUILT_IN:
        return
    file, colon, class_name = spec.rpartition(":")
    path = Path(file if colon and class_name.isidentifier() else spec)
    built_in = ", ".join(BUILT_IN)
    if not path.exists():
        raise ValueError(f"policy {spec!r}: expected {built_in} or a path, and {path} is not there")
    if path.is_dir():
        if not (path / CARD).is_file():
            raise ValueError(f"policy {spec!r}: is no checkpoint: the folder has no {CARD}")
        return
    if path.suffix == ".onnx":
        return
    if path.suffix == ".zip":
        kind, missing = "models of Stable-Baselines3", "there is no adapter for its .zip files yet"
    elif path.suffix == ".py":
        kind, missing = "policies in Python files", "code from outside the project is not run yet"
    else:
        kind, missing = f"files ending in {path.suffix!r}", "no kind of policy is kept in them"
    raise ValueError(
        f"policy {spec!r}: {kind} cannot be scored by this version: {missing}; "
        f"expected {built_in}, the folder of a checkpoint, or an ONNX file"
    )
