"""The benchmark: its protocol, rollouts, results, and the command ``python -m benchmark.run``."""
