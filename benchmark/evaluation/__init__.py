"""Rollouts of a policy in the test scenes."""
