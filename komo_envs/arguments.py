"""The arguments of an environment: each is checked before anything is made of it."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from komo_envs.entities import Camera
from komo_envs.tasks import Task
from komo_envs.utils.words import near

if TYPE_CHECKING:
    from komo_envs.lab import Lab


def make_task(task: str, options: Mapping[str, Any]) -> Task:
    """The task that ``"module:Class"`` names, with options.

    Raises:
        TypeError: it has no such option.
        ValueError: an option's value is not one of its.
    """
    make = pkgutil.resolve_name(task)
    known = [field.name for field in dataclasses.fields(make)]
    if unknown := sorted(set(options) - set(known)):
        # The words are Python's: libraries look for them, and try again without the argument.
        raise TypeError(
            f"KomoEnv.__init__() got an unexpected keyword argument {unknown[0]!r}; "
            f"options of {make.__name__} are {', '.join(known)}"
        )
    return make(**options)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a ValueError unless a value is one of the choices."""
    if value not in tuple(choices):
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name}: {value!r} is unknown; expected one of {expected}")


def check_size(name: str, value: Any) -> tuple[int, int]:
    """(height, width) in pixels of a side or of a pair.

    Raises:
        ValueError: it is neither, or too small or large.
    """
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or not all(
        isinstance(side, (int, np.integer)) and 8 <= side <= 4096 for side in pair
    ):
        raise ValueError(
            f"{name}: {value!r}; expected a whole number of pixels from 8 to 4096, "
            "or a pair of them (height, width)"
        )
    return int(pair[0]), int(pair[1])


def make_lab(lab: Lab | Mapping[str, Any] | str | Path | None) -> Lab | None:
    """The laboratory that an env is given: itself, its fields, or the file that has them.

    Raises:
        ValueError: It is none of these; the message names the field.
        OSError: The file cannot be read.
    """
    if lab is None:
        return None
    from komo_envs.lab import config  # needs what a simulation does without

    return config.make_lab(lab)


def check_backend(backend: str, has_lab: bool, dry_run: bool, randomized: bool) -> None:
    """Check that a backend has what it needs, and nothing that it cannot do.

    Raises:
        ValueError: It lacks a lab, or cannot do without motion or randomize.
    """
    if backend == "real" and not has_lab:
        raise ValueError("backend='real': expected lab, the file that says what the lab has")
    if backend != "real" and dry_run:
        raise ValueError(f"dry_run: there is none with backend={backend!r}")
    if backend == "real" and randomized:
        raise ValueError("randomize: expected None with backend='real', which varies by itself")


def select_options(options: Any, ignored: set[str]) -> dict[str, Any]:
    """The options of ``reset`` that an env knows: the scene, if it is given.

    Args:
        options: As ``reset`` was given them.
        ignored: Names of options that a warning has named already; new ones are added.

    Raises:
        ValueError: the options are no dict, or one is a misspelt ``"scene"``.
    """
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"options: expected a dict or None, got {options!r}")
    unknown = sorted(map(str, set(options or {}) - {"scene"}))
    for name in unknown:
        if near(name, ["scene"]):
            raise ValueError(f"options: unknown key {name!r}; expected 'scene'")
    for name in set(unknown) - ignored:
        gym.logger.warn(f"reset ignores the option {name!r}: the env knows 'scene' alone")
    ignored.update(unknown)
    return {name: value for name, value in (options or {}).items() if name == "scene"}


def select_cameras(names: Sequence[str], known: Sequence[Camera]) -> tuple[Camera, ...]:
    """Those of the ``known`` cameras that are named, in that order.

    Raises:
        ValueError: one is unknown, or named twice, or none is.
    """
    by_name = {camera.name: camera for camera in known}
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(f"cameras: {names!r}; expected a sequence of camera names")
    for name in names:
        check_choice("cameras", name, by_name)
    if len(set(names)) != len(names):
        raise ValueError(f"cameras: {names!r}; expected different cameras")
    return tuple(by_name[name] for name in names)
