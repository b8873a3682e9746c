"""Hashes of policies, by which a score names the policy that it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from komo_envs.provenance import hash_sources
from policies.base import Policy
from policies.external.remote import RemotePolicy
from policies.external.sb3 import SB3Policy
from policies.spec import CARD, WEIGHTS, split_spec

SOURCES = {"expert": "experts", "random": "policies.baselines", "zero": "policies.baselines"}
"""The package or module whose source defines each built-in policy."""


def hash_policy(spec: str, policy: Policy) -> str:
    """The sha256 of all that defines the behavior of a policy.

    For a policy in another process it is the one that its server states. For ``file.py:Class`` it
    covers that file and the ``sha256`` that the class states, see ``states_hash``, but no other
    file that this one reads or imports. For a model of Stable-Baselines3 it covers the statistics
    of its VecNormalize, too.

    Args:
        spec: The spec that the policy was loaded from.
        policy: The policy.

    Raises:
        ValueError: The class states no sha256 but something else.
        OSError: A file cannot be read.
    """
    if isinstance(policy, RemotePolicy):
        return policy.sha256
    if spec in SOURCES:
        return hash_sources(SOURCES[spec])
    path, class_name = split_spec(spec)
    stated = None
    if class_name:
        stated = getattr(policy, "sha256", None)
        if stated is not None and not re.fullmatch("[0-9a-f]{64}", str(stated)):
            raise ValueError(
                f"policy {spec}: its sha256 is {stated!r:.80}; expected 64 hexadecimal digits"
            )
    elif isinstance(policy, SB3Policy):
        stated = policy.statistics_sha256
    return hash_checkpoint(path) if stated is None else combine([hash_checkpoint(path), stated])


def states_hash(spec: str, policy: Policy) -> bool:
    """Whether a policy's hash covers its weights: a Python file has to state their ``sha256``."""
    return not split_spec(spec)[1] or getattr(policy, "sha256", None) is not None


def combine(hashes: Iterable[str]) -> str:
    """The sha256 of several hashes, in their order, in hexadecimal."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def hash_checkpoint(folder: Path) -> str:
    """The sha256 of both files of a checkpoint, or of its only file.

    Raises:
        OSError: A file cannot be read.
    """
    files = (folder / CARD, folder / WEIGHTS) if folder.is_dir() else (folder,)
    return combine(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
