"""Policies, and the contract that all of them meet."""

from komo_envs.utils.packages import check_packages

check_packages("policies", "experts")

from policies.base import Policy  # noqa: E402 - not before it is known whose it is
from policies.baselines import RandomPolicy, ZeroPolicy  # noqa: E402
from policies.load import load_policy  # noqa: E402

__all__ = ["Policy", "RandomPolicy", "ZeroPolicy", "load_policy"]
