"""Image augmentation: what a student must not depend on varies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from policies.student.config import Training


def augment(images: Tensor, training: Training) -> Tensor:
    """Vary the images of clips, each clip in its own way.

    RGB changes in brightness and contrast, and each channel in strength; depth gets noise of each
    pixel; both are shifted, their edges repeated.

    Args:
        images: (C, L, H, W, 3) uint8, or (C, L, H, W, 1) in m. Features (C, L, F) stay as they are.
        training: By how much.

    Returns:
        Images of the same shape and type.
    """
    if images.ndim == 3:
        return images
    clips = len(images)
    if images.dtype == torch.uint8:
        if training.colour:
            shape = (clips, 1, 1, 1, 1)
            device = images.device
            gain = _around(1.0, training.colour, (clips, 1, 1, 1, 3), device)
            gain = gain * _around(1.0, training.colour, shape, device)
            offset = _around(0.0, training.colour, shape, device) * 128.0
            images = (images * gain + offset).clamp(0, 255).to(torch.uint8)
    elif training.depth_noise:
        images = images + training.depth_noise * torch.randn_like(images)
    if training.shift:
        height, width = images.shape[2:4]
        shift = training.shift
        moved = []
        for clip, (down, right) in zip(
            images, torch.randint(2 * shift + 1, (clips, 2)).tolist(), strict=True
        ):
            padded = functional.pad(
                clip.movedim(-1, 1).float(), (shift,) * 4, mode="replicate"
            ).movedim(1, -1)
            moved.append(padded[:, down : down + height, right : right + width])
        images = torch.stack(moved).to(images.dtype)
    return images


def _around(middle: float, share: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return middle + share * (2 * torch.rand(shape, device=device) - 1)
