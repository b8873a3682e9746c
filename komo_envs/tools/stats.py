"""Statistics of a score."""

from __future__ import annotations


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
    # Imported here, for it takes half a second that every worker would spend for nothing.
    from scipy.stats import binomtest

    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"wilson: {successes} successes of {episodes} episodes are impossible")
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return (float(interval.low), float(interval.high))
