"""The one door to ``robotic`` (rai): imported safely, kept silent, its errors made plain.

rai is a C++ library that writes warnings to file descriptor 1, opens a log file in the current
directory when it is loaded, reads numbers as the locale writes them, and needs system libraries
that pip cannot install. Whoever needs it does ``from komo_envs.worlds.rai import ry, quiet`` and is
spared all four.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

SYSTEM_PACKAGES = (
    "libfreetype6 liblapack3 libx11-6 libxi6 libxrandr2 libxxf86vm1 libglu1-mesa libgl1"
)


class SimulationError(RuntimeError):
    """The simulator refused an operation, or a failed check in its C++ ended it."""


class RobotStopped(SimulationError):
    """A robot in real time was stopped, for safety's sake, and stands still."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a failed check in rai's C++ into one clear error.

    Raises:
        SimulationError: rai raised; the message is the first line of its own.
    """
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise SimulationError(f"the simulator refused: {reason}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ prints meanwhile to nowhere, have it read ``0.5``, and make its errors plain.

    File descriptors 1 and 2 are the whole process's: what other threads write to them inside the
    block is lost too, so it encloses only calls that are known to print, or to read text. It does
    not nest.

    Raises:
        SimulationError: rai raised.
    """
    with _redirection, _decimal_points(), plain_errors():
        yield


@contextlib.contextmanager
def _decimal_points() -> Iterator[None]:
    """Have C read and write ``0.5`` in this thread, where the user's locale may have ``0,5``.

    rai reads its files with C's ``strtod``. ``setlocale`` would change the numbers of all threads;
    ``uselocale`` changes only this one's. Everything but the numbers stays as it is, since Python,
    too, asks the locale, for the encoding of a file.
    """
    current = _libc.uselocale(None)
    numbers = _libc.newlocale(_LC_NUMERIC_MASK, b"C", _libc.duplocale(current))
    try:
        _libc.uselocale(numbers)
        yield
    finally:
        _libc.uselocale(current)
        _libc.freelocale(numbers)


_LC_NUMERIC_MASK = 1 << 1  # of glibc, which robotic's wheel needs
_libc = ctypes.CDLL(None)
_libc.uselocale.argtypes = [ctypes.c_void_p]
_libc.uselocale.restype = ctypes.c_void_p
_libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
_libc.newlocale.restype = ctypes.c_void_p
_libc.duplocale.argtypes = [ctypes.c_void_p]
_libc.duplocale.restype = ctypes.c_void_p
_libc.freelocale.argtypes = [ctypes.c_void_p]
_libc.freelocale.restype = None


@contextlib.contextmanager
def reading_meshes() -> Iterator[None]:
    """Let rai read its mesh files on a disk without locks, too.

    Its HDF5, which is not h5py's, locks each file, and looks here at its first one whether it
    should. The files belong to the package, and nobody writes to them.
    """
    name = "HDF5_USE_FILE_LOCKING"
    given = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


class _Redirection:
    """Lends file descriptors 1 and 2 to the null device, for one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._saved: dict[int, int] = {}
        null = os.open(os.devnull, os.O_WRONLY)
        # Where a program has closed its standard descriptors, open would have handed out one.
        self._null = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(null)
        # No process is forked while the descriptors are lent, so no child inherits them so.
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._restore()  # if Ctrl-C has kept the last one from it
            self._redirect()
        except BaseException:
            self._restore()
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._restore()
        finally:
            self._restore()  # once more, if Ctrl-C has come between: it does no harm
            self._lock.release()

    def _redirect(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(Exception):  # the stream is the user's, and may be odd
                    stream.flush()
        _libc.fflush(None)  # whatever C has buffered so far is the user's, and is shown
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # a program may have closed it
                self._saved[descriptor] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
                os.dup2(self._null, descriptor)

    def _restore(self) -> None:
        if self._saved:
            _libc.fflush(None)
        for descriptor in tuple(self._saved):
            os.dup2(self._saved[descriptor], descriptor)
            os.close(self._saved.pop(descriptor))


_redirection = _Redirection()


@contextlib.contextmanager
def _scratch_directory() -> Iterator[None]:
    """rai opens ``z.log.global`` where it is loaded: let that be a folder that goes away."""
    here = os.open(".", os.O_DIRECTORY)  # a descriptor finds back even to a folder without a name
    try:
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            try:
                yield
            finally:
                os.fchdir(here)
    finally:
        os.close(here)


with _scratch_directory(), quiet():
    try:
        import robotic as ry
    except (ImportError, OSError) as error:
        raise ImportError(
            f"robotic, the simulator of komo-envs, cannot be loaded: {error}. "
            "Run ./setup.sh in the project's folder, or: "
            f"sudo apt-get install {SYSTEM_PACKAGES} && pip install robotic"
        ) from error

__all__ = ["RobotStopped", "SimulationError", "plain_errors", "quiet", "reading_meshes", "ry"]
