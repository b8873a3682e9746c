"""Policies of other projects: Python files, Stable-Baselines3 models, remote processes."""
