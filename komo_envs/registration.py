"""Ids of environments: those of this package, and those that other modules register."""

from __future__ import annotations

import importlib
import sys

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

import komo_envs  # noqa: F401 - registers the ids
from komo_envs.utils.foreign_code import ForeignError, foreign_code
from komo_envs.utils.words import near

ENTRY_POINT = "komo_envs.env:KomoEnv"
"""The entry point that the ids of every task are registered with."""


def find_spec(env_id: str) -> EnvSpec:
    """The specification that an id is registered with.

    Args:
        env_id: A registered id, or ``"module:Id"`` for one that a module registers when it is
            imported, as ``gym.make`` takes it too.

    Raises:
        ValueError: there is no such environment, or the module cannot be imported.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            with foreign_code():
                importlib.import_module(module)
        except ForeignError as error:
            raise ValueError(f"{env_id}: module {module!r} cannot be imported: {error}") from error
    if name not in gym.registry:
        known = komo_ids()
        there = f"there are {', '.join(known)}{near(name, known)}"
        if colon:
            raise ValueError(f"{env_id}: module {module!r} registers no {name!r}; {there}")
        raise ValueError(
            f"{env_id}: no such environment; one that another module registers is named "
            f"module:Id; {there}"
        )
    return gym.registry[name]


def check_module(file: str, env_id: str, trust_code: bool) -> None:
    """Refuse an id that was read from a file and names a module that nobody else has imported.

    Args:
        file: Name of the file, for the message.
        env_id: The id.
        trust_code: Whether the module's code may run.

    Raises:
        ValueError: It does, and code is not trusted.
    """
    module = env_id.rpartition(":")[0]
    if module and module not in sys.modules and not trust_code:
        raise ValueError(
            f"{file}: is of {env_id}, which would import the module {module!r} and run its code; "
            "say --trust-code if you trust it"
        )


def komo_ids() -> list[str]:
    """The ids of all environments of this kind that are registered so far, sorted."""
    return sorted(name for name, spec in gym.registry.items() if spec.entry_point == ENTRY_POINT)
