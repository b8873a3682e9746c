"""Comparison of two policies by their results."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmark.records.result import Episode, Result, load_result
from komo_envs.utils.stats import barnard, holm, mcnemar, newcombe, newcombe_paired

SIGNIFICANT = 0.05
MOST = 1000
"""Largest number of episodes in counts: Barnard's test looks at all tables of so many."""
SAME_VERSIONS = ("robotic",)
"""Packages whose versions two results must share: the simulation."""


@dataclass(frozen=True)
class Counts:
    """Successes and episodes of a policy of which nothing else is known."""

    successes: int
    episodes: int


@dataclass(frozen=True)
class PolicyComparison:
    """Comparison of two policies in one environment."""

    env: str
    """Id of the environment; empty where it is not known."""
    a: Counts
    b: Counts
    difference: float
    """Success rate of a minus that of b."""
    interval: tuple[float, float]
    """95 % interval of the difference, not corrected for the number of environments."""
    p: float
    """Probability of a difference at least as large if both were equally good (p-value). After
    ``holm``, corrected for the number of environments."""
    paired: tuple[int, int] | None
    """Number of scenes in which only a, and only b succeeds; None if scenes cannot be compared."""
    left_out: tuple[int, int] = (0, 0)
    """Number of episodes of a, and of b, in scenes that the other has not."""

    @property
    def test(self) -> str:
        """Name of the significance test."""
        return "Barnard's exact test" if self.paired is None else "exact McNemar test"


def read_result_or_counts(word: str) -> Result | Counts:
    """A result file, or counts.

    Raises:
        ValueError: ``word`` is neither.
        OSError: It cannot be read.
    """
    if match := re.fullmatch(r"(\d+)/(\d+)", word):
        successes, episodes = int(match[1]), int(match[2])
        if not successes <= episodes or not 1 <= episodes <= MOST:
            raise ValueError(f"{word}: expected K/N with K <= N and 1 <= N <= {MOST}")
        return Counts(successes, episodes)
    return load_result(Path(word))


def compare(a: Result | Counts, b: Result | Counts) -> list[PolicyComparison]:
    """Compare two policies in every environment that both have been scored in.

    Raises:
        ValueError: They cannot be compared: there is no such environment, or they have no seed in
            common, are of another suite or simulation, or scenes differ.
    """
    if isinstance(a, Result) and isinstance(b, Result):
        check_comparable(a, b)
        envs = [env_id for env_id in a.envs if env_id in b.tasks]
        found = [_paired(env_id, *common_episodes(a, b, env_id)) for env_id in envs]
        sizes = len(a.seed_range()), len(b.seed_range())
        left_out = [(sizes[0] - one.a.episodes, sizes[1] - one.b.episodes) for one in found]
        found = [replace(one, left_out=out) for one, out in zip(found, left_out, strict=True)]
    else:
        found = [_unpaired(_counts(a), _counts(b))]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(one, p=p) for one, p in zip(found, adjusted, strict=True)]


def check_comparable(a: Result, b: Result) -> None:
    """Refuse results whose episodes are not of the same scenes.

    Raises:
        ValueError: They differ in a field that the message names.
    """
    if a.suite != b.suite:
        raise ValueError(f"suite: {a.suite} and {b.suite}; expected the same")
    if a.lab != b.lab:
        raise ValueError("lab: the laboratories differ; expected the same")
    if a.backend != b.backend:
        raise ValueError(f"backend: {a.backend} and {b.backend}; expected the same")
    if not _common_seeds(a, b):
        raise ValueError(
            f"seeds: {a.seeds[0]}:{a.seeds[1]} and {b.seeds[0]}:{b.seeds[1]} have none in common"
        )
    for name in SAME_VERSIONS:
        versions = [str(result.versions.get(name)) for result in (a, b)]
        if versions[0] != versions[1]:
            raise ValueError(f"versions.{name}: {' and '.join(versions)}; expected the same")
    envs = [env_id for env_id in a.envs if env_id in b.tasks]
    if not envs:
        raise ValueError(f"envs: {', '.join(a.envs)} and {', '.join(b.envs)} have none in common")
    for env_id in envs:
        for ours, theirs in zip(*common_episodes(a, b, env_id), strict=True):
            # An episode that failed before its reset has no scene.
            if ours.scene and theirs.scene and ours.scene != theirs.scene:
                raise ValueError(f"{env_id}, seed {ours.seed}: the scenes differ")


def _episodes(result: Result, env_id: str) -> list[Episode]:
    return [episode for episode in result.episodes if episode.env == env_id]


