"""Policies, and the contract that all of them keep."""

from policies.base import Policy
from policies.load import load_policy
from policies.trivial import RandomPolicy, ZeroPolicy

__all__ = ["Policy", "RandomPolicy", "ZeroPolicy", "load_policy"]
