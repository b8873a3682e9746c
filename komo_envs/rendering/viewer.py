"""The window of ``render_mode="human"``.

It lives in a process of its own. Xlib ends the process whose X server goes away, SDL has one
display and one thread for all windows of a process, and neither survives a fork: none of that is
to happen to a user's training.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from komo_envs.utils.child import ChildEnded, ChildProcess

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
_INVISIBLE = ("offscreen", "dummy", "evdev")
"""Drivers of SDL that show nothing."""


def has_display() -> bool:
    """Whether there is something to open a window on."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in _DISPLAYS)


def check_display() -> None:
    """Refuse to open a window where there is nothing to open it on.

    Raises:
        RuntimeError: There is no display.
    """
    if not has_display():
        raise RuntimeError(
            "render_mode='human' needs a display, and there is none (DISPLAY is not set); use "
            "another one, or run under xvfb-run"
        )


class Viewer:
    """A window that shows pictures at the pace of real time."""

    def __init__(self, title: str, size: tuple[int, int]) -> None:
        """Open a window of ``size`` (height, width) pixels.

        Raises:
            RuntimeError: There is no display to open it on.
        """
        self._child = ChildProcess("komo_envs.rendering.viewer:Window", title, size)
        self.driver: str = self._call("driver")
        """SDL's name of what shows the window: ``"x11"``, ``"wayland"``."""

    @property
    def pid(self) -> int:
        """The window's process."""
        return self._child.process.pid

    def show(self, rgb: np.ndarray, fps: int) -> None:
        """Show a picture, uint8 (H, W, 3), and wait until it is time for the next one.

        Raises:
            RuntimeError: The display has gone away. Only a new viewer can show anything.
        """
        self._call("show", rgb, fps)

    def close(self) -> None:
        """Close the window."""
        self._child.close()

    def _call(self, method: str, *arguments: object) -> str:
        try:
            answer: str = self._child.call(method, *arguments)
        except ChildEnded as error:
            raise RuntimeError(
                f"render_mode='human': the window's process {error}; is its display still there?"
            ) from error
        return answer


class Window:
    """A pygame window in this process."""

    def __init__(self, title: str, size: tuple[int, int]) -> None:
        os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
        # SDL would ask the GL driver whether it can speed up the window. Without a GPU that is
        # Mesa with all of LLVM, which takes time and memory and speeds up nothing.
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        import pygame

        self._pygame = pygame
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
            # Where no display answers, SDL draws on none, and calls that a success.
            if driver in _INVISIBLE and not os.environ.get("SDL_VIDEODRIVER"):
                raise pygame.error("no display answers")
            height, width = size
            self._window = pygame.display.set_mode((width, height))
        except pygame.error as error:
            given = [f"{name}={os.environ[name]}" for name in _DISPLAYS if name in os.environ]
            raise RuntimeError(
                f"render_mode='human' cannot open a window: {error} ({', '.join(given)}); name a "
                "display that is there, or run under xvfb-run"
            ) from error
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

    def driver(self) -> str:
        """SDL's name of what shows the window."""
        name: str = self._pygame.display.get_driver()
        return name

    def show(self, rgb: np.ndarray, fps: int) -> None:
        """Show a picture, uint8 (H, W, 3), and wait until it is time for the next one."""
        self._pygame.event.pump()
        surface = self._pygame.surfarray.make_surface(rgb.swapaxes(0, 1))
        self._window.blit(surface, (0, 0))
        self._pygame.display.flip()
        self._clock.tick(fps)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()