def common_episodes(a: Result, b: Result, env_id: str) -> tuple[list[Episode], list[Episode]]:
    """The episodes of an environment on seeds that both results have, in the same order."""
    seeds = _common_seeds(a, b)
    ours, theirs = (
        [episode for episode in _episodes(side, env_id) if episode.seed in seeds] for side in (a, b)
    )
    return ours, theirs


def _common_seeds(a: Result, b: Result) -> range:
    return range(max(a.seeds[0], b.seeds[0]), min(a.seeds[1], b.seeds[1]))


def _counts(side: Result | Counts) -> Counts:
    if isinstance(side, Counts):
        return side
    if len(side.tasks) > 1:
        raise ValueError(
            f"counts can be compared with a result of one environment; it has {len(side.tasks)}"
        )
    [task] = side.tasks.values()
    return Counts(task.successes, task.episodes)


def _paired(env_id: str, a: Sequence[Episode], b: Sequence[Episode]) -> PolicyComparison:
    ours, theirs = (np.array([e.success_at_end for e in side]) for side in (a, b))
    only_a, only_b = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return PolicyComparison(
        env_id,
        Counts(int(ours.sum()), len(a)),
        Counts(int(theirs.sum()), len(b)),
        float(ours.mean() - theirs.mean()),
        newcombe_paired(int((ours & theirs).sum()), only_a, only_b, int((~ours & ~theirs).sum())),
        mcnemar(only_a, only_b),
        (only_a, only_b),
    )


def _unpaired(a: Counts, b: Counts) -> PolicyComparison:
    if max(a.episodes, b.episodes) > MOST:
        raise ValueError(f"counts of more than {MOST} episodes cannot be compared")
    counts = (a.successes, a.episodes, b.successes, b.episodes)
    difference = a.successes / a.episodes - b.successes / b.episodes
    return PolicyComparison("", a, b, difference, newcombe(*counts), barnard(*counts), None)


def names_of(sides: Sequence[Result | Counts]) -> list[str]:
    """Names of both policies: their own if those differ, else A and B."""
    names = [side.policy.name if isinstance(side, Result) else "" for side in sides]
    if not all(names) or names[0] == names[1]:
        return ["A", "B"]
    return names


def print_comparisons(comparisons: Sequence[PolicyComparison], names: Sequence[str]) -> None:
    """Print a table, and a sentence for each environment."""
    if names[0] != "A":
        print(f"A: {names[0]}\nB: {names[1]}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    width = max(len(comparison.env) for comparison in comparisons)
    table.add_column("environment" if width else "", min_width=width)
    for heading in ("A", "B", "A - B, 95 % interval", "only A", "only B", "p"):
        table.add_column(heading)
    for one in comparisons:
        low, high = one.interval
        table.add_row(
            one.env,
            *(f"{100 * side.successes / side.episodes:.1f}%" for side in (one.a, one.b)),
            f"{100 * one.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            *(map(str, one.paired) if one.paired else ("", "")),
            f"{one.p:.2g}",
        )
    Console(markup=False, highlight=False).print(table)
    for one in comparisons:
        print(sentence(one, len(comparisons)))


def sentence(one: PolicyComparison, count: int = 1) -> str:
    """A comparison as a sentence.

    Args:
        one: The comparison.
        count: Number of comparisons that were made together.
    """
    points, ends = 100 * one.difference, [100 * end for end in one.interval]
    first, second = "A", "B"
    if points < 0:
        first, second, points, ends = "B", "A", -points, [-end for end in reversed(ends)]
    where = f"On {one.env}, " if one.env else ""
    if any(one.left_out):
        all_a, all_b = one.a.episodes + one.left_out[0], one.b.episodes + one.left_out[1]
        where += (
            f"over the {one.a.episodes} scenes that both have played (A has {all_a}, B has "
            f"{all_b}; the others are left out), "
        )
    corrected = f", its p corrected for {count} comparisons (Holm)" if count > 1 else ""
    numbers = f"95 % interval {ends[0]:.1f} to {ends[1]:.1f}, p = {_p(one.p)}"
    if one.difference == 0:
        said = f"A and B solve as many episodes, {numbers}"
    else:
        said = f"{first} solves {points:.1f} points more than {second}, {numbers}"
    verdict = "" if one.p < SIGNIFICANT else " This does not show that they differ."
    return f"{where}{said} ({one.test}{corrected}).{verdict}"


def _p(p: float) -> str:
    return f"{p:.1g}" if p < 0.001 else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"
