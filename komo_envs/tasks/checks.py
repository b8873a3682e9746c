"""Checks of a task's options and scenes: each error names the entry and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from komo_envs.tasks.base import Scene, Task

Range = tuple[float, float]
"""Lower and upper bound of a uniform distribution."""


def check_keys(scene: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise a ValueError unless ``scene`` is a mapping with exactly these keys."""
    if not isinstance(scene, Mapping) or set(scene) != set(keys):
        got = sorted(map(str, scene)) if isinstance(scene, Mapping) else repr(scene)
        raise ValueError(f"scene: expected the keys {', '.join(map(repr, keys))}, got {got}")


def check_numbers(name: str, value: Any, count: int) -> list[float]:
    """A part of a scene as plain floats.

    Raises:
        ValueError: it is not a sequence of ``count`` finite numbers.
    """
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"scene[{name!r}]: expected {count} finite numbers, got {value!r}")
    return [float(number) for number in numbers]


def check_range(name: str, numbers: Sequence[float], ranges: Sequence[Range]) -> None:
    """Raise a ValueError unless each number of a part of a scene is within its range."""
    for number, (low, high) in zip(numbers, ranges, strict=True):
        if not low - 1e-9 <= number <= high + 1e-9:
            raise ValueError(f"scene[{name!r}]: {number} is out of range; expected {low} to {high}")


def check_rows(name: str, value: Any, count: tuple[int, int], size: int) -> list[list[float]]:
    """A part of a scene that is a list of equal things, as plain floats.

    Args:
        name: Name of the part.
        value: The value given.
        count: Fewest and most rows.
        size: Numbers in a row.

    Raises:
        ValueError: there are too few or too many, or one is not ``size`` finite numbers.
    """
    if not isinstance(value, (Sequence, np.ndarray)) or not count[0] <= len(value) <= count[1]:
        raise ValueError(f"scene[{name!r}]: expected {count[0]} to {count[1]}, got {value!r}")
    return [check_numbers(f"{name}[{i}]", row, size) for i, row in enumerate(value)]


def sampled_ranges(task: Task, names: Iterable[str]) -> dict[str, Range]:
    """Ranges of the named options that a scene samples: those that are not None."""
    ranges = {name: getattr(task, name) for name in names}
    return {name: between for name, between in ranges.items() if between is not None}


def check_sampled(scene: Mapping[str, Any], ranges: Mapping[str, Range]) -> Scene:
    """The numbers of a scene that are sampled from ranges.

    Raises:
        ValueError: One is no number, or out of its range.
    """
    checked: Scene = {}
    for name, between in ranges.items():
        [checked[name]] = numbers = check_numbers(name, [scene[name]], 1)
        check_range(name, numbers, [between])
    return checked


def check_option(name: str, value: Any, limits: Range) -> None:
    """Raise a ValueError unless an option of a task is a number within its limits."""
    if not _is_real(value) or not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name}: {value!r}; expected a number from {limits[0]} to {limits[1]}")


def check_range_option(name: str, value: Any, limits: Range) -> None:
    """Raise a ValueError unless an option is None or a range within limits, of the same kind."""
    if value is None:
        return
    whole = isinstance(limits[0], int)
    if (
        np.shape(value) != (2,)
        or not all(isinstance(n, Integral) if whole else _is_real(n) for n in value)
        or not limits[0] <= value[0] <= value[1] <= limits[1]
    ):
        kind = "two whole numbers" if whole else "two numbers"
        raise ValueError(
            f"{name}: {value!r}; expected None, or {kind} in order, from {limits[0]} to {limits[1]}"
        )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


MAX_SAMPLES = 20_000
"""Scenes that a task samples for one that fits its options, until it gives up."""


def no_scene(task: Task) -> ValueError:
    """The error where hardly a scene fits the options, or none."""
    return ValueError(f"{task}: of {MAX_SAMPLES} sampled scenes, none fits these options")
