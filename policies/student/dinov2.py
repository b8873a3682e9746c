"""Frozen DINOv2: patch features of images, computed once and kept beside the demonstrations.

Source: Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from experts.dataset.format import DemoFile
from komo_envs.utils.extras import missing
from komo_envs.utils.files import replacing
from policies.student.encoders import spatial_softmax

BATCH = 64
MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet's channels, which the backbone was trained with."""
DEVIATION = (0.229, 0.224, 0.225)


class Backbone:
    """A DINOv2 whose weights stay as they are.

    Args:
        name: A folder, or a name on the Hugging Face hub, such as ``"facebook/dinov2-base"``.
        device: Of PyTorch, where it computes.

    Raises:
        ValueError: There is no such model, or it is no DINOv2.
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
        """Numbers of an image's features."""
        digest = hashlib.sha256()
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.float().numpy().tobytes())
        self.sha256 = digest.hexdigest()
        self.model.to(device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, 2 C) of images (B, H, W, 3), uint8: where each of C channels is large.

        The images are scaled down to whole patches, and the spatial softmax is over those.
        """
        side = images.shape[1] // self.patch * self.patch
        device = self.model.device
        x = images.to(device).permute(0, 3, 1, 2).float() / 255.0
        x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        mean, deviation = (
            torch.tensor(part, device=device)[:, None, None] for part in (MEAN, DEVIATION)
        )
        x = (x - mean) / deviation
        patches = self.model(x).last_hidden_state[:, 1:]  # (B, P, C), without the class token
        count = side // self.patch
        return spatial_softmax(patches.transpose(1, 2).unflatten(2, (count, count))).cpu()


def cached_features(path: Path, images: str, backbone: Backbone) -> NDArray[np.float32]:
    """The features (N, 2 C) of all images of a file of demonstrations, one after another.

    Computed when they are first asked for, and then read from ``<file>.dinov2-<hash>.npy``.

    Args:
        path: Of the file.
        images: Name of the images there.
        backbone: What computes them.

    Raises:
        OSError: They cannot be written.
    """
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    digest.update(f"{backbone.sha256} {images}".encode())
    cache = path.with_name(f"{path.name}.dinov2-{digest.hexdigest()[:16]}.npy")
    if not cache.exists():
        with DemoFile(path) as file:
            parts = [
                _features(file.group(index)["obs"][images], backbone)
                for index in track(range(len(file)), "DINOv2 looks at the demonstrations")
            ]
        with replacing(cache) as scratch:
            np.save(scratch, np.concatenate(parts))
    return np.load(cache, allow_pickle=False)


def _features(images: h5py.Dataset, backbone: Backbone) -> NDArray[np.float32]:
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    parts = [backbone.features(torch.from_numpy(batch)).numpy() for batch in batches]
    return np.concatenate(parts)
