"""Statistics of scores, and of their differences. SciPy is imported where it is used: that takes
half a second, which every worker would spend for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a success rate.

    Args:
        successes: Number of successful episodes, 0 to ``episodes``.
        episodes: Number of episodes, 1 or more.

    Returns:
        The interval's lower and upper end, each in [0, 1].

    Raises:
        ValueError: The counts are impossible.
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"wilson: {successes} successes of {episodes} episodes are impossible")
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return (float(interval.low), float(interval.high))


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided p of the exact McNemar test.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions,
    1947; exact, by the binomial distribution.

    Args:
        only_a: In how many of the same scenes only a succeeds.
        only_b: In how many only b does.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


RESAMPLES = 20_000


def paired_bootstrap(only_a: int, only_b: int, episodes: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates on the same scenes.

    It is the percentile interval of the bootstrap over scenes, from a fixed seed. A sample of
    scenes counts for what it has of each kind, and that is multinomial. Where outcomes never
    differ, samples do not either: then the interval says how large the share of scenes in which
    they do may be (Wilson).

    Args:
        only_a: In how many scenes only a succeeds.
        only_b: In how many only b does.
        episodes: Scenes.
    """
    if only_a + only_b == 0:
        most = wilson(0, episodes)[1]
        return (-most, most)
    shares = np.array([only_a, only_b, episodes - only_a - only_b]) / episodes
    samples = np.random.default_rng(0).multinomial(episodes, shares, RESAMPLES)
    low, high = np.percentile((samples[:, 0] - samples[:, 1]) / episodes, [2.5, 97.5])
    return (float(low), float(high))


def barnard(successes_a: int, episodes_a: int, successes_b: int, episodes_b: int) -> float:
    """The two-sided p of Barnard's exact test, for two success rates on scenes of their own."""
    from scipy.stats import barnard_exact

    counts = [
        [successes_a, successes_b],
        [episodes_a - successes_a, episodes_b - successes_b],
    ]
    p = float(barnard_exact(counts).pvalue)
    return 1.0 if np.isnan(p) else min(p, 1.0)  # NaN where all, or none, succeed in both


def newcombe(
    successes_a: int, episodes_a: int, successes_b: int, episodes_b: int
) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates on scenes of their own.

    Source: Newcombe, Interval estimation for the difference between independent proportions, 1998,
    method 10: from both Wilson intervals.
    """
    a, b = successes_a / episodes_a, successes_b / episodes_b
    low_a, high_a = wilson(successes_a, episodes_a)
    low_b, high_b = wilson(successes_b, episodes_b)
    below, above = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    return (float(a - b - below), float(a - b + above))


def holm(ps: Sequence[float]) -> list[float]:
    """The ps of several tests, adjusted so that any false alarm is as rare as each was alone.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(ps, kind="stable")
    factors = np.arange(len(ps), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * factors), 1.0)
    back = np.empty(len(ps))
    back[order] = adjusted
    return [float(p) for p in back]
