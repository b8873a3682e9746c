"""The values of ``info``, in types that other libraries record."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


class Numbers(tuple[Any, ...]):
    """A list of a scene, which cannot be changed.

    It equals the plain list, and JSON writes it as one. To recorders it is an array: Minari asks
    for its ``shape``, and takes lists apart or appends to them.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # as a list

    def __eq__(self, other: object) -> bool:
        return [*self] == ([*other] if isinstance(other, tuple) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that NumPy makes of it."""
        return np.array([*self], dtype=object).shape


def recordable(value: Any) -> Any:
    """A copy of a scene, or of a part of it, in which each list is ``Numbers``; its rows are plain
    lists."""
    if isinstance(value, dict):
        return {name: recordable(part) for name, part in value.items()}
    return Numbers(map(copy.deepcopy, value)) if isinstance(value, list) else value
