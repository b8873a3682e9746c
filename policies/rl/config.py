"""What is learned by reinforcement, and how: all that takes no library to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from experts.dataset.format import DemoFile
from komo_envs.utils import provenance
from policies.spec import TRAINING

AlgorithmName = Literal["sac", "tqc", "ppo"]
RewardMode = Literal["sparse", "dense"]

POLICY = "policy.zip"
"""The file of a seed's folder with what was learned."""

ENV_OPTIONS: dict[str, Any] = {"obs_mode": "state", "control_mode": "ee_delta"}
"""Of ``gym.make``: what such a policy sees and does."""

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
"""What an algorithm is made with; what is not here is as in its library."""
ENVS_AT_ONCE: dict[AlgorithmName, int] = {"sac": 1, "tqc": 1, "ppo": 8}
RANDOM_STEPS = 2000
"""Of an algorithm with a memory that is empty, before it learns."""


class Setting(NamedTuple):
    """What is learned, and how."""

    env_id: str
    algorithm: AlgorithmName
    her: bool
    reward_mode: RewardMode
    steps: int
    """Of the environment, in all."""
    seed: int


class Job(NamedTuple):
    """The training of one seed."""

    setting: Setting
    demos: Path | None
    episodes: int | None
    looks: int
    validation: int
    folder: Path

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.setting.seed

    @property
    def steps(self) -> int:
        """Of the environment."""
        return self.setting.steps

    @property
    def outcome(self) -> Path:
        """What is said of the policy, which is written last."""
        return self.folder / TRAINING

    @property
    def state(self) -> Path:
        """Where it goes on after a kill."""
        return self.folder / "state.pkl"

    @property
    def name(self) -> str:
        """As a picture and a row are titled."""
        hindsight = " and HER" if self.setting.her else ""
        taught = ", from demonstrations" if self.demos else ""
        made_of = f"{self.setting.algorithm.upper()}{hindsight}, {self.setting.reward_mode} reward"
        return f"{made_of}{taught}, seed {self.seed}"


def setup_of(job: Job) -> dict[str, Any]:
    """What a training is: the same goes on, another is refused."""
    recipe = None
    if job.demos is not None:
        with DemoFile(job.demos) as file:
            recipe = {**file.recipe, "used": job.episodes or len(file)}
    return {
        **job.setting._asdict(),
        "settings": {key: str(value) for key, value in SETTINGS[job.setting.algorithm].items()},
        "demonstrations": recipe,
        "looks": job.looks,
        "validation": job.validation,
        "sources": provenance.hash_sources("policies", without=provenance.OUTCOMES),
    }
