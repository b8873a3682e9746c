"""The window of ``render_mode="human"``."""

from __future__ import annotations

import os
import sys

import numpy as np


def has_display() -> bool:
    """Whether there is something to open a window on."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    return sys.platform != "linux" or any(os.environ.get(name) for name in names)


class Viewer:
    """A pygame window that shows pictures at the pace of real time."""

    def __init__(self, title: str, size: tuple[int, int]) -> None:
        """Open a window of ``size`` (height, width) pixels.

        Raises:
            RuntimeError: the display does not let it.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame = pygame
        try:
            pygame.display.init()
            height, width = size
            self._window = pygame.display.set_mode((width, height))
        except pygame.error as error:
            raise RuntimeError(f"render_mode='human' cannot open a window: {error}") from error
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

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
