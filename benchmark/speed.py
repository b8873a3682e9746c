"""Measure the speed of environments, experts and students: ``python -m benchmark.speed``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector.utils import concatenate, create_empty_array
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmark.evaluation.display import episodes_each
from benchmark.evaluation.protocol import EVALUATION_SOURCES, choose_envs
from experts import make_expert
from komo_envs import provenance
from komo_envs.env import unwrap
from komo_envs.suite import VALIDATION
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, write_text
from komo_envs.utils.foreign_code import foreign_code
from policies.rollout import rollout
from policies.spec import PRETRAINED, check_spec, split_spec
from policies.student.checkpoint import read_card
from policies.student.policy import load_student

MODULE = "benchmark.speed"

MODES: dict[str, dict[str, Any]] = {
    "state": {"obs_mode": "state"},
    "rgb 96": {"obs_mode": "rgb", "image_size": 96},
    "rgb 128": {"obs_mode": "rgb", "image_size": 128},
    "rgbd 96": {"obs_mode": "rgbd", "image_size": 96},
    "rgbd 128": {"obs_mode": "rgbd", "image_size": 128},
}
"""Modes that are measured: options of ``gym.make``, by name."""

ONE_OF_EACH = ("KomoPush-v0", "KomoShelf-v0")
"""Default environments: one of each task."""

Item = TypeVar("Item")

Speeds = dict[str, dict[str, Any]]
"""By environment: its ``"steps"``, by mode, its ``"vectors"``, by mode, number and kind, its
``"expert"``, and its ``"students"``, by name."""

IN_VECTORS = ("state", "rgb 96")
"""Modes in which vector environments are measured."""

BATCH = 8
"""Scenes at once, in which a student's predictions are measured beside those of single ones."""

WARM_UP = 10
"""Steps of each round that are not counted: the first ones fill caches."""


@dataclass(frozen=True)
class Arguments:
    """Measure the speed of environments, their experts and students, in one process."""

    env: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Ids of the environments, or module:Id; one of each task of the suite if none is given."""
    rounds: int = 5
    """Number of measurements of each mode. Modes take turns, so that noise affects all equally."""
    steps: int = 200
    """Number of steps of a mode in each round."""
    num_envs: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of environments in a vector environment; each is measured."""
    episodes: int = 20
    """Number of episodes of each expert, and of each student."""
    policies: tuple[str, ...] | None = None
    """Folders of students; those that come with the project, of these environments, if not
    given."""
    out: Path | None = None
    """JSON file of the measurements."""


@dataclass
class StepTimes:
    """Durations in ms of the steps of one mode, all of the same length."""

    step: list[float] = field(default_factory=list)
    physics: list[float] = field(default_factory=list)
    rendering: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        """Steps a second, and where a step's time goes, in ms; each the median over the steps."""
        parts = zip(self.step, self.physics, self.rendering, strict=True)
        step = statistics.median(self.step)
        return {
            "steps_per_second": 1000 / step,
            "step_ms": step,
            "physics_ms": statistics.median(self.physics),
            "rendering_ms": statistics.median(self.rendering),
            "overhead_ms": statistics.median(s - p - r for s, p, r in parts),
        }


