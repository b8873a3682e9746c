"""Policies that bring code of their own: Python files, and models of Stable-Baselines3.

Loading one runs what its author wrote, so it is done only if the user has said so.
"""

from __future__ import annotations

import importlib.util
import itertools
import pkgutil
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym

import komo_envs  # noqa: F401  (registers the environments)
from policies.base import Policy

OBS_MODES = ("state", "rgb", "depth", "rgbd")
CONTROL_MODES = ("ee", "joint", "ee_delta")
ALGORITHMS = {
    "stable_baselines3.common": ("stable_baselines3:PPO", "PPO or A2C"),
    "stable_baselines3.sac": ("stable_baselines3:SAC", "SAC"),
    "stable_baselines3.td3": ("stable_baselines3:TD3", "TD3 or DDPG"),
    "sb3_contrib.tqc": ("sb3_contrib:TQC", "TQC"),
}
"""Those with continuous actions, by the package of their policies: what loads them, and what they
are called. Of two that have one kind of policy, a file does not say which it is of."""


def load_python(path: Path, class_name: str, env_id: str) -> Policy:
    """Make ``Class(env_id)`` of a Python file.

    Raises:
        ValueError: The file cannot be run, has no such class, or it makes no policy.
    """
    name = f"komo_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"policy {path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
        policy = getattr(module, class_name)(env_id)
    except Exception as error:  # of any kind: the code is someone else's
        raise ValueError(
            f"policy {path}:{class_name}: cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(policy, "predict", None)):
        raise ValueError(f"policy {path}:{class_name}: has no method predict; see policies/base.py")
    return policy


class SB3Policy:
    """A model of Stable-Baselines3, and the env that it was trained in.

    Args:
        model: As ``load`` returns it.
        env_options: For ``gym.make``, so that the env's spaces are the model's.
        algorithm: What has trained it.
    """

    def __init__(self, model: Any, env_options: dict[str, Any], algorithm: str) -> None:
        self.model = model
        self.name = f"Stable-Baselines3 {algorithm}"
        self.env_options = env_options
        self.privileged = env_options["obs_mode"] == "state"

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """As the model does."""
        return self.model.predict(obs, state, episode_start, deterministic)


def load_sb3(path: Path, env_id: str) -> SB3Policy:
    """A model that ``save`` of Stable-Baselines3 has written.

    Raises:
        ValueError: It is none, or was trained with other spaces than this env's.
        ImportError: Stable-Baselines3 is not installed.
    """
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
        module = data["policy_class"].__module__  # type: ignore[index]
        loader, name = ALGORITHMS[module.rpartition(".")[0]]
        # To act it needs no memory of what it has seen, which may be larger than the machine's.
        memory: dict[str, Any] = {
            "buffer_size": 1,
            "replay_buffer_class": None,
            "replay_buffer_kwargs": {},
        }
        model = pkgutil.resolve_name(loader).load(path, device="cpu", **memory)
    except Exception as error:  # of any kind, from pickle's depths
        names = ", ".join(name for _, name in ALGORITHMS.values())
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"policy {path}: no model of {names}: {said}") from error
    for obs_mode, control_mode in itertools.product(OBS_MODES, CONTROL_MODES):
        options: dict[str, Any] = {"obs_mode": obs_mode, "control_mode": control_mode}
        env: gym.Env[Any, Any] = gym.make(env_id, disable_env_checker=True, **options)
        spaces = _as_trained(env.observation_space), env.action_space
        env.close()
        if spaces == (model.observation_space, model.action_space):
            return SB3Policy(model, options, name)
    raise ValueError(
        f"policy {path}: has the spaces {model.observation_space} and {model.action_space}, which "
        f"{env_id} has in no obs_mode and control_mode"
    )


def _as_trained(space: Any) -> Any:
    """A space of observations as a model has it: Stable-Baselines3 puts channels first."""
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.vec_env import VecTransposeImage

    return gym.spaces.Dict(
        {
            key: VecTransposeImage.transpose_space(part, key) if is_image_space(part) else part
            for key, part in space.items()
        }
    )
