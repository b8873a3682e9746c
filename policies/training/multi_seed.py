"""Trainings of several seeds in parallel, a process each, with progress bars."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from komo_envs.utils.cli import fail, plain, printing
from komo_envs.utils.files import check_utf8, check_writable
from komo_envs.utils.progress import ProgressDisplay
from komo_envs.utils.resume import resume_setup
from komo_envs.utils.workers import WorkerError, worker_environment

SETUP = "setup.json"
"""File with the setup of a training, in its folder."""


class Job(Protocol):
    """The training of one seed; can be pickled."""

    @property
    def seed(self) -> int:
        """Seed of the training."""

    @property
    def steps(self) -> int:
        """Number of steps in all."""

    @property
    def outcome(self) -> Path:
        """The file that is written last."""


class Report(NamedTuple):
    """Progress of a training."""

    seed: int
    step: int
    text: str
    saved: bool
    """Whether an interrupted training would resume from this step."""


class Reporter(Protocol):
    """Receives the progress of a training."""

    def __call__(self, step: int, text: str, saved: bool = False) -> None:
        """Report a step.

        Args:
            step: Number of finished steps.
            text: A line about the progress, or nothing.
            saved: Whether an interrupted training would resume from here.
        """


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse invalid seeds.

    Raises:
        ValueError: There are none, or two are the same, or one is negative.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {seeds}: expected different seeds, at least one")
    if min(seeds) < 0:
        raise ValueError(f"--seeds {min(seeds)}: expected 0 or more")


def check_setup(folder: Path, setup: Mapping[str, Any], outcome: Path) -> None:
    """Check that a folder is new, or holds a training of the same setup; write the setup if new.

    Args:
        folder: Folder of the training.
        setup: Setup of the training, JSON.
        outcome: The file that the training writes last.

    Raises:
        ValueError: The folder holds another training, or cannot be written to.
        OSError: The folder cannot be made.
    """
    check_utf8("--out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_writable("--out", outcome)
    file = folder / SETUP
    if outcome.exists() and not file.exists():
        raise ValueError(f"--out {folder}: holds a policy that another command made")
    resume_setup("--out", folder, "a training", file, setup)


def train_and_tell(
    jobs: list[Any],
    train: Callable[[Any, Reporter], None],
    summary: Callable[[Any], str],
    out: Path,
    module: str,
) -> None:
    """Train all, and print a summary of each; on an error, exit with one line.

    Args:
        jobs: See ``train_all``.
        train: See ``train_all``.
        summary: The outcome of a finished job, in one line.
        out: Folder of all.
        module: Module of the command.
    """
    kept: dict[int, int] = {}
    try:
        train_all(jobs, train, module, kept)
    except KeyboardInterrupt:
        fail(module, f"interrupted; {_rest(jobs, kept)}", code=130)
    except (WorkerError, OSError, ValueError) as error:
        fail(module, f"stopped: {plain(error)}; {_rest(jobs, kept)}", code=1)
    with printing(module, f"{out} is complete"):
        for job in jobs:
            print(summary(job))


def _rest(jobs: list[Any], kept: Mapping[int, int]) -> str:
    """Message: the step from which each training would resume, and how."""
    seeds = [
        f"seed {job.seed} is done"
        if job.outcome.exists()
        else f"seed {job.seed} is kept up to step {kept.get(job.seed, 0)} of {job.steps}"
        for job in jobs
    ]
    return f"{', '.join(seeds)}; the same command goes on from there"


def train_all(
    jobs: list[Any],
    train: Callable[[Any, Reporter], None],
    module: str,
    kept: dict[int, int],
) -> None:
    """Train all that are not finished, and show their progress.

    Args:
        jobs: ``Job`` each.
        train: ``train(job, report)``, a module-level function.
        module: Module of the command, with which errors begin.
        kept: Filled with the step from which each seed's training would resume.

    Raises:
        WorkerError: One of them failed.
    """
    jobs = [job for job in jobs if not job.outcome.exists()]
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    processes = {
        job.seed: context.Process(target=_run, args=(job, train, module, reports)) for job in jobs
    }
    with worker_environment():
        for process in processes.values():
            process.start()
    try:
        with ProgressDisplay({f"seed {job.seed}": job.steps for job in jobs}, "steps") as display:
            while any(process.is_alive() for process in processes.values()) or not reports.empty():
                with contextlib.suppress(queue.Empty):
                    report: Report = reports.get(timeout=0.5)
                    if report.saved:
                        kept[report.seed] = report.step
                    if report.text:
                        evaluated = "validation" in report.text
                        display.update(
                            f"seed {report.seed}", report.step, report.text, line=evaluated
                        )
    finally:
        for process in processes.values():
            process.kill()
            process.join()
    for job in jobs:
        if not job.outcome.exists():
            code = processes[job.seed].exitcode
            raise WorkerError(f"the training of seed {job.seed} ended with code {code}")


def _run(job: Any, train: Callable[..., None], module: str, reports: Any) -> None:
    """Main function of a training's process, which ends with the command, however that ends."""
    parent = multiprocessing.parent_process()

    def report(step: int, text: str, saved: bool = False) -> None:
        if parent is not None and not parent.is_alive():
            sys.exit(1)
        if text or saved:
            reports.put(Report(job.seed, step, text, saved))

    try:
        train(job, report)
    except (ValueError, OSError) as error:
        fail(module, f"seed {job.seed}: {error}", code=1)
