"""Images of a scene's robot and bodies: no screen, no X server.

Drawing happens in a process of its own, one for each process that renders (``graphics.py``). A GL
driver is a bad neighbour: Mesa's brings its LLVM into the scope of the whole process, where other
libraries (Triton, and so PyTorch) take its symbols for their own and crash, and the threads of a
driver do not survive a fork. A context of its own process meets neither, whatever is imported,
forked or drawn elsewhere.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import ROBOT_LINKS, Array, Body, Camera, Look
from komo_envs.poses import pose_matrices
from komo_envs.rendering.shaders import MAX_MATRICES
from komo_envs.utils.child import ChildEnded, ChildProcess

MAX_BODIES = MAX_MATRICES - len(ROBOT_LINKS)
"""The most bodies that segmentation can number."""
PLAIN = Look()


@dataclass(frozen=True)
class Image:
    """The images of one camera; row 0 is the top."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), as a screen shows it."""
    depth: NDArray[np.float32]
    """(H, W, 1), metres along the optical axis; 0 where nothing is hit within the far plane."""
    segmentation: NDArray[np.uint8]
    """(H, W): 0 background, 1 robot, 2 + i for ``bodies[i]``."""


class Renderer:
    """Renders images of the robot and of a list of bodies, from any cameras at any sizes.

    Making one costs nothing; the first render in a process starts the process that draws, which
    all its renderers share. Any number may be alive, used from any thread, and closed in any order.
    Equal input gives equal pixels, bit for bit.
    """

    def __init__(self) -> None:
        self._bodies: tuple[Body, ...] = ()
        self._pickled_bodies = pickle.dumps(())

    def set_bodies(self, bodies: Sequence[Body]) -> None:
        """Set the bodies of the scene besides the robot: shapes, sizes, colors and their order.

        Raises:
            ValueError: there are more than 253 bodies, the most that segmentation can number.
        """
        if len(bodies) > MAX_BODIES:
            raise ValueError(f"{len(bodies)} bodies, but segmentation can number only {MAX_BODIES}")
        bodies = tuple(bodies)
        if bodies != self._bodies:
            self._bodies, self._pickled_bodies = bodies, pickle.dumps(bodies)

    def render(
        self,
        link_poses: Array,
        body_poses: Array,
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadow: bool = False,
        look: Look = PLAIN,
    ) -> list[Image]:
        """One image a camera.

        Args:
            link_poses: (11, 7) world poses of the links, in the order of ``ROBOT_LINKS``.
            body_poses: (N, 7) world poses of the bodies, in the order of ``set_bodies``.
            cameras: static ones, or carried by a link.
            size: (height, width) in pixels.
            shadow: whether the main light casts soft shadows.
            look: light and surfaces.

        Raises:
            ValueError: the number of poses does not fit.
            RuntimeError: there is no working EGL, and the message says how to get one; or the
                process that draws has died twice.
        """
        poses = np.concatenate([link_poses, np.reshape(body_poses, (-1, 7))])
        if len(poses) != len(ROBOT_LINKS) + len(self._bodies):
            raise ValueError(
                f"{len(poses)} poses for {len(ROBOT_LINKS)} links and {len(self._bodies)} bodies"
            )
        matrices = pose_matrices(poses)
        images: list[Image] = _call(
            "draw", self._pickled_bodies, matrices, tuple(cameras), size, shadow, look
        )
        return images

    def close(self) -> None:
        """Forgets the bodies. The process that draws goes on for other renderers."""
        self.set_bodies(())


def driver() -> str:
    """Name and version of the GL driver, on which pixels depend; "none" if nothing can draw."""
    try:
        name: str = _call("driver")
    except RuntimeError:
        return "none"
    return name


_child: ChildProcess | None = None
_lock = threading.Lock()


def _call(method: str, *arguments: object) -> Any:
    """Call a method of ``graphics.Graphics`` in the process that draws.

    Drawing depends on its arguments alone, so a process that has died is replaced and asked again.
    """
    with _lock:
        try:
            return _ask(method, *arguments)
        except ChildEnded:
            pass
        try:
            return _ask(method, *arguments)
        except ChildEnded as error:
            raise RuntimeError(f"the process that draws images {error}") from error


def _ask(method: str, *arguments: object) -> Any:
    global _child
    child = _child or ChildProcess("komo_envs.rendering.graphics:open_graphics")
    _child = None  # an interrupt or an error of the driver leaves it in no state to go on
    result = child.call(method, *arguments)
    _child = child
    return result


def _after_fork() -> None:
    """A child starts a process of its own: the parent's, and its lock, may be in use."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
