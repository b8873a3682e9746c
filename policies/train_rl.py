"""Learn by reinforcement: ``python -m policies.train_rl --env KomoPush-v0 --her --out rl/push``."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from experts.demos import DemoFile
from komo_envs.ids import find_spec
from komo_envs.suite import VALIDATION
from komo_envs.tools import provenance
from komo_envs.tools.cli import fail, parse, printing
from komo_envs.tools.files import check_writable, replacing, write_text
from komo_envs.tools.stats import wilson
from komo_envs.tools.workers import WorkerError
from policies import rl
from policies.curves import Curves
from policies.evaluate import successes
from policies.foreign import SB3Policy
from policies.side_by_side import check_seeds, check_setup, train_all

MODULE = "policies.train_rl"
SOURCES = ("komo_envs", "policies")
POLICY = "policy.zip"
"""The file of a seed's folder with what was learned."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Learn from rewards alone, with Stable-Baselines3. The same command goes on where it stopped.

    The policy sees the privileged state and moves by increments (control_mode ee_delta). Each seed
    trains in a process of one thread; what solves most validation episodes is kept, as a file that
    Stable-Baselines3 loads and benchmark.run scores.
    """

    env: str
    """Its id, or module:Id."""
    out: Path
    """Folder, in which each seed has one."""
    algo: rl.AlgorithmName = "sac"
    """Of the library: sac and tqc have a memory, ppo learns from what it has just done."""
    her: bool = False
    """Hindsight: what was reached counts as if it had been wanted. Not with ppo."""
    reward: rl.RewardMode | None = None
    """Sparse or dense; if not given, sparse with hindsight, dense without."""
    demos: Path | None = None
    """Demonstrations that the memory is filled with before anything is done."""
    episodes: int | None = None
    """How many of them, the first ones; all if not given."""
    steps: int = 200_000
    """Of the environment."""
    looks: int = 10
    """How often the policy is looked at on the way, and the training saved."""
    validation: int = 50
    """Episodes of each look, on validation seeds."""
    seeds: tuple[int, ...] = (0,)
    """Of the training; they train side by side."""


REPORT_STEPS = 500
"""Between two lines about a training."""


class Job(NamedTuple):
    """The training of one seed."""

    setting: rl.Setting
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
        return self.folder / "training.json"

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


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        jobs = prepare(arguments)
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    try:
        train_all(jobs, train, MODULE)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted; the same command goes on", code=130)
    except (WorkerError, OSError, ValueError) as error:
        fail(MODULE, f"stopped: {error}; the same command goes on", code=1)
    with printing(MODULE, f"{arguments.out} is complete"):
        for job in jobs:
            print(summary(job))


def prepare(arguments: Arguments) -> list[Job]:
    """Check everything; one job a seed.

    Raises:
        ValueError: An argument is wrong.
        OSError: The output folder cannot be written to.
    """
    find_spec(arguments.env)
    check_seeds(arguments.seeds)
    for name, most in (("steps", 10**8), ("looks", arguments.steps), ("episodes", 10**6)):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"--{name} {value}: expected 1 to {most}")
    if not 1 <= arguments.validation <= len(VALIDATION):
        raise ValueError(f"--validation {arguments.validation}: expected 1 to {len(VALIDATION)}")
    if arguments.algo == "ppo":
        for name in ("her", "demos"):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: ppo has no memory; expected sac or tqc")
    if arguments.demos is not None:
        check_demos(arguments.demos, arguments.env, arguments.episodes)
    reward = arguments.reward or ("sparse" if arguments.her else "dense")
    jobs = []
    for seed in arguments.seeds:
        task = (arguments.env, arguments.algo, arguments.her, reward, arguments.steps)
        job = Job(
            rl.Setting(*task, seed),
            arguments.demos,
            arguments.episodes,
            arguments.looks,
            arguments.validation,
            arguments.out / f"seed{seed}",
        )
        job.folder.mkdir(parents=True, exist_ok=True)
        check_writable("--out", job.outcome)
        check_setup(job.folder, setup_of(job), job.outcome)
        jobs.append(job)
    return jobs


def check_demos(path: Path, env_id: str, episodes: int | None) -> None:
    """Refuse demonstrations that a memory cannot be filled with.

    Raises:
        ValueError: They are of another environment, too few, or not what an expert did.
    """
    with DemoFile(path) as file:
        if file.env_id != env_id:
            raise ValueError(f"--demos {path}: is of {file.env_id}; expected {env_id}")
        if file.perturbed or file.world != "sim":
            raise ValueError(f"--demos {path}: expected what an expert did alone, in simulation")
        if episodes is not None and episodes > len(file):
            raise ValueError(f"--episodes {episodes}: {path} has {len(file)}")


def setup_of(job: Job) -> dict[str, Any]:
    """What a training is: the same goes on, another is refused."""
    recipe = None
    if job.demos is not None:
        with DemoFile(job.demos) as file:
            recipe = {**file.recipe, "used": job.episodes or len(file)}
    return {
        **job.setting._asdict(),
        "settings": {key: str(value) for key, value in rl.SETTINGS[job.setting.algorithm].items()},
        "demonstrations": recipe,
        "looks": job.looks,
        "validation": job.validation,
        "sources": provenance.hash_sources("policies", without=provenance.OUTCOMES),
    }


def train(job: Job, report: Callable[[int, str], None]) -> None:
    """Train one seed, or go on with it, and keep the policy that does best on validation seeds.

    Args:
        job: What to train.
        report: Is called now and then with the step, and a line about it.

    Raises:
        ValueError: The demonstrations, or what is to be gone on with, cannot be used.
        OSError: A file cannot be written.
    """
    torch.set_num_threads(1)
    setting, envs = job.setting, rl.make_envs(job.setting)
    started = time.monotonic()
    if job.state.exists():
        model, progress = rl.restore(setting, envs, job.state)
    else:
        model, progress = rl.make_model(setting, envs, job.demos, job.episodes), rl.Progress()
    started -= progress.seconds
    curves = Curves(job.folder, progress.rows)
    model.set_logger(Logger(str(job.folder), [_ToTensorBoard(curves)]))
    each = math.ceil(setting.steps / job.looks)
    while model.num_timesteps < setting.steps:
        envs.env_method("begin", progress.stretch)
        model.set_env(envs, force_reset=True)
        left = min(each, setting.steps - model.num_timesteps)
        model.learn(left, callback=_Reporting(report), reset_num_timesteps=False)
        _end_episode(model)
        count, step = validate(model, job), model.num_timesteps
        trained = model.ep_success_buffer
        values = {"validation success": count / job.validation}
        if trained:
            values["training success"] = sum(trained) / len(trained)
        curves.add(step, values)
        report(step, f"solves {count} of {job.validation} validation episodes")
        if count >= progress.best:
            progress.best, progress.best_step = count, step
            with replacing(job.folder / POLICY) as scratch:
                model.save(scratch)
        progress.stretch += 1
        progress.seconds = time.monotonic() - started
        rl.save(model, progress, job.state)
    envs.close()
    curves.draw(job.folder / "curves.png", job.name)
    write_text(job.outcome, json.dumps(outcome(job, progress), indent=1) + "\n")
    job.state.unlink()


class _Reporting(BaseCallback):
    """Says every now and then how it goes."""

    def __init__(self, report: Callable[[int, str], None]) -> None:
        super().__init__()
        self._report, self._said = report, 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._said + REPORT_STEPS:
            self._said = self.num_timesteps
            ended: list[bool] = [*(self.model.ep_success_buffer or ())]
            text = f"{sum(ended)} of the last {len(ended)} episodes succeeded"
            self._report(self.num_timesteps, text)
        return True


class _ToTensorBoard(KVWriter):
    """What the library logs, beside our own curves."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, float | int)}
        self._curves.log(step, numbers)

    def close(self) -> None:
        pass


