"""Frozen DINOv2: patch features of images.

Source: Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from komo_envs.utils.extras import missing
from policies.student.encoders import spatial_softmax

MEAN = (0.485, 0.456, 0.406)
"""Mean and standard deviation of ImageNet's channels, as in the training of the backbone."""
STD = (0.229, 0.224, 0.225)


class Backbone:
    """A DINOv2 with frozen weights.

    Args:
        name: A folder, or a name on the Hugging Face hub, such as ``"facebook/dinov2-base"``.
        device: PyTorch device.

    Raises:
        ValueError: The model is not there, or no DINOv2.
        ImportError: transformers is not installed.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        try:
            from transformers import Dinov2Model
            from transformers.utils import logging
        except ImportError as error:
            raise missing("DINOv2", "dinov2", error) from error
        logging.disable_progress_bar()
        try:
            # Weights in safetensors alone: other formats can run code.
            model: Any = Dinov2Model.from_pretrained(name, use_safetensors=True)
        except Exception as error:  # of any kind, from the depths of two libraries
            raise ValueError(f"--backbone {name}: cannot be loaded: {error}") from error
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.patch = int(model.config.patch_size)
        self.size = 2 * int(model.config.hidden_size)
        """Number of features of an image."""
        digest = hashlib.sha256()
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.float().numpy().tobytes())
        self.sha256 = digest.hexdigest()
        self.model.to(device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, 2 C) of images (B, H, W, 3), uint8: the keypoint of each of C channels.

        The images are scaled down to whole patches, and the spatial softmax is over those.
        """
        side = images.shape[1] // self.patch * self.patch
        device = self.model.device
        x = images.to(device).permute(0, 3, 1, 2).float() / 255.0
        x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(part, device=device)[:, None, None] for part in (MEAN, STD))
        x = (x - mean) / std
        patches = self.model(x).last_hidden_state[:, 1:]  # (B, P, C), without the class token
        count = side // self.patch
        return spatial_softmax(patches.transpose(1, 2).unflatten(2, (count, count))).cpu()
