"""Measure the speed of environments and expert: ``python -m benchmark.speed``."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import gymnasium as gym
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmark import provenance
from benchmark.cli import fail, parse, printing
from benchmark.protocol import VALIDATION, choose_envs
from benchmark.result import write_text
from benchmark.rollout import steps_of_episode
from experts import make_expert

MODULE = "benchmark.speed"

MODES: dict[str, dict[str, Any]] = {
    "state": {"obs_mode": "state"},
    "rgb 96": {"obs_mode": "rgb", "image_size": 96},
    "rgb 128": {"obs_mode": "rgb", "image_size": 128},
    "rgbd 96": {"obs_mode": "rgbd", "image_size": 96},
    "rgbd 128": {"obs_mode": "rgbd", "image_size": 128},
}
"""What is measured: options of ``gym.make``, by name."""

Item = TypeVar("Item")

WARM_UP = 10
"""Steps of each round that are not counted: the first ones fill caches."""


@dataclass(frozen=True)
class Arguments:
    """Measure the speed of an environment and its expert, in one process."""

    env: str = "KomoPush-v0"
    """Id of the environment."""
    rounds: int = 5
    """How often each mode is measured. They take turns, so that noise meets all alike."""
    steps: int = 200
    """Steps of a mode in each round."""
    episodes: int = 20
    """Episodes of the expert."""
    out: Path | None = None
    """A JSON file for the measurements."""


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
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        choose_envs((arguments.env,))
        make_expert(arguments.env)
        for name in ("rounds", "steps", "episodes"):
            if getattr(arguments, name) < 1:
                raise ValueError(f"--{name} {getattr(arguments, name)}: expected 1 or more")
        if arguments.out is not None:
            check_writable(arguments.out)
    except (ValueError, ImportError) as error:
        fail(MODULE, error)
    try:
        measure(arguments)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except OSError as error:
        fail(MODULE, f"stopped: {error}", code=1)


def check_writable(file: Path) -> None:
    """Find out before the measurements, which take minutes, whether they can be kept.

    Raises:
        ValueError: They cannot.
    """
    folder = file.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"--out {file}: its folder is not there")
    if file.is_dir():
        raise ValueError(f"--out {file}: is a folder, expected a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"--out {file}: cannot be written to: {error.strerror}") from None


def measure(arguments: Arguments) -> None:
    """Measure, write what was asked for, and print it.

    Raises:
        OSError: The file cannot be written.
    """
    times = {mode: StepTimes() for mode in MODES}
    turns = [mode for _ in range(arguments.rounds) for mode in MODES]
    for mode in show_progress(turns, "Steps"):
        measure_steps(arguments.env, MODES[mode], arguments.steps, times[mode])
    steps = {mode: time.medians() for mode, time in times.items()}
    expert = measure_expert(arguments.env, arguments.episodes)
    if arguments.out is not None:
        report = {
            "env": arguments.env,
            "rounds": arguments.rounds,
            "steps_per_round": arguments.steps,
            "steps": steps,
            "expert": expert,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        write_text(arguments.out, json.dumps(report, indent=2) + "\n")
    with printing(MODULE, "everything is measured"):
        show(arguments, steps, expert)


def measure_steps(env_id: str, options: dict[str, Any], steps: int, times: StepTimes) -> None:
    """Add the times of ``steps`` random steps of a fresh env to ``times``. Resets do not count."""
    env = gym.make(env_id, disable_env_checker=True, **options)
    try:
        env.action_space.seed(0)
        env.reset(seed=VALIDATION.start)
        inner: Any = env.unwrapped
        physics, rendering = Stopwatch(inner.world.step), Stopwatch(inner.renderer.render)
        inner.world.step, inner.renderer.render = physics, rendering
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


def measure_expert(env_id: str, episodes: int) -> dict[str, float]:
    """Play the first validation seeds with the expert.

    Returns:
        The median duration of a plan in ms, how many there were, and episodes a minute, by the
        median duration of an episode, its reset included.
    """
    expert = make_expert(env_id)
    env = gym.make(env_id, disable_env_checker=True)
    durations = []
    try:
        expert.attach(env)
        for seed in show_progress(VALIDATION[:episodes], "Expert"):
            started = perf_counter()
            for _ in steps_of_episode(env, expert, seed):
                pass
            durations.append(perf_counter() - started)
    finally:
        env.close()
    return {
        "plan_ms": statistics.median(expert.plan_seconds) * 1000,
        "plans": len(expert.plan_seconds),
        "episodes": episodes,
        "episodes_per_minute": 60 / statistics.median(durations),
    }


def show_progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """``items``, with a bar on stderr that moves only between them: no thread takes time."""
    console = Console(stderr=True)
    return track(items, what, console=console, transient=True, auto_refresh=False)


def show(
    arguments: Arguments, steps: dict[str, dict[str, float]], expert: dict[str, float]
) -> None:
    """Print the measurements."""
    table = Table(title=f"{arguments.env}, one process, medians", title_justify="left")
    for heading in ("observation", "steps/s", "step ms", "physics ms", "rendering ms"):
        table.add_column(heading, justify="left" if heading == "observation" else "right")
    table.add_column("own overhead ms", justify="right")
    for mode, numbers in steps.items():
        rate, *milliseconds = numbers.values()
        table.add_row(mode, f"{rate:.0f}", *(f"{ms:.2f}" for ms in milliseconds))
    console = Console()
    console.print(table)
    console.print(
        f"Expert: {expert['plan_ms']:.0f} ms a plan (of {expert['plans']}), "
        f"{expert['episodes_per_minute']:.0f} episodes a minute (of {expert['episodes']}).",
        highlight=False,
    )


if __name__ == "__main__":
    main()