def _end_episode(model: Any) -> None:
    """What follows in the memory is another episode."""
    memory = getattr(model, "replay_buffer", None)
    if isinstance(memory, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does what it is asked to
            memory.truncate_last_trajectory()


def validate(model: Any, job: Job) -> int:
    """How many validation episodes the policy solves."""
    env = gym.make(job.setting.env_id, disable_env_checker=True, **rl.ENV_OPTIONS)
    try:
        policy = SB3Policy(model, rl.ENV_OPTIONS)
        return sum(successes(policy, env, VALIDATION[: job.validation]))
    finally:
        env.close()


def outcome(job: Job, progress: rl.Progress) -> dict[str, Any]:
    """What is said of the policy: how it came about."""
    commit = provenance.commit()
    return {
        "name": job.name,
        **setup_of(job),
        "step": progress.best_step,
        "solved": progress.best,
        "minutes": round(progress.seconds / 60, 1),
        "machine": provenance.machine(),
        "versions": provenance.versions([job.setting.env_id], SOURCES),
        "commit": commit[0] if commit else None,
    }


def summary(job: Job) -> str:
    """What became of a training, in one line."""
    said = json.loads(job.outcome.read_text())
    solved, minutes = said["solved"], said["minutes"]
    low, high = wilson(solved, job.validation)
    return (
        f"{job.folder}: {job.name} solves {solved} of {job.validation} validation episodes "
        f"({solved / job.validation:.1%} [{low * 100:.1f}, {high * 100:.1f}]) after "
        f"{said['step']} of {job.steps} steps, {minutes:g} min in all. Score it: "
        f"python -m benchmark.run --trust-code --policy {job.folder / POLICY} "
        f"--env {job.setting.env_id}"
    )


if __name__ == "__main__":
    main()
