"""Learn by reinforcement: ``python -m policies.train_rl --env KomoPush-v0 --her --out rl/push``."""

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
    """Learn by reinforcement, with Stable-Baselines3. The same command goes on where it stopped.

    The policy sees the privileged state and moves by increments (control_mode ee_delta). Each seed
    trains in a process of one thread; what solves most validation episodes is kept, as a file that
    Stable-Baselines3 loads and benchmark.run scores.
    """

    env: str
    """Its id, or module:Id."""
    out: Path
    """Folder, in which each seed has one."""
    algo: AlgorithmName = "sac"
    """Of the library: sac and tqc have a memory, ppo learns from what it has just done."""
    her: bool = False
    """Hindsight: what was reached counts as if it had been wanted. Not with ppo."""
    reward: RewardMode = "dense"
    """Sparse is success alone; dense has named terms."""
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
            arguments.episodes,
            arguments.looks,
            arguments.validation,
            arguments.out / f"seed{seed}",
        )
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
