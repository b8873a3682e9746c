"""An object in a process of its own, whose methods are called from here.

The child is a fresh interpreter, neither a fork nor one that imports the user's script again:
that works in scripts without a ``__main__`` guard, in threads, and in the daemonic workers of
vector envs. It lives until it is closed, dropped, or its parent is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import pkgutil
import select
import socket
import subprocess
import sys
import tempfile
import weakref
from multiprocessing.connection import Connection
from typing import IO, Any

_ANSWER_TIMEOUT = 120.0  # s; a robot that goes home takes its time
_EXIT_TIMEOUT = 5.0  # s
_PARENT_CHECK = 1.0  # s between two checks whether the parent is still there


class ChildEnded(RuntimeError):
    """The child process ended, or did not answer in time, during a call."""


class ChildProcess:
    """A process that makes one object and answers calls of its methods, one at a time.

    A call costs about 0.1 ms more than it would here. It is not safe to call from several threads
    at once.

    Args:
        made_from: ``"module:Class"`` of the object.
        arguments: What the object is made with. They can be pickled.
    """

    def __init__(self, made_from: str, *arguments: object) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child is
        with ours, theirs:
            # Where a program has closed its standard descriptors, a socket may have got the number
            # of one, to which others write.
            ours_fd, theirs_fd = (fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 3) for s in (ours, theirs))
        self._connection = Connection(ours_fd)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs_fd), *sys.path],
                pass_fds=[theirs_fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C in the user's terminal is not for it
            )
        finally:
            os.close(theirs_fd)
        self._answers = select.poll()
        self._answers.register(self._connection, select.POLLIN)
        self._finalizer = weakref.finalize(
            self, _end, self._connection, self.process, self._errors, os.getpid()
        )
        try:
            self._connection.send((made_from, arguments))
        except BaseException:  # what cannot be pickled
            self.close()
            raise

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the object, and wait for what it returns.

        Raises:
            ChildEnded: The child ended or did not answer. It is closed.
            Exception: The method raised it.
        """
        try:
            self._connection.send((method, arguments))
            if not self._answers.poll(1000 * _ANSWER_TIMEOUT):
                raise TimeoutError(f"no answer for {_ANSWER_TIMEOUT:g} s")
            raised, result = self._connection.recv()
        except (EOFError, OSError) as error:
            reason = f" ({error})" if isinstance(error, TimeoutError) else self._last_words()
            self.close()
            raise ChildEnded(f"ended during {method}{reason}") from error
        except BaseException:
            # An interrupt: the answer is still to come, and would be taken for the next one's.
            self.close()
            raise
        if raised:
            raise result
        return result

    def close(self) -> None:
        """Have the object closed, and end the process."""
        self._finalizer()

    def _last_words(self) -> str:
        """The last line that the child wrote to stderr, if it wrote any."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""


# The child imports what its parent would, and nothing before that: of itself, Python would find the
# modules of the working directory first.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from komo_envs.utils.child import serve
serve(int(sys.argv[1]))
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
    """Make an object and answer calls that come through a socket until it closes.

    The object has a method ``close``. If it has an attribute ``cancelled``, that becomes a function
    which says, during a call, whether nobody waits for the answer any more.
    """
    connection, parent = Connection(descriptor), os.getppid()
    calls = select.poll()
    calls.register(connection, select.POLLIN)
    made_from, arguments = connection.recv()
    try:
        served = pkgutil.resolve_name(made_from)(*arguments)
    except Exception as error:
        with contextlib.suppress(EOFError, OSError):
            connection.recv()  # the first call, which hears of it
            connection.send((True, _portable(error)))
        return

    def is_orphaned() -> bool:
        return os.getppid() != parent  # a fork of the parent may keep the socket open

    if hasattr(served, "cancelled"):
        # During a call, the parent sends nothing but that the object is to close.
        served.cancelled = lambda: is_orphaned() or bool(calls.poll(0))
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            while not calls.poll(1000 * _PARENT_CHECK):
                if is_orphaned():
                    raise EOFError
            method, arguments = connection.recv()
            if method == "close":
                break
            answer: tuple[bool, object]
            try:
                answer = False, getattr(served, method)(*arguments)
            except Exception as error:
                answer = True, _portable(error)
            connection.send(answer)
    served.close()


def _portable(error: Exception) -> Exception:
    """The error itself if it survives being pickled, else one with its type and text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
