"""Which policy a score belongs to."""

from __future__ import annotations

from komo_envs.tools.provenance import hash_sources
from policies.load import check_spec

SOURCES = {"expert": "experts", "random": "policies.trivial", "zero": "policies.trivial"}
"""The package or module whose source defines each built-in policy."""


def hash_policy(spec: str) -> str:
    """The sha256 of all that defines the behaviour of the policy that ``spec`` names.

    Raises:
        ValueError: There is no such policy.
    """
    check_spec(spec)
    return hash_sources(SOURCES[spec])
