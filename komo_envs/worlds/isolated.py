"""A world in a process of its own, so that any number of envs can share a program.

The child is a fresh interpreter, neither a fork nor one that imports the user's script again:
that works in scripts without a ``__main__`` guard, in threads, and in the daemonic workers of
vector envs. It lives until its world is closed, dropped, or its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import IO

from komo_envs.scene import Array, Body
from komo_envs.worlds.base import World, WorldState
from komo_envs.worlds.rai import SimulationError

_EXIT_TIMEOUT = 5.0  # s
_ANSWER_TIMEOUT = 120.0  # s; a robot that goes home takes its time
_PATIENCE = 1.0  # s between two looks whether the parent is still there


class IsolatedWorld:
    """A world in a child process: the same states, for some 0.1 ms more a step.

    Args:
        world: ``"module:Class"`` of the world, and what it is made with.
    """

    def __init__(self, world: str, *arguments: object) -> None:
        self._made = world, arguments
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """As the world's; starts the child process if there is none."""
        if self._connection is None:
            self._start()
        return self._call("reset", q, tuple(bodies), arm_collides, stiffness)

    def step(self, reference: Array) -> WorldState:
        """As the world's."""
        return self._call("step", reference)

    def close(self) -> None:
        """End the child process."""
        if self._connection is not None:
            self._finalizer()
            self._connection = self.process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child is
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C in the user's terminal is not for it
            )
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(
            self, _end, self._connection, self.process, self._errors, os.getpid()
        )
        try:
            self._connection.send(self._made)
        except BaseException:  # what cannot be pickled
            self.close()
            raise

    def _call(self, method: str, *arguments: object) -> WorldState:
        if self._connection is None:
            raise SimulationError(f"{method} before reset")
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(_ANSWER_TIMEOUT):
                raise TimeoutError(f"no answer for {_ANSWER_TIMEOUT:g} s")
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            reason = f" ({error})" if isinstance(error, TimeoutError) else self._last_words()
            self.close()
            raise SimulationError(
                f"the process of this simulation ended during {method}{reason}; "
                "reset starts a new one"
            ) from error
        except BaseException:
            # An interrupt: the answer is still to come, and would be taken for the next one's.
            self.close()
            raise
        if isinstance(result, WorldState):
            return result
        raise result

    def _last_words(self) -> str:
        """The last line that the child process wrote to stderr, if it wrote any."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""


# The child imports what its parent would, wherever it runs.
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from komo_envs.worlds.isolated import serve
serve(int(sys.argv[2]))
"""


def _end(
    connection: Connection, child: subprocess.Popen[bytes], errors: IO[bytes], pid: int
) -> None:
    errors.close()
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


def serve(descriptor: int) -> None:
    """The life of a child process: answer what comes through a socket until it closes."""
    connection, parent = Connection(descriptor), os.getppid()
    name, made_with = connection.recv()
    world: World = pkgutil.resolve_name(name)(*made_with)

    def left() -> bool:
        """Whether the parent has gone: a fork of it may keep the socket open."""
        return os.getppid() != parent

    if hasattr(world, "cancelled"):
        # What comes while it is at something is that it is to close, or the end of the socket.
        world.cancelled = lambda: left() or connection.poll(0)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            while not connection.poll(_PATIENCE):
                if left():
                    raise EOFError
            method, arguments = connection.recv()
            if method == "close":
                break
            try:
                result: object = getattr(world, method)(*arguments)
            except SimulationError as error:
                result = error
            except Exception as error:
                result = SimulationError(f"{type(error).__name__}: {error}")
            connection.send(result)
    world.close()