class Stopwatch:
    """Stands in for a function, and adds up in ``ms`` how long it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.ms = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        started = perf_counter()
        try:
            return self._function(*arguments, **options)
        finally:
            self.ms += (perf_counter() - started) * 1000


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE, repeatable=("--env",))
    try:
        envs = choose_envs(arguments.env, default=ONE_OF_EACH)
        for env_id in envs:
            make_expert(env_id)
        folders = [*PRETRAINED.iterdir()]
        if arguments.policies is not None:
            for spec in arguments.policies:
                check_spec(spec)
            folders = [split_spec(spec)[0] for spec in arguments.policies]
        students = {folder: read_card(folder).features.env_id for folder in sorted(folders)}
        for folder, env_id in students.items():
            if arguments.policies is not None and env_id not in envs:
                raise ValueError(f"--policies {folder}: is of {env_id}, which is not measured")
        counts = [(name, getattr(arguments, name)) for name in ("rounds", "steps", "episodes")]
        for name, count in [*counts, *(("num-envs", count) for count in arguments.num_envs)]:
            if count < 1:
                raise ValueError(f"--{name} {count}: expected 1 or more")
        if arguments.out is not None:
            check_writable("--out", arguments.out)
    except (ValueError, ImportError) as error:
        fail(MODULE, error)
    try:
        measure(arguments, envs, students)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)


def measure(arguments: Arguments, envs: tuple[str, ...], students: dict[Path, str]) -> None:
    """Measure, write the file if one was asked for, and print the measurements.

    Args:
        arguments: Arguments of the command.
        envs: Ids of environments.
        students: Folders of students, and the environment of each.

    Raises:
        OSError: The file cannot be written.
    """
    times = {(env_id, mode): StepTimes() for env_id in envs for mode in MODES}
    for env_id, mode in show_progress([*times] * arguments.rounds, "Steps"):
        measure_steps(env_id, MODES[mode], arguments.steps, times[env_id, mode])
    speeds: Speeds = {
        env_id: {
            "steps": {mode: times[env_id, mode].medians() for mode in MODES},
            "vectors": measure_vectors(env_id, arguments.num_envs, arguments.steps),
            "expert": measure_expert(env_id, arguments.episodes),
            "students": {
                folder.name: measure_student(folder, env_id, arguments.episodes)
                for folder, learned in students.items()
                if learned == env_id
            },
        }
        for env_id in envs
    }
    if arguments.out is not None:
        report = {
            "rounds": arguments.rounds,
            "steps_per_round": arguments.steps,
            "episodes": arguments.episodes,
            "envs": speeds,
            "versions": provenance.versions(envs, EVALUATION_SOURCES),
            "machine": provenance.machine(),
        }
        write_text(arguments.out, json.dumps(report, indent=2) + "\n")
    with printing(MODULE, "everything is measured"):
        print_speeds(speeds, arguments.episodes)


def measure_steps(env_id: str, options: dict[str, Any], steps: int, times: StepTimes) -> None:
    """Add the times of ``steps`` random steps of a fresh env to ``times``. Resets do not count."""
    env = gym.make(env_id, disable_env_checker=True, **options)
    try:
        env.action_space.seed(0)
        env.reset(seed=VALIDATION.start)
        komo_env: Any = unwrap(env)  # whose methods are replaced
        physics, rendering = Stopwatch(komo_env.world.step), Stopwatch(komo_env.renderer.render)
        komo_env.world.step, komo_env.renderer.render = physics, rendering
        for step in range(WARM_UP + steps):
            action = env.action_space.sample()
            physics.ms = rendering.ms = 0.0
            started = perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            duration = (perf_counter() - started) * 1000
            if step >= WARM_UP:
                times.step.append(duration)
                times.physics.append(physics.ms)
                times.rendering.append(rendering.ms)
            if terminated or truncated:
                env.reset()
    finally:
        env.close()


def measure_vectors(
    env_id: str, numbers: Sequence[int], steps: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Steps a second of all environments of a vector environment together, resets and all.

    Args:
        env_id: Id of the environments.
        numbers: Numbers of environments.
        steps: Number of steps of each of them.

    Returns:
        By mode, number, and kind: ``"sync"``, one program that steps one after the other, or
        ``"async"``, a process for each.
    """
    rates: dict[str, dict[str, dict[str, float]]] = {}
    kinds = ("sync", "async")
    cases = [(mode, number, kind) for mode in IN_VECTORS for number in numbers for kind in kinds]
    for mode, number, kind in show_progress(cases, "Vectors"):
        envs = gym.make_vec(env_id, number, kind, **MODES[mode])
        try:
            envs.action_space.seed(0)
            envs.reset(seed=VALIDATION.start)
            for _ in range(WARM_UP):
                envs.step(envs.action_space.sample())
            started = perf_counter()
            for _ in range(steps):
                envs.step(envs.action_space.sample())
            rate = number * steps / (perf_counter() - started)
            rates.setdefault(mode, {}).setdefault(str(number), {})[kind] = rate
        finally:
            envs.close()
    return rates


def measure_expert(env_id: str, episodes: int) -> dict[str, float]:
    """Play the first validation seeds with the expert.

    An expert may plan again within an episode, mostly what is left of its plan, in less time. So
    the first plans, which are whole, are counted apart.

    Returns:
        Of the first plans, the median duration and the 95th percentile in ms; medians of an
        episode's planning time in ms and of its whole duration, its reset included, as episodes a
        minute; and the mean number of plans.
    """
    expert = make_expert(env_id)
    env = gym.make(env_id, disable_env_checker=True)
    durations: list[float] = []
    plans: list[list[float]] = []
    try:
        expert.attach(env)
        for seed in show_progress(VALIDATION[:episodes], "Expert"):
            before = len(expert.plan_seconds)
            started = perf_counter()
            for _ in rollout(expert, env, seed, foreign_code):
                pass
            durations.append(perf_counter() - started)
            plans.append(expert.plan_seconds[before:])
    finally:
        env.close()
    first = [1000 * seconds[0] for seconds in plans if seconds] or [0.0]
    return {
        "first_plan_ms": float(np.median(first)),
        "first_plan_ms_95": float(np.percentile(first, 95)),
        "planning_ms": 1000 * statistics.median(map(sum, plans)),
        "plans": statistics.fmean(map(len, plans)),
        "episodes_per_minute": 60 / statistics.median(durations),
    }


