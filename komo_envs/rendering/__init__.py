"""Headless cameras: color, depth and segmentation of a scene, with no screen and no X server."""

from komo_envs.rendering.renderer import Image, Renderer

__all__ = ["Image", "Renderer"]
