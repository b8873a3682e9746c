"""The worlds that an env can act in: the simulation, and the robot in real time."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from komo_envs.entities import Array
from komo_envs.worlds.base import CONTROL_PERIOD, World, WorldState

if TYPE_CHECKING:
    from komo_envs.worlds.physx import PhysxWorld

__all__ = ["CONTROL_PERIOD", "Backend", "World", "WorldState", "has_leaked", "make_world"]

Backend = Literal["sim", "botop", "real"]
"""The simulation; a robot that rai's BotOp simulates in real time; a laboratory's robot."""

RESETS_OF_A_PROCESS = 10_000
"""Resets of simulations in a process until the next one is made in a fresh process. rai leaks up to
6 kB at each: its destructor of a simulation forgets the convex hulls of all shapes that are neither
boxes nor capsules, 1.5 kB for each cylinder. The states are the same in any process."""

_inline: weakref.ref[PhysxWorld] | None = None
_inline_pid: int | None = None
_lock = threading.Lock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


def make_world(
    backend: Backend,
    address: str | None = None,
    dry: bool = False,
    is_free: Callable[[Array], bool] | None = None,
) -> World:
    """The robot's world.

    Args:
        backend: Its kind.
        address: Address of a real robot's control unit; None where BotOp simulates it.
        dry: Whether a real robot is sent nothing.
        is_free: See ``RobotWorld``; can be pickled.
    """
    from komo_envs.worlds.process import IsolatedWorld

    if backend == "sim":
        return _simulation()
    return IsolatedWorld(
        "komo_envs.worlds.botop:RobotWorld", address, backend == "real", dry, is_free
    )


def _simulation() -> World:
    """A simulated world: in this process if it has none yet, else in a process of its own.

    rai's PhysX bears one simulation in a process. So the first world lives here and costs nothing
    extra, and every further one while it is open gets its own process. A process that was forked
    from one that has simulated gets no inline world either: PhysX's threads did not come along.
    """
    from komo_envs.worlds.physx import PhysxWorld
    from komo_envs.worlds.process import IsolatedWorld

    global _inline, _inline_pid
    with _lock:
        forked = _inline_pid is not None and _inline_pid != os.getpid()
        if forked or PhysxWorld.resets >= RESETS_OF_A_PROCESS or _open_inline_world() is not None:
            return IsolatedWorld(
                "komo_envs.worlds.physx:PhysxWorld", resets_of_a_process=RESETS_OF_A_PROCESS
            )
        world = PhysxWorld()
        _inline, _inline_pid = weakref.ref(world), os.getpid()
        return world


def has_leaked(world: World) -> bool:
    """Whether a world has leaked so much into this process that its env needs another one."""
    return world is _open_inline_world() and world.resets >= RESETS_OF_A_PROCESS


def _open_inline_world() -> PhysxWorld | None:
    world = _inline() if _inline is not None else None
    return None if world is None or world.closed else world


@atexit.register
def _close_inline_world() -> None:
    # A simulation that is still there when Python takes its modules down crashes the exit.
    world = _open_inline_world()
    if world is not None:
        world.close()
