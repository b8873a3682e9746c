"""Which policy a score belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from komo_envs.tools.provenance import hash_sources
from policies.load import CARD, WEIGHTS, check_spec

SOURCES = {"expert": "experts", "random": "policies.trivial", "zero": "policies.trivial"}
"""The package or module whose source defines each built-in policy."""


def hash_policy(spec: str) -> str:
    """The sha256 of all that defines the behaviour of the policy that ``spec`` names.

    Raises:
        ValueError: There is no such policy.
        OSError: A file of a checkpoint cannot be read.
    """
    check_spec(spec)
    if spec not in SOURCES:
        return hash_checkpoint(Path(spec))
    return hash_sources(SOURCES[spec])


def hash_checkpoint(folder: Path) -> str:
    """The sha256 over both files of a checkpoint, or of its ONNX file.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256()
    for file in (folder / CARD, folder / WEIGHTS) if folder.is_dir() else (folder,):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
