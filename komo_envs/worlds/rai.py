"""The one door to ``robotic`` (rai): imported safely, kept silent, its errors made plain.

rai is a C++ library that writes warnings to file descriptor 1, opens a log file in the current
directory when it is loaded, and needs system libraries that pip cannot install. Whoever needs it
does ``from komo_envs.worlds.rai import ry, quiet`` and is spared all three.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SYSTEM_PACKAGES = (
    "libfreetype6 liblapack3 libx11-6 libxi6 libxrandr2 libxxf86vm1 libglu1-mesa libgl1"
)

_libc = ctypes.CDLL(None)
_devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


class SimulationError(RuntimeError):
    """The simulator refused an operation, or a failed check in its C++ ended it."""


@contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ prints meanwhile to nowhere, and turn its failed checks into one error.

    File descriptors 1 and 2 point to the null device inside the block. rai holds the GIL, so no
    other Python thread can lose a line. Costs about 5 microseconds.

    Raises:
        SimulationError: rai raised; the message is the first line of its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    _libc.fflush(None)  # whatever C has buffered so far is the user's, and is shown
    stdout, stderr = os.dup(1), os.dup(2)
    os.dup2(_devnull, 1)
    os.dup2(_devnull, 2)
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise SimulationError(f"the simulator refused: {reason}") from error
    finally:
        _libc.fflush(None)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)


@contextmanager
def _scratch_directory() -> Iterator[None]:
    """rai opens ``z.log.global`` where it is loaded: let that be a folder that goes away."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(here)


try:
    with _scratch_directory(), quiet():
        import robotic as ry
except (ImportError, OSError) as error:
    raise ImportError(
        f"robotic, the simulator of komo-envs, cannot be loaded: {error}. "
        "Run ./setup.sh in the project's folder, or: "
        f"sudo apt-get install {SYSTEM_PACKAGES} && pip install robotic"
    ) from error

__all__ = ["SimulationError", "quiet", "ry"]
