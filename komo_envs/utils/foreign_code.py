"""The process, which our code shares with the code of others: policies, tasks, their modules."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from komo_envs.utils.errors import describe

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The standard streams, by the number of their file descriptor, and how each is opened."""


class ForeignError(RuntimeError):
    """Code of somebody else raised something, or wanted to end the process."""


def open_streams() -> None:
    """Open each standard stream that is closed on the null device.

    Otherwise the next file that is opened would get the stream's number, and with it all that C
    prints.
    """
    for number, (name, mode) in enumerate(STREAMS.items()):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)  # inheritable, for the processes that are started later
            if null != number:
                os.close(null)
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Inside, code of somebody else runs. Afterwards the process is as it was before.

    The working directory, the standard streams and the handlers of SIGINT and SIGTERM are put back.
    A process that the code forked, and that comes back from it, ends.

    Raises:
        ForeignError: The code raised something, be it SystemExit; the message says what. A
            KeyboardInterrupt passes, but where Ctrl-C is ignored: there the code itself raised it.
    """
    pid, streams = os.getpid(), {name: getattr(sys, name) for name in STREAMS}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed
        folder = None
    try:
        yield
    except BaseException as error:
        ctrl_c = handlers[signal.SIGINT] != signal.SIG_IGN
        if isinstance(error, KeyboardInterrupt) and ctrl_c:
            raise
        raise ForeignError(describe(error)) from error
    finally:
        if os.getpid() != pid:
            os._exit(1)
        for name, stream in streams.items():
            setattr(sys, name, stream)
        open_streams()
        _restore(handlers)
        if folder is not None:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                os.chdir(folder)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """Set signal handlers as they were. Python lets only the main thread set any."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:  # None: it is not Python's
            signal.signal(number, handler)
