"""The frozen part of a version of the suite: its environments, and the seeds of their scenes.

The three ranges of seeds are disjoint, and never change within a version. Train on the first,
choose a checkpoint on the second, and report the score on the third.
"""

from __future__ import annotations

SUITE = "0.2"
"""Version of the suite. Scores of different versions cannot be compared."""

ENVS = ("KomoPush-v0", "KomoShelf-v0", "KomoPushHard-v0", "KomoShelfHard-v0")
"""The environments of the suite, each with its default options."""

PAPER_ENVS = ("KomoPushFixed-v0", "KomoShelfFixed-v0")
"""The conditions of the published experiment, frozen likewise; no part of a full score."""

TRAIN = range(0, 1_000_000)
VALIDATION = range(1_000_000, 1_010_000)
TEST = range(2_000_000, 2_010_000)
