"""Configuration of reinforcement learning; imports no library of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from experts.dataset.format import DemoFile
from komo_envs import provenance
from policies.spec import TRAINING

AlgorithmName = Literal["sac", "tqc", "ppo"]
RewardMode = Literal["sparse", "dense"]

POLICY = "policy.zip"
"""File of the best policy, in the folder of a seed."""

ENV_OPTIONS: dict[str, Any] = {"obs_mode": "state", "control_mode": "ee_delta"}
"""Options of ``gym.make``: observations and control mode of these policies."""

_OFF_POLICY: dict[str, Any] = {
    "learning_rate": 7e-4,
    "batch_size": 256,
    "gamma": 0.95,
    "tau": 0.02,
    "policy_kwargs": {"net_arch": [256, 256]},
}
_PPO: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": 256,
    "batch_size": 256,
    "n_epochs": 10,
    "gamma": 0.98,
    "policy_kwargs": {"net_arch": [256, 256], "log_std_init": -0.5},
}
SETTINGS: dict[AlgorithmName, dict[str, Any]] = {
    "sac": _OFF_POLICY,
    "tqc": {  # with 10 quantiles it learns as fast as SAC; with 25, half as fast
        **_OFF_POLICY,
        "policy_kwargs": {**_OFF_POLICY["policy_kwargs"], "n_quantiles": 10},
        "top_quantiles_to_drop_per_net": 1,
    },
    "ppo": _PPO,
}
"""Hyperparameters of each algorithm; the others are the library's defaults."""
NUM_ENVS: dict[AlgorithmName, int] = {"sac": 1, "tqc": 1, "ppo": 8}
RANDOM_STEPS = 2000
"""Steps of random actions before learning, where the replay buffer starts empty."""


class Setting(NamedTuple):
    """Environment and algorithm of a training."""

    env_id: str
    algorithm: AlgorithmName
    her: bool
    reward_mode: RewardMode
    steps: int
    """Environment steps in all."""
    seed: int


class Job(NamedTuple):
    """The training of one seed."""

    setting: Setting
    demos: Path | None
    num_demos: int | None
    n_evals: int
    n_eval_episodes: int
    folder: Path

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.setting.seed

    @property
    def steps(self) -> int:
        """Environment steps in all."""
        return self.setting.steps

    @property
    def outcome(self) -> Path:
        """The file about the training, which is written last."""
        return self.folder / TRAINING

    @property
    def state(self) -> Path:
        """The file from which an interrupted training is resumed."""
        return self.folder / "state.pkl"

    @property
    def name(self) -> str:
        """Display name: algorithm, reward, demonstrations, seed."""
        setting = self.setting
        parts = [setting.algorithm.upper() + (" + HER" if setting.her else "")]
        parts.append(f"{setting.reward_mode} reward")
        if self.demos:
            parts.append("demonstrations in the replay buffer")
        return ", ".join([*parts, f"seed {self.seed}"])


def setup_of(job: Job) -> dict[str, Any]:
    """Setup of a training: one with the same is resumed, one with another is refused."""
    recipe = None
    if job.demos is not None:
        with DemoFile(job.demos) as file:
            recipe = {**file.recipe, "used": job.num_demos or len(file)}
    return {
        **job.setting._asdict(),
        "settings": {key: str(value) for key, value in SETTINGS[job.setting.algorithm].items()},
        "demonstrations": recipe,
        "n_evals": job.n_evals,
        "n_eval_episodes": job.n_eval_episodes,
        "sources": provenance.hash_sources("policies", without=provenance.OUTCOMES),
    }
