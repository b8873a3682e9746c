"""What a score is measured on: the suite's version, its environments and its frozen seeds.

The three ranges of seeds are disjoint, and never change within a version of the suite. Train on
the first, choose a checkpoint on the second, and report the score on the third.
"""

from __future__ import annotations

import gymnasium as gym

import komo_envs  # noqa: F401  (registers the environments)

SUITE = "0.1"
"""Version of the suite. Scores of different versions cannot be compared."""

ENVS = ("KomoPush-v0",)
"""The environments of the suite, each with its default options."""

TRAIN = range(0, 1_000_000)
VALIDATION = range(1_000_000, 1_010_000)
TEST = range(2_000_000, 2_010_000)

EPISODES = 500
"""Test episodes of each environment in a full score."""

MAX_SEED = 2**32
"""One above the largest seed that every random generator a policy may use can take."""


def env_ids() -> list[str]:
    """The ids of all environments of komo-envs, those outside the suite too, sorted."""
    return sorted(env_id for env_id in gym.registry if env_id.startswith("Komo"))


def choose_envs(ids: tuple[str, ...]) -> tuple[str, ...]:
    """The environments to score, the suite's own if ``ids`` is empty.

    Raises:
        ValueError: An id is unknown, or named twice.
    """
    known = env_ids()
    for env_id in ids:
        if env_id not in known:
            raise ValueError(f"--env {env_id}: no such environment; there are {', '.join(known)}")
        if ids.count(env_id) > 1:
            raise ValueError(f"--env {env_id}: named {ids.count(env_id)} times, expected once")
    return ids or ENVS


def choose_seeds(seeds: str | None, episodes: int | None) -> range:
    """The seeds to score each environment on.

    Args:
        seeds: ``"A:B"`` for A, ..., B - 1, or None for the test seeds.
        episodes: How many of them to take, from the first; None for all of ``seeds``, or for
            the first ``EPISODES`` test seeds.

    Raises:
        ValueError: ``seeds`` is no such range, or has fewer than ``episodes``, or none.
    """
    if seeds is None:
        chosen = TEST
        episodes = EPISODES if episodes is None else episodes
    else:
        first, colon, last = seeds.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal()):
            raise ValueError(f"--seeds {seeds}: expected A:B, two integers, for A, ..., B - 1")
        chosen = range(int(first), int(last))
        if not chosen or chosen.stop > MAX_SEED:
            raise ValueError(f"--seeds {seeds}: expected A:B with 0 <= A < B <= {MAX_SEED}")
        episodes = len(chosen) if episodes is None else episodes
    if not 1 <= episodes <= len(chosen):
        raise ValueError(
            f"--episodes {episodes}: expected 1 to {len(chosen)}, "
            f"the number of seeds in {chosen.start}:{chosen.stop}"
        )
    return chosen[:episodes]


def split_of(seeds: range) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"``: the split that ``seeds`` lie in, else None."""
    for name, split in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        if split.start <= seeds.start and seeds.stop <= split.stop:
            return name
    return None
