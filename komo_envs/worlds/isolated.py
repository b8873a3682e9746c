"""A simulated world in a process of its own, so that any number of envs can share a program.

The child is started from this module by its name and not by forking or re-importing the user's
script: that works in scripts without a ``__main__`` guard, in threads, and in the daemonic workers
of vector envs. It lives until its world is closed, dropped, or its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection

from komo_envs.scene import Array, Body
from komo_envs.worlds.base import WorldState
from komo_envs.worlds.rai import SimulationError

_EXIT_TIMEOUT = 5.0  # s


class IsolatedWorld:
    """A ``PhysxWorld`` in a child process: the same states, for some 0.1 ms more a step."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def reset(self, q: Array, bodies: Sequence[Body]) -> WorldState:
        """As ``PhysxWorld.reset``; starts the child process if there is none."""
        if self._connection is None:
            self._start()
        return self._call("reset", q, tuple(bodies))

    def step(self, reference: Array) -> WorldState:
        """As ``PhysxWorld.step``."""
        return self._call("step", reference)

    def close(self) -> None:
        """End the child process."""
        if self._connection is not None:
            self._finalizer()
            self._connection = self.process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p or "." for p in sys.path))
            self.process = subprocess.Popen(
                [sys.executable, "-m", "komo_envs.worlds.isolated", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the user's terminal is not for it
                env=environment,
            )
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(self, _end, self._connection, self.process, os.getpid())

    def _call(self, method: str, *arguments: object) -> WorldState:
        if self._connection is None:
            raise SimulationError(f"{method} before reset")
        try:
            self._connection.send((method, arguments))
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise SimulationError(
                f"the process of this simulation ended during {method}; reset starts a new one"
            ) from error
        if isinstance(result, WorldState):
            return result
        raise SimulationError(result)


def _end(connection: Connection, child: subprocess.Popen[bytes], pid: int) -> None:
    if os.getpid() != pid:
        connection.close()  # a fork's copy: the child belongs to the process that started it
        return
    with contextlib.suppress(OSError):
        connection.send(("close", ()))  # forks may hold copies of our end, so closing is not enough
    connection.close()
    try:
        child.wait(_EXIT_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _serve(connection: Connection) -> None:
    from komo_envs.worlds.physx import PhysxWorld

    world = PhysxWorld()
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        if method == "close":
            break
        try:
            result: object = getattr(world, method)(*arguments)
        except SimulationError as error:
            result = str(error)
        try:
            connection.send(result)
        except (BrokenPipeError, ConnectionResetError):
            break
    world.close()


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
