"""Image augmentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from policies.student.config import Training


def augment(images: Tensor, training: Training) -> Tensor:
    """Augment the images of sequences, each sequence in its own way.

    RGB varies in brightness and contrast, and in the gain of each channel; depth gets noise at each
    pixel; both are shifted, their edges repeated.

    Args:
        images: (C, L, H, W, 3) uint8, or (C, L, H, W, 1) in m. Features (C, L, F) stay as they are.
        training: The ranges.

    Returns:
        Images of the same shape and type.
    """
    if images.ndim == 3:
        return images
    sequences = len(images)
    if images.dtype == torch.uint8:
        if training.color_jitter:
            shape = (sequences, 1, 1, 1, 1)
            device = images.device
            gain = _uniform(1.0, training.color_jitter, (sequences, 1, 1, 1, 3), device)
            gain = gain * _uniform(1.0, training.color_jitter, shape, device)
            offset = _uniform(0.0, training.color_jitter, shape, device) * 128.0
            images = (images * gain + offset).clamp(0, 255).to(torch.uint8)
    elif training.depth_noise:
        images = images + training.depth_noise * torch.randn_like(images)
    if training.shift:
        height, width = images.shape[2:4]
        shift = training.shift
        shifted = []
        for sequence, (down, right) in zip(
            images, torch.randint(2 * shift + 1, (sequences, 2)).tolist(), strict=True
        ):
            padded = functional.pad(
                sequence.movedim(-1, 1).float(), (shift,) * 4, mode="replicate"
            ).movedim(1, -1)
            shifted.append(padded[:, down : down + height, right : right + width])
        images = torch.stack(shifted).to(images.dtype)
    return images


def _uniform(center: float, range_: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return center + range_ * (2 * torch.rand(shape, device=device) - 1)
