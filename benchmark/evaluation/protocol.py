"""Environments and frozen seeds on which policies are scored."""

from __future__ import annotations

from itertools import chain

import gymnasium as gym

from komo_envs.registration import ENTRY_POINT, find_spec
from komo_envs.suite import ENVS, TEST, TRAIN, VALIDATION
from komo_envs.utils.foreign_code import ForeignError, foreign_code

EVALUATION_SOURCES = ("komo_envs", "policies", "benchmark")
"""Packages whose source a score depends on; the source of a policy is in its hash."""

EPISODES = 500
"""Test episodes of each environment in a full score."""

MAX_SEED = 2**32
"""One above the largest seed that every random generator a policy may use can take."""


def choose_envs(
    given: tuple[tuple[str, ...], ...], default: tuple[str, ...] = ENVS
) -> tuple[str, ...]:
    """The environments to score.

    Args:
        given: The ids after each ``--env``. Where one is ``"module:Id"``, the module is imported,
            which registers the id.
        default: The ids if none is given.

    Raises:
        ValueError: An id is unknown, not of an environment of this kind, without a time limit, or
            named twice; or its environment cannot be made, or a module not be imported; or an
            ``--env`` has no id.
    """
    if not all(given):
        raise ValueError("--env: expected one id or more, got none")
    ids = tuple(chain(*given))
    names = [env_id.rpartition(":")[2] for env_id in ids]
    # First those without a module: one that only another one's module registers is unknown in a
    # process that has not imported that.
    for env_id in sorted(ids, key=lambda env_id: ":" in env_id):
        try:
            spec = find_spec(env_id)
        except ValueError as error:
            raise ValueError(f"--env {error}") from error
        if spec.entry_point != ENTRY_POINT:
            raise ValueError(
                f"--env {env_id}: is registered with {str(spec.entry_point)!r}, which cannot be "
                f"scored; expected {ENTRY_POINT!r}"
            )
        if spec.max_episode_steps is None:
            raise ValueError(
                f"--env {env_id}: is registered without max_episode_steps, so an episode might "
                "never end; expected a time limit"
            )
        try:
            with foreign_code():  # the task may be someone else's
                gym.make(env_id, disable_env_checker=True).close()
        except ForeignError as error:
            raise ValueError(f"--env {env_id}: cannot be made: {error}") from error
        if (count := names.count(env_id.rpartition(":")[2])) > 1:
            raise ValueError(f"--env {env_id}: named {count} times, expected once")
    return ids or default


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
