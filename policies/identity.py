"""Which policy a score belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from komo_envs.tools.provenance import hash_sources
from policies.load import CARD, REMOTE, WEIGHTS, check_spec, split_spec

SOURCES = {"expert": "experts", "random": "policies.trivial", "zero": "policies.trivial"}
"""The package or module whose source defines each built-in policy."""


def hash_policy(spec: str, env_id: str, trust_code: bool = False) -> str:
    """The sha256 of all that defines the behaviour in an env of the policy that ``spec`` names.

    Of one in another process it is what its server says. Of ``file.py:Class`` it is that of the
    file: what the file imports is beyond it.

    Raises:
        ValueError: There is no such policy, or it has code that is not trusted.
        OSError: A file of a checkpoint cannot be read.
    """
    check_spec(spec, trust_code)
    if spec.startswith(REMOTE):
        from policies.remote import RemotePolicy

        return RemotePolicy(spec, env_id).sha256
    if spec not in SOURCES:
        return hash_checkpoint(split_spec(spec)[0])
    return hash_sources(SOURCES[spec])


def hash_checkpoint(folder: Path) -> str:
    """The sha256 over both files of a checkpoint, or of its one file.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256()
    for file in (folder / CARD, folder / WEIGHTS) if folder.is_dir() else (folder,):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
