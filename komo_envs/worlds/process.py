"""A world in a process of its own, so that any number of envs can share a program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from komo_envs.entities import Array, Body
from komo_envs.utils.child import ChildEnded, ChildProcess
from komo_envs.worlds.base import WorldState
from komo_envs.worlds.rai import SimulationError


class IsolatedWorld:
    """A world in a child process: the same states, for some 0.1 ms more a step.

    Args:
        world: ``"module:Class"`` of the world.
        arguments: Arguments of the world.
        resets_of_a_process: Resets after which a fresh process takes over; None for never.
    """

    def __init__(
        self, world: str, *arguments: object, resets_of_a_process: int | None = None
    ) -> None:
        self._world, self._arguments = world, arguments
        self._child: ChildProcess | None = None
        self._resets, self._most_resets = 0, resets_of_a_process

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The child process, None if there is none."""
        return self._child.process if self._child else None

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """As the world's; starts the child process if there is none."""
        if self._resets == self._most_resets:
            self.close()
        if self._child is None:
            self._child, self._resets = ChildProcess(self._world, *self._arguments), 0
        self._resets += 1
        return self._call("reset", q, tuple(bodies), arm_collides, stiffness)

    def step(self, reference: Array) -> WorldState:
        """As the world's."""
        return self._call("step", reference)

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _call(self, method: str, *arguments: object) -> WorldState:
        if self._child is None:
            raise SimulationError(f"{method} before reset")
        try:
            state: WorldState = self._child.call(method, *arguments)
        except SimulationError:
            raise
        except ChildEnded as error:
            self.close()
            raise SimulationError(
                f"the process of this simulation {error}; reset starts a new one"
            ) from error
        except Exception as error:
            raise SimulationError(f"{type(error).__name__}: {error}") from error
        except BaseException:  # an interrupt has ended the child
            self.close()
            raise
        return state
