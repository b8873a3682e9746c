"""Reinforcement learning: ``python -m policies.train_rl --env KomoPush-v0 --her --out rl/push``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from experts.dataset.format import DemoFile
from komo_envs.registration import find_spec
from komo_envs.suite import VALIDATION
from komo_envs.utils.cli import fail, parse
from komo_envs.utils.stats import wilson
from policies.rl.config import POLICY, AlgorithmName, Job, RewardMode, Setting, setup_of
from policies.training.multi_seed import check_seeds, check_setup, train_and_tell

MODULE = "policies.train_rl"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train with Stable-Baselines3. The same command resumes an interrupted training.

    The policy sees the privileged state and moves by increments (control_mode ee_delta). Each seed
    trains in a process of one thread. The policy that solves most validation episodes is kept, in a
    file that Stable-Baselines3 loads and benchmark.run scores.
    """

    env: str
    """Id of the environment, or module:Id."""
    out: Path
    """Output folder, with a folder for each seed."""
    algo: AlgorithmName = "sac"
    """Algorithm: sac and tqc are off-policy, with a replay buffer; ppo is on-policy."""
    her: bool = False
    """Use hindsight experience replay (sac and tqc only)."""
    reward: RewardMode = "dense"
    """Reward: sparse is success alone; dense is a sum of named terms."""
    demos: Path | None = None
    """File of demonstrations that pre-fill the replay buffer (sac and tqc only)."""
    num_demos: int | None = None
    """Number of demonstrations, the first ones; all if not given."""
    steps: int = 200_000
    """Number of environment steps."""
    n_evals: int = 10
    """Number of evaluations (and checkpoints) during training."""
    n_eval_episodes: int = 50
    """Number of validation episodes in each evaluation."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training; they train in parallel."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        from policies.rl.agent import train  # needs what --help does not

        jobs = prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    train_and_tell(jobs, train, summary, arguments.out, MODULE)


def prepare(arguments: Arguments) -> list[Job]:
    """Check everything; one job a seed.

    Raises:
        ValueError: An argument is wrong.
        OSError: The output folder cannot be written to.
    """
    find_spec(arguments.env)
    check_seeds(arguments.seeds)
    limits = {
        "steps": 10**8,
        "n_evals": arguments.steps,
        "n_eval_episodes": len(VALIDATION),
        "num_demos": 10**6,
    }
    for name, most in limits.items():
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected 1 to {most}")
    if arguments.algo == "ppo":
        for name in ("her", "demos"):
            if getattr(arguments, name):
                raise ValueError(f"--{name}: ppo has no replay buffer; expected sac or tqc")
    if arguments.demos is not None:
        check_demos(arguments.demos, arguments.env, arguments.num_demos)
    jobs = []
    for seed in arguments.seeds:
        job = Job(
            Setting(
                arguments.env,
                arguments.algo,
                arguments.her,
                arguments.reward,
                arguments.steps,
                seed,
            ),
            arguments.demos,
            arguments.num_demos,
            arguments.n_evals,
            arguments.n_eval_episodes,
            arguments.out / f"seed{seed}",
        )
        check_setup(job.folder, setup_of(job), job.outcome)
        jobs.append(job)
    return jobs


def check_demos(path: Path, env_id: str, num_demos: int | None) -> None:
    """Refuse demonstrations that cannot pre-fill a replay buffer.

    Raises:
        ValueError: They are of another environment, too few, or not of an expert alone.
    """
    with DemoFile(path) as file:
        if file.env_id != env_id:
            raise ValueError(f"--demos {path}: is of {file.env_id}; expected {env_id}")
        if file.perturbed or file.backend != "sim":
            raise ValueError(
                f"--demos {path}: expected demonstrations of an expert alone, in simulation"
            )
        if num_demos is not None and num_demos > len(file):
            raise ValueError(f"--num-demos {num_demos}: {path} has {len(file)}")


def summary(job: Job) -> str:
    """Outcome of a training, in one line."""
    said = json.loads(job.outcome.read_text())
    solved, minutes = said["solved"], said["minutes"]
    low, high = wilson(solved, job.n_eval_episodes)
    return (
        f"{job.folder}: {job.name} solves {solved} of {job.n_eval_episodes} validation episodes "
        f"({solved / job.n_eval_episodes:.1%} [{low * 100:.1f}, {high * 100:.1f}]) after "
        f"{said['step']} of {job.steps} steps, {minutes:g} min in all. Score it: "
        f"python -m benchmark.run --trust-code --policy {job.folder / POLICY} "
        f"--env {job.setting.env_id}"
    )


if __name__ == "__main__":
    main()
