"""A map of the things around the object: how a student knows of them.

How many there are differs, and no picture shows in which order they are counted. A list of their
places would be hard to learn: it asks of each entry which of the things it means. A map has none of
that, and each cell of it is a small question about one part of the picture.

Shapes: B batch, C things, S numbers of each, the first two of which are x and y.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 14
"""Rows, and columns."""
SPAN = 2.2
"""How far it reaches to either side of the mean place, in standard deviations."""
BLUR = 0.7
"""Of a thing, standard deviation in cells."""
AHEAD, ASIDE = (-2, 10), (-4, 5)
"""First and end of the places that are read off along and aside of a way, in cells."""
PLACES = (AHEAD[1] - AHEAD[0]) * (ASIDE[1] - ASIDE[0])


def draw(things: Tensor) -> Tensor:
    """The map (B, CELLS, CELLS), x by y, of things (B, C, S): 1 in their middle, 0 where none is.

    Args:
        things: Normalised; of a thing that is not there, all numbers are NaN.
    """
    place = (things[..., :2] / SPAN + 1) / 2 * (CELLS - 1)
    cells = torch.arange(CELLS, device=things.device)
    away = (place[..., None] - cells) / BLUR  # (B, C, 2, CELLS)
    marks = torch.exp(-(away**2) / 2).nan_to_num()
    return (marks[:, :, 0, :, None] * marks[:, :, 1, None, :]).amax(1)


def error(logits: Tensor, truth: Tensor) -> Tensor:
    """How far maps (B, CELLS, CELLS), given as logits, are from the true ones: (), 0 or more.

    The Kullback-Leibler divergence of each cell, times so much that to know nothing costs about as
    much as a standard deviation in something else: a rare thing would else never be learned.
    """
    least = functional.binary_cross_entropy(truth, truth, reduction="sum")
    more = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum") - least
    return 0.3 * more / len(truth)


def read(chart: Tensor, start: Tensor, ahead: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """What a map says of places along and aside of a way: (B, PLACES).

    Args:
        chart: (B, CELLS, CELLS)
        start: Where the way begins (B, 2), m.
        ahead: Its direction (B, 2), of length 1.
        mean: Of the places of things (2,), m.
        deviation: Of those (2,), m.
    """
    size = 2 * SPAN * deviation / (CELLS - 1)  # of a cell, m
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    far, aside = (torch.arange(*ends, device=chart.device) * size.mean() for ends in (AHEAD, ASIDE))
    places = (
        start[:, None, None]
        + far[:, None, None] * ahead[:, None, None]
        + aside[:, None] * left[:, None, None]
    ).flatten(1, 2)  # (B, PLACES, 2), m
    cells = (places - mean) / size + (CELLS - 1) / 2
    # Linear between the four cells around each place; nothing beyond the edge.
    near = functional.relu(
        1 - (cells[..., None] - torch.arange(CELLS, device=chart.device)).abs()
    )  # (B, PLACES, 2, CELLS)
    return torch.einsum("bpi,bij,bpj->bp", near[:, :, 0], chart, near[:, :, 1])
