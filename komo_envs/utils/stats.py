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


def excess(more: int, fewer: int) -> float:
    """The one-sided p of the exact sign test: how probable ``more`` or more of both are, if either
    is as probable.

    Source: Arbuthnott, An argument for divine providence, 1710.

    Args:
        more: Number of outcomes of one kind.
        fewer: Number of outcomes of the other kind.
    """
    from scipy.stats import binomtest

    total = more + fewer
    return float(binomtest(more, total, alternative="greater").pvalue) if total else 1.0


def newcombe_paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates on the same scenes.

    A bootstrap over scenes is too sure near 0 and 1, where scores are: of two policies that succeed
    in all scenes and in none it makes an interval of no width.

    Source: Newcombe, Improved confidence intervals for the difference between binomial proportions
    based on paired data, 1998, method 10.

    Args:
        both: In how many scenes both succeed.
        only_a: In how many only a does.
        only_b: In how many only b does.
        neither: In how many none does.
    """
    count = both + only_a + only_b + neither
    a, b = both + only_a, both + only_b
    spread = float(a) * (count - a) * b * (count - b)
    cross = float(both * neither - only_a * only_b)
    if cross > 0:
        cross = max(cross - count / 2, 0.0)  # for continuity
    correlation = cross / np.sqrt(spread) if spread else 0.0
    (low_a, high_a), (low_b, high_b) = wilson(a, count), wilson(b, count)
    rate_a, rate_b = a / count, b / count

    def together(x: float, y: float) -> float:
        return float(np.sqrt(max(x**2 - 2 * correlation * x * y + y**2, 0.0)))

    difference = rate_a - rate_b
    return (
        difference - together(rate_a - low_a, high_b - rate_b),
        difference + together(high_a - rate_a, rate_b - low_b),
    )


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