def measure_student(folder: Path, env_id: str, episodes: int) -> dict[str, float]:
    """Play the first validation seeds with a student.

    Returns:
        The median duration and the 95th percentile of its predictions of a chunk, in ms, on one
        thread, as in ``benchmark.run``; the median for each of ``BATCH`` scenes at once; the share
        of an episode that predicting takes; and the median of an episode's duration, as episodes a
        minute.
    """
    torch.set_num_threads(1)
    student = load_student(folder, env_id)
    env = gym.make(env_id, disable_env_checker=True, **student.env_options)
    durations: list[float] = []
    try:
        for seed in show_progress(VALIDATION[:episodes], folder.name):
            started = perf_counter()
            for _ in rollout(student, env, seed, foreign_code):
                pass
            durations.append(perf_counter() - started)
        chunks = [1000 * seconds for seconds in student.chunk_seconds]
        scenes = [env.reset(seed=seed)[0] for seed in VALIDATION[:BATCH]]
    finally:
        env.close()
    space = env.observation_space
    batch: Any = create_empty_array(space, BATCH)
    concatenate(space, scenes, batch)
    student.chunk_seconds.clear()
    for _ in range(WARM_UP + episodes):
        student.predict(batch)
    at_once = statistics.median(student.chunk_seconds[WARM_UP:])
    return {
        "chunk_ms": float(np.median(chunks)),
        "chunk_ms_95": float(np.percentile(chunks, 95)),
        "chunk_ms_in_batch": 1000 * at_once / BATCH,
        "predicting": sum(chunks) / 1000 / sum(durations),
        "episodes_per_minute": 60 / statistics.median(durations),
    }


def show_progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """``items``, with a bar on stderr that moves only between them: no thread takes time."""
    console = Console(stderr=True)
    return track(items, what, console=console, transient=True, auto_refresh=False)


def print_speeds(speeds: Speeds, episodes: int) -> None:
    """Print the measurements."""
    steps = _table("Steps, one process, medians")
    for heading in ("observation", "steps/s", "step ms", "physics ms", "render ms", "own ms"):
        steps.add_column(heading, justify="left" if heading == "observation" else "right")
    experts = _table(f"Experts, {episodes_each(episodes)}")
    for heading in ("first plan ms", "95 %", "planning ms", "plans", "episodes/min"):
        experts.add_column(heading, justify="right")
    for env_id, speed in speeds.items():
        for mode, numbers in speed["steps"].items():
            rate, *milliseconds = numbers.values()
            steps.add_row(env_id, mode, f"{rate:.0f}", *(f"{ms:.2f}" for ms in milliseconds))
        first, most, planning, plans, rate = speed["expert"].values()
        times = (f"{ms:.0f}" for ms in (first, most, planning))
        experts.add_row(env_id, *times, f"{plans:.1f}", f"{rate:.0f}")
    vectors = _table("Vector environments, steps/s of all together")
    for heading in ("observation", "environments", "one program", "a process each"):
        vectors.add_column(heading, justify="left" if heading == "observation" else "right")
    for env_id, speed in speeds.items():
        for mode, numbers in speed["vectors"].items():
            for number, kinds in numbers.items():
                vectors.add_row(env_id, mode, number, *(f"{rate:.0f}" for rate in kinds.values()))
    students = _table(f"Students, {episodes_each(episodes)}")
    of_batch = f"ms, {BATCH} at once"
    for heading in ("student", "chunk ms", "95 %", of_batch, "predicting", "episodes/min"):
        students.add_column(heading, justify="left" if heading == "student" else "right")
    for env_id, speed in speeds.items():
        for name, numbers in speed["students"].items():
            *times, share, rate = numbers.values()
            milliseconds = (f"{ms:.1f}" for ms in times)
            students.add_row(env_id, name, *milliseconds, f"{share:.0%}", f"{rate:.0f}")
    console = Console(markup=False, highlight=False)
    console.print(steps, "", vectors, "", experts, "", students, sep="\n")


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("environment", no_wrap=True)
    return table


if __name__ == "__main__":
    main()
