"""Terminal output of a run: its progress on stderr, its scores on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmark.evaluation.protocol import split_of
from benchmark.records.result import THRESHOLDS, Episode, Result, TaskScore
from komo_envs.utils.progress import ProgressDisplay


class EpisodeProgress:
    """Finished episodes and success rate of each environment. A context: it shows them inside it.

    Args:
        total: Number of episodes of each environment.
        done: Episodes that are finished already.
        bars: Whether progress bars may be shown: not where somebody is asked at the terminal.
        workers: Number of processes that play, which take a while to start.
    """

    def __init__(
        self,
        total: Mapping[str, int],
        done: Iterable[Episode] = (),
        bars: bool = True,
        workers: int = 1,
    ) -> None:
        done = list(done)
        self._done = Counter(episode.env for episode in done)
        self._successes = Counter(episode.env for episode in done if episode.success_at_end)
        self._display = ProgressDisplay(total, "episodes", self._done, bars)
        first = next(iter(total))
        starting = f"starting {workers} worker{'s' * (workers != 1)}"
        self._display.update(first, self._done[first], starting)
        for env_id in self._done:
            self._show(env_id)

    def __enter__(self) -> EpisodeProgress:
        self._display.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.__exit__()

    def add(self, episode: Episode) -> None:
        """Count a finished episode."""
        self._done[episode.env] += 1
        self._successes[episode.env] += episode.success_at_end
        self._show(episode.env)

    def _show(self, env_id: str) -> None:
        rate = self._successes[env_id] / self._done[env_id]
        self._display.update(env_id, self._done[env_id], f"{rate:.1%} success")


def episodes_each(count: int) -> str:
    """Number of episodes of each environment, in words."""
    return f"{count} episode{'s' * (count != 1)} each"


def show_scores(result: Result) -> None:
    """Print the table of scores, 80 columns wide, and the failures below it."""
    # A title of the table would be wrapped to its width.
    print(f"{result.policy.name}, suite {result.suite}, {episodes_each(len(result.seed_range()))}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # An id is never wrapped, however narrow the terminal is; the other columns may be.
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
    if result.backend != "sim":
        for env_id in result.tasks:
            print(f"{env_id}: {real_time([e for e in result.episodes if e.env == env_id])}")


def real_time(episodes: Sequence[Episode]) -> str:
    """Late actions, median latency and tracking error of episodes in real time, in words."""
    actions = sum(episode.steps for episode in episodes)
    misses = sum(episode.deadline_misses for episode in episodes)
    latency = np.median([episode.latency for episode in episodes])
    errors = [e.tracking_error for e in episodes if e.tracking_error is not None]
    text = (
        f"{misses} of {actions} actions came after the end of their control period, the median one "
        f"{latency * 1000:.0f} ms after its observation"
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
