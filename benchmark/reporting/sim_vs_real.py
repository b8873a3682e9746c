"""Simulation against a real robot: how well success in one backend predicts that in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmark.records.result import Episode, Result, load_result
from benchmark.records.submission import RESULT
from komo_envs.utils.stats import newcombe_paired, wilson

RESAMPLES = 2000
"""Resamples of the scenes for an interval."""
FEWEST = 3
"""Smallest number of policies for a correlation."""

Successes = NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """Episodes of one policy on the same scenes of an environment, in both backends."""

    name: str
    env: str
    episodes: tuple[tuple[Episode, ...], tuple[Episode, ...]]
    """In the first backend and in the second."""

    def successes(self) -> Successes:
        """Success by backend and scene, (2, N)."""
        return np.array([[e.success_at_end for e in side] for side in self.episodes])


@dataclass(frozen=True)
class Agreement:
    """How well one backend predicts another, over several policies."""

    pearson: float
    """Correlation of the success rates; not a number where one of them is always the same."""
    pearson_interval: tuple[float, float]
    """95 % bootstrap interval over the scenes."""
    mmrv: float
    """Mean maximum rank violation, 0 to 1: the largest difference, in the second backend, between
    two policies that the first one ranks in the wrong order. Source: Li et al., Evaluating
    Real-World Robot Manipulation Policies in Simulation (SIMPLER), 2024."""
    mmrv_interval: tuple[float, float]


def load_results(path: Path) -> dict[tuple[str, str], Result]:
    """The results below a folder, or of a file, by the names and hashes of their policies.

    Raises:
        ValueError: There are none, or two of one policy, or of several backends, or one is damaged.
        OSError: One cannot be read.
    """
    files = sorted(path.glob(f"**/{RESULT}")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: there is no {RESULT} in it")
    found: dict[tuple[str, str], Result] = {}
    for file in files:
        result = load_result(file)
        if (other := next(iter(found.values()), result)).backend != result.backend:
            raise ValueError(
                f"{path}: backend: expected one, got {other.backend} and {result.backend}"
            )
        key = result.policy.name, result.policy.sha256
        if key in found:
            raise ValueError(f"{path}: expected one result of {result.policy.name}, got two")
        found[key] = result
    return found


def pair(first: dict[tuple[str, str], Result], second: dict[tuple[str, str], Result]) -> list[Pair]:
    """Pairs of the same policy and environment on the same scenes in two backends.

    Raises:
        ValueError: There are none, or the scenes of one seed differ.
    """
    pairs = []
    for policy, one in first.items():
        other = second.get(policy)
        for env_id in one.envs if other is not None else ():
            assert other is not None
            sides = [{e.seed: e for e in side.episodes if e.env == env_id} for side in (one, other)]
            seeds = sorted(sides[0].keys() & sides[1].keys())
            for seed in seeds:
                scenes = [side[seed].scene for side in sides]
                if all(scenes) and scenes[0] != scenes[1]:
                    raise ValueError(f"{env_id}, seed {seed}: the scenes differ")
            if seeds:
                episodes = tuple(tuple(side[seed] for seed in seeds) for side in sides)
                pairs.append(Pair(one.policy.name, env_id, (episodes[0], episodes[1])))
    if not pairs:
        raise ValueError("expected the same policy on the same scenes in both backends, got none")
    return pairs


def agree(successes: Sequence[Successes]) -> Agreement:
    """How well the first backend predicts the second.

    Args:
        successes: Successes of each policy, (2, N), all on the same scenes.
    """
    table = np.stack(successes)  # (policies, backends, scenes)
    rates = table.mean(axis=2)
    rng = np.random.default_rng(0)
    scenes = table.shape[2]
    resampled = [
        table[..., rng.integers(scenes, size=scenes)].mean(axis=2) for _ in range(RESAMPLES)
    ]
    return Agreement(
        pearson(rates),
        _interval([pearson(each) for each in resampled]),
        mmrv(rates),
        _interval([mmrv(each) for each in resampled]),
    )


def pearson(rates: NDArray[np.float64]) -> float:
    """Correlation of success rates (policies, 2) in two backends."""
    if np.any(np.ptp(rates, axis=0) == 0):
        return float("nan")
    return float(np.asarray(np.corrcoef(rates.T))[0, 1])


def mmrv(rates: NDArray[np.float64]) -> float:
    """Mean maximum rank violation of success rates (policies, 2); see ``Agreement``."""
    first, second = rates.T
    wrong = (first[:, None] < first) != (second[:, None] < second)
    return float((np.abs(second[:, None] - second) * wrong).max(axis=1).mean())


def _interval(values: Sequence[float]) -> tuple[float, float]:
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def print_agreement(pairs: Sequence[Pair], backends: tuple[str, str]) -> None:
    """Print each policy in both backends, and how well one predicts the other."""
    print(f"A: {backends[0]}\nB: {backends[1]}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("policy", "environment", "A", "B", "A - B", "only A", "only B"):
        table.add_column(heading)
    for each in pairs:
        a, b = each.successes()
        only = int((a & ~b).sum()), int((b & ~a).sum())
        ends = newcombe_paired(int((a & b).sum()), *only, int((~a & ~b).sum()))
        table.add_row(
            each.name,
            each.env,
            *(_rate(side) for side in (a, b)),
            f"{100 * (a.mean() - b.mean()):+.1f} [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]",
            *map(str, only),
        )
    Console(markup=False, highlight=False, width=140).print(table)
    for each in pairs:
        for name, side in zip(backends, each.episodes, strict=True):
            print(f"{each.name}, {each.env}, {name}: {_motion(side)}")
    for env_id in dict.fromkeys(each.env for each in pairs):
        same_env = [each for each in pairs if each.env == env_id]
        seeds = {tuple(e.seed for e in each.episodes[0]) for each in same_env}
        if len(same_env) < FEWEST or len(seeds) > 1:
            print(f"{env_id}: a correlation takes {FEWEST} policies on the same scenes")
            continue
        found = agree([each.successes() for each in same_env])
        print(
            f"{env_id}: Pearson's r {found.pearson:.2f} [{found.pearson_interval[0]:.2f}, "
            f"{found.pearson_interval[1]:.2f}], mean maximum rank violation {found.mmrv:.3f} "
            f"[{found.mmrv_interval[0]:.3f}, {found.mmrv_interval[1]:.3f}], of {len(same_env)} "
            f"policies on {len(next(iter(seeds)))} scenes"
        )


def _rate(successes: Successes) -> str:
    low, high = wilson(int(successes.sum()), len(successes))
    return f"{100 * successes.mean():.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def _motion(episodes: Sequence[Episode]) -> str:
    """Tracking error of the arm, and latency of the actions, in words."""
    errors = [e.tracking_error for e in episodes if e.tracking_error is not None]
    steps = sum(episode.steps for episode in episodes)
    return (
        f"{np.median([e.steps for e in episodes]):g} steps in the median; the arm "
        f"{np.mean(errors) if errors else float('nan'):.3f} rad from its commands, which came "
        f"{1000 * np.median([e.latency for e in episodes]):.0f} ms after their observations; "
        f"{sum(e.deadline_misses for e in episodes)} of {steps} too late"
    )
