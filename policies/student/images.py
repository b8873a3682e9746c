"""Image preprocessing: from observations and demonstrations to the input of an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from policies.student.config import Modality

IMAGE_KEYS: dict[Modality, str] = {"rgb": "pixels", "depth": "depth"}
"""Key of the images of each modality, in observations and in files."""
MM_PER_M = 1000.0
NEIGHBORHOOD = 4
"""Pixels to each side over which ``depth_contrast`` takes the mean."""


def side_by_side(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Images (..., H, V W, C) of images (..., H, W, C) of V cameras."""
    return images[0] if len(images) == 1 else np.concatenate(images, -2)


def observed_images(
    obs: Mapping[str, Any], modality: Modality, cameras: Sequence[str]
) -> NDArray[Any]:
    """Images (..., H, V W, C) of observations; depth is rounded to mm, as in demonstrations."""
    images = obs[IMAGE_KEYS[modality]]
    joined = side_by_side([images[name] for name in cameras] if len(cameras) > 1 else [images])
    if modality == "depth":
        joined = to_metres(np.round(joined * MM_PER_M))
    return joined


def to_metres(images: NDArray[Any]) -> NDArray[np.float32]:
    """Depth in m, of depth in mm."""
    return images.astype(np.float32) / MM_PER_M


def encoder_input(images: Tensor, depth: nn.Module, cameras: int) -> Tensor:
    """Normalized images (B, C, H, V W), of about mean 0 and deviation 1, laid out channels last.

    Args:
        images: RGB (B, H, V W, 3), uint8, or depth (B, H, V W, 1), m, of V cameras.
        depth: Normalizes depth, m.
        cameras: V.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 64.0 - 2.0
        return images.permute(0, 3, 1, 2)
    metres = images.permute(0, 3, 1, 2)
    channels = torch.cat([depth(metres), depth_contrast(metres, cameras)], 1)
    return channels.contiguous(memory_format=torch.channels_last)


def depth_contrast(depth: Tensor, cameras: int) -> Tensor:
    """Local depth contrast: (B, 1, H, V W), cm, clipped to 3.

    It is each pixel's depth minus the mean of its neighborhood. Objects of a few centimetres some
    metres away hardly show in the depth itself.

    Args:
        depth: (B, 1, H, V W), m, of V cameras side by side.
        cameras: V.
    """

    def contrast(view: Tensor) -> Tensor:
        padded = functional.pad(view, 4 * (NEIGHBORHOOD,), mode="replicate")
        return view - functional.avg_pool2d(padded, 2 * NEIGHBORHOOD + 1, stride=1)

    # Without its one channel: laid out channels last, that would be pooled six times slower.
    contrasts = [contrast(view) for view in depth[:, 0].chunk(cameras, 2)]
    return (100.0 * torch.cat(contrasts, 2)[:, None]).clamp(-3.0, 3.0)
