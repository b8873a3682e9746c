"""Terminal output of a run: its progress on stderr, its scores on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmark.evaluation.protocol import split_of
from benchmark.records.result import THRESHOLDS, Episode, Result, TaskScore


class Display(Protocol):
    """Is told of every finished episode. A context: it shows something inside it."""

    def __enter__(self) -> Display: ...
    def __exit__(self, *_: object) -> None: ...

    def add(self, episode: Episode) -> None:
        """Count a finished episode."""


def progress(
    total: dict[str, int], done: Iterable[Episode], alone: bool = True, workers: int = 1
) -> Display:
    """A display for ``total[env_id]`` episodes of each environment, those ``done`` among them.

    Args:
        total: Episodes.
        done: Those that are over.
        alone: Whether nothing else is shown meanwhile, over which a bar would be drawn.
        workers: Processes that play, which take a while to start.
    """
    display: Display = Bars(total, workers) if alone and sys.stderr.isatty() else Lines(total)
    for episode in done:
        display.add(episode)
    return display


class Bars:
    """A progress bar for each environment, for a terminal."""

    def __init__(self, total: dict[str, int], workers: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bars = {
            env_id: self._progress.add_task(env_id, total=count, rate="")
            for env_id, count in total.items()
        }
        starting = f"starting {workers} worker{'s' * (workers != 1)}"
        self._progress.update(next(iter(self._bars.values())), rate=starting)
        self._done: Counter[str] = Counter()
        self._successes: Counter[str] = Counter()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, episode: Episode) -> None:
        """Move the bar of the episode's environment, and renew its success rate."""
        self._done[episode.env] += 1
        self._successes[episode.env] += episode.success_at_end
        rate = self._successes[episode.env] / self._done[episode.env]
        self._progress.update(self._bars[episode.env], advance=1, rate=f"{rate:.1%} success")


class Lines:
    """A line for every tenth of the episodes, for a log file."""

    def __init__(self, total: dict[str, int]) -> None:
        self._total = total
        self._done: Counter[str] = Counter()
        self._successes: Counter[str] = Counter()
        self._showing = False

    def __enter__(self) -> Lines:
        self._showing = True
        return self

    def __exit__(self, *_: object) -> None:
        self._showing = False

    def add(self, episode: Episode) -> None:
        """Count the episode, and write a line if it completes a tenth."""
        env_id, total = episode.env, self._total[episode.env]
        self._done[env_id] += 1
        self._successes[env_id] += episode.success_at_end
        done = self._done[env_id]
        if self._showing and done * 10 // total > (done - 1) * 10 // total:
            rate = self._successes[env_id] / done
            line = f"{env_id}: {done} of {total} episodes, {rate:.1%} success"
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on a terminal that something goes on, and what; elsewhere nothing."""
    with Console(stderr=True).status(text) if sys.stderr.isatty() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def steps(text: str, count: int) -> Iterator[Callable[[], None]]:
    """A bar of so many steps on a terminal, lines elsewhere; yields what to call after a step."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),  # which moves while a step takes long
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    task, done = bar.add_task(text, total=count), 0

    def tell() -> None:
        if bar.disable:
            print(f"{text}: {done} of {count}", file=sys.stderr, flush=True)

    def advance() -> None:
        nonlocal done
        done += 1
        bar.advance(task)
        tell()

    with bar:
        tell()
        yield advance


def episodes_each(count: int) -> str:
    """How many episodes each environment has, in words."""
    return f"{count} episode{'s' * (count != 1)} each"


def show_scores(result: Result) -> None:
    """Print the table of scores, 80 columns wide, and the failures below it."""
    # A title of the table would be wrapped to its width.
    print(f"{result.policy.name}, suite {result.suite}, {episodes_each(len(result.seed_range()))}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # An id is never wrapped, however narrow the terminal is; what other columns say may be.
    table.add_column("environment", min_width=max(map(len, result.tasks)))
    centimetres = "/".join(f"{limit * 100:g}" for limit in THRESHOLDS)
    for heading in (
        "success, 95 % interval",
        f"% in {centimetres} cm",
        "median\nsteps",
        "episodes\na minute",
    ):
        table.add_column(heading)
    for env_id, task in result.tasks.items():
        table.add_row(
            env_id,
            success_text(task),
            "/".join(f"{share * 100:.1f}" for share in task.within.values()),
            f"{task.steps_median:g}",
            f"{task.episodes_per_minute:.0f}",
        )
    Console(markup=False, highlight=False).print(table)
    for env_id, task in result.tasks.items():
        for reason, count in task.failures.items():
            print(f"{env_id}: {count} x {reason}")
    if result.world != "sim":
        for env_id in result.tasks:
            print(f"{env_id}: {real_time([e for e in result.episodes if e.env == env_id])}")


def real_time(episodes: Sequence[Episode]) -> str:
    """How well episodes kept time, and the arm its way, in words."""
    actions = sum(episode.steps for episode in episodes)
    misses = sum(episode.deadline_misses for episode in episodes)
    delay = np.median([episode.delay for episode in episodes])
    errors = [e.tracking_error for e in episodes if e.tracking_error is not None]
    text = (
        f"{misses} of {actions} actions came after the end of their control period, the median one "
        f"{delay * 1000:.0f} ms after its observation"
    )
    return text + (f"; the arm was {np.mean(errors):.3f} rad off its commands" if errors else "")


def success_text(task: TaskScore) -> str:
    """Success rate and interval, in percent."""
    low, high = task.ci95
    return f"{task.success_rate:.1%} [{low * 100:.1f}, {high * 100:.1f}]"


def summary(result: Result) -> str:
    """The scores in one line."""
    seeds = result.seed_range()
    solved = ", ".join(
        f"{task.successes} of {task.episodes} episodes of {env_id} ({success_text(task)})"
        for env_id, task in result.tasks.items()
    )
    where = f"{split_of(seeds) or 'mixed'} seeds {seeds.start}:{seeds.stop}"
    return f"{result.policy.name} solves {solved} on {where}."
