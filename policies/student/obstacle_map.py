"""Obstacle maps: heat maps, seen from above, of the obstacles around the object.

The number of obstacles differs, and no image shows in which order they are listed. A list of
positions would be hard to learn: it asks of each entry which obstacle it means. In a map, each cell
is a small question about one part of the image.

Shapes: B batch, C obstacles, S entries of each, the first two of which are x and y.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 14
"""Rows, and columns."""
SPAN = 2.2
"""Reach to either side of the mean position, in standard deviations."""
BLUR = 0.7
"""Standard deviation of an obstacle's blob, in cells."""
AHEAD, LATERAL = (-2, 10), (-4, 5)
"""Start and stop of the samples along and beside a line, in cells."""
SAMPLES = (AHEAD[1] - AHEAD[0]) * (LATERAL[1] - LATERAL[0])


def rasterize(obstacles: Tensor) -> Tensor:
    """The map (B, CELLS, CELLS), x by y, of obstacles (B, C, S): 1 at their centers, 0 far away.

    Args:
        obstacles: Normalized; the entries of an obstacle that is not there are NaN.
    """
    center = (obstacles[..., :2] / SPAN + 1) / 2 * (CELLS - 1)
    cells = torch.arange(CELLS, device=obstacles.device)
    distance = (center[..., None] - cells) / BLUR  # (B, C, 2, CELLS)
    blobs = torch.exp(-(distance**2) / 2).nan_to_num()
    return (blobs[:, :, 0, :, None] * blobs[:, :, 1, None, :]).amax(1)


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Error of maps (B, CELLS, CELLS), given as logits, against the true ones: (), 0 or more.

    The Kullback-Leibler divergence of each cell, scaled so that knowing nothing costs about as much
    as one standard deviation of another quantity: rare blobs would not be learned otherwise.
    """
    entropy = functional.binary_cross_entropy(target, target, reduction="sum")
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return 0.3 * (cross_entropy - entropy) / len(target)


def sample_along(
    heat_map: Tensor, start: Tensor, ahead: Tensor, mean: Tensor, std: Tensor
) -> Tensor:
    """Values (B, SAMPLES) of a map on a grid along a line.

    Args:
        heat_map: (B, CELLS, CELLS)
        start: Where the line starts (B, 2), m.
        ahead: Its direction (B, 2), of length 1.
        mean: Mean position of the obstacles (2,), m.
        std: Standard deviation of that (2,), m.
    """
    cell = 2 * SPAN * std / (CELLS - 1)  # size, m
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    along, lateral = (
        torch.arange(*ends, device=heat_map.device) * cell.mean() for ends in (AHEAD, LATERAL)
    )
    points = (
        start[:, None, None]
        + along[:, None, None] * ahead[:, None, None]
        + lateral[:, None] * left[:, None, None]
    ).flatten(1, 2)  # (B, SAMPLES, 2), m
    cells = (points - mean) / cell + (CELLS - 1) / 2
    # Bilinear between the four cells around each point; zero beyond the edge.
    weights = functional.relu(
        1 - (cells[..., None] - torch.arange(CELLS, device=heat_map.device)).abs()
    )  # (B, SAMPLES, 2, CELLS)
    return torch.einsum("bpi,bij,bpj->bp", weights[:, :, 0], heat_map, weights[:, :, 1])
