"""Encoders: from an image, or the privileged state, to a feature vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.student.config import Pooling

GRID, GRID_CHANNELS = 6, 16
"""Rows and columns, and channels, of ``"grid"`` pooling."""
MIN_IMAGE_SIZE = 48
"""Pixels. In smaller images the kernels of the last stage lie partly beside the image, and oneDNN
leaves gradients of such parts in bfloat16 as they were in memory, NaN at times."""
CHANNELS_PER_GROUP = 8
"""Group size of GroupNorm, which, unlike BatchNorm, does not mix the images of a batch."""


class ResNet18(nn.Module):
    """A ResNet-18 with GroupNorm, trained from scratch.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015; a width of 64 is theirs.

    Args:
        channels: Channels C of the images.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        pooling: How the feature maps become a vector: ``"average"`` is the mean of the last ones,
            ``"spatial_softmax"`` their keypoints, ``"grid"`` those and the cells of a few finer
            maps: a keypoint is one position, however many similar objects there are.
    """

    def __init__(self, channels: int, width: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            _norm(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(before, after, stride), _Block(after, after, 1))
            for before, after, stride in zip([width, *widths], widths, [1, 2, 2, 2], strict=False)
        )
        self.out_features = 8 * width if pooling == "average" else 16 * width
        if pooling == "grid":
            self.cells = nn.Sequential(
                nn.Conv2d(4 * width, GRID_CHANNELS, 1), nn.AdaptiveAvgPool2d(GRID), nn.Flatten()
            )
            self.out_features += GRID_CHANNELS * GRID**2

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of images (B, C, H, W)."""
        finer = x = self.stem(images)  # (B, width, H/4, W/4)
        for stage in self.stages:
            finer, x = x, stage(x)
        # (B, 4 width, H/16, W/16), (B, 8 width, H/32, W/32)
        if self.pooling == "average":
            return x.float().mean((2, 3))
        keypoints = spatial_softmax(x)
        if self.pooling == "spatial_softmax":
            return keypoints
        return torch.cat([keypoints, self.cells(finer).float()], 1)


class MultiCameraEncoder(nn.Module):
    """One encoder for each camera, whose images are side by side.

    Args:
        encoders: Of the images, from left to right, all of the same width.
    """

    def __init__(self, encoders: Sequence[ResNet18]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.out_features = sum(encoder.out_features for encoder in encoders)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of images (B, C, H, V W) of V cameras."""
        views = images.chunk(len(self.encoders), 3)
        features = [encoder(view) for encoder, view in zip(self.encoders, views, strict=True)]
        return torch.cat(features, 1)


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = _norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(after)
        # torchvision's "downsample"
        self.around: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), _norm(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.around(x) + self.norm2(self.conv2(y)))


class _GroupNorm(nn.GroupNorm):
    """GroupNorm in float32 on a CPU, a fifth faster than in bfloat16; elsewhere in the type of its
    input, which halves the memory traffic."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu":
                return super().forward(x.float())
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def _norm(channels: int) -> nn.GroupNorm:
    return _GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


def spatial_softmax(maps: Tensor) -> Tensor:
    """Keypoints: the mean position under the softmax of each map.

    Source: Levine et al., End-to-End Training of Deep Visuomotor Policies, 2016.

    Args:
        maps: (B, C, H, W).

    Returns:
        Column and row (B, 2 C), each from -1 to 1, float32.
    """
    height, width = maps.shape[2:]
    rows, columns = (torch.linspace(-1, 1, n, device=maps.device) for n in (height, width))
    positions = torch.stack(
        [columns.expand(height, width), rows[:, None].expand(height, width)], -1
    ).flatten(0, 1)  # (H W, 2)
    with torch.autocast(
        maps.device.type, enabled=False
    ):  # bfloat16 would round positions to pixels
        attention = maps.float().flatten(2).softmax(-1)  # (B, C, H W)
        return (attention @ positions).flatten(1)


class StateEncoder(nn.Module):
    """An MLP over the privileged state."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, state: Tensor) -> Tensor:
        """Features (B, width) of normalized privileged states (B, P)."""
        return self.layers(state)
