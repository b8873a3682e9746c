"""DINOv2 features of demonstrations, computed once and kept beside the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from experts.dataset.format import DemoFile
from komo_envs.utils.files import replacing
from policies.student.dinov2 import Backbone

BATCH = 64
"""Images at a time."""


def cached_features(path: Path, images: str, backbone: Backbone) -> NDArray[np.float32]:
    """The features (N, 2 C) of all images of a file of demonstrations, one after another.

    They are computed at the first call, and then read from ``<file>.dinov2-<hash>.npy``.

    Args:
        path: The file of demonstrations.
        images: Name of the images in it.
        backbone: The DINOv2 that computes them.

    Raises:
        OSError: The features cannot be written.
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
                for index in track(range(len(file)), "DINOv2 features of the demonstrations")
            ]
        with replacing(cache) as scratch:
            np.save(scratch, np.concatenate(parts))
    return np.load(cache, allow_pickle=False)


def _features(images: h5py.Dataset, backbone: Backbone) -> NDArray[np.float32]:
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    parts = [backbone.features(torch.from_numpy(batch)).numpy() for batch in batches]
    return np.concatenate(parts)
