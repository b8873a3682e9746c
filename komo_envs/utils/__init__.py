"""Utilities of all packages: command lines, worker processes, files, statistics."""
