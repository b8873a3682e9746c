"""KOMO as the experts use it: problems, time along a path, routes."""
