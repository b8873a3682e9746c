"""Geometry of end-effector, object and goal in the plane, m."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.01
"""m: directions between points that are nearer than this fade to zero."""
GEOMETRY_SIZE = 11


def direction(way: Tensor) -> Tensor:
    """Unit vectors (B, 2) of vectors (B, 2)."""
    return way / (way.norm(dim=-1, keepdim=True) + 1e-6)


def geometry(ee: Tensor, command: Tensor, obj: Tensor, goal: Tensor) -> Tensor:
    """Geometric features (B, 11) of positions (B, 2), m.

    The direction from object to goal, and the vector and its length; then, along and to the left of
    it, the vectors from the end-effector and from its last command to the object, and the direction
    of the first. Lengths in tenths of a metre.
    """
    way = goal - obj
    ahead = way / (way.norm(dim=-1, keepdim=True) + NEAR)
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)

    def in_frame(vector: Tensor) -> Tensor:
        return torch.stack([(vector * ahead).sum(-1), (vector * left).sum(-1)], -1)

    reach = in_frame(obj - ee)
    parts = [
        ahead,
        10 * way,
        10 * way.norm(dim=-1, keepdim=True),
        10 * reach,
        10 * in_frame(obj - command),
        reach / (reach.norm(dim=-1, keepdim=True) + NEAR),
    ]
    return torch.cat(parts, -1)
