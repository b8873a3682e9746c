"""Demonstrations as files: their format, how they are recorded, and their exports."""
