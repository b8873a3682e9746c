"""The benchmark: its protocol, rollouts, results, and the command ``python -m benchmark.run``."""

from komo_envs.utils.packages import check_packages

check_packages("benchmark", "experts", "policies")
