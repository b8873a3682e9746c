"""Heads: what was seen at the last moments becomes a chunk of actions.

Each has ``loss`` for training and ``sample`` for acting, over tokens (B, M, D), one for each moment
of the context, and normalised actions (B, N, A), a chunk. Diffusion has a file of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.student.config import Architecture


class TransformerHead(nn.Module):
    """A transformer encoder over the context and one query for each action of the chunk."""

    places: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a = architecture
        self.queries = nn.Parameter(torch.randn(a.chunk, a.width) * 0.02)
        self.register_buffer("places", positions(a.context, a.width), persistent=False)
        self.encoder = transformer_encoder(a)
        self.out = nn.Linear(a.width, actions)

    def forward(self, tokens: Tensor) -> Tensor:
        """The chunk (B, N, A)."""
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        x = torch.cat([tokens + self.places, queries], 1)  # (B, M + N, D)
        x = self.encoder(x)[:, tokens.shape[1] :]  # (B, N, D)
        return self.out(x)

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean absolute error: it seeks the median of what the expert may do, not the mean."""
        return functional.l1_loss(self(tokens), actions)

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A); nothing is drawn."""
        return self(tokens)


class ActHead(nn.Module):
    """ACT: a conditional variational autoencoder of chunks.

    An encoder, which only training has, sees the chunk and the present, and names its style; the
    decoder makes the chunk of context and style. Acting, the style is the prior's mean, zero.
    Here the context's moments take the place of ACT's patches of the present images.

    Source: Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware, 2023.
    """

    STYLE = 32
    KL_WEIGHT = 10.0
    steps: Tensor
    places: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a, width = architecture, architecture.width
        self.read_action = nn.Linear(actions, width)
        self.summary = nn.Parameter(torch.randn(1, width) * 0.02)
        self.register_buffer("steps", positions(a.chunk, width), persistent=False)
        self.style_encoder = transformer_encoder(a)
        self.style = nn.Linear(width, 2 * self.STYLE)
        self.read_style = nn.Linear(self.STYLE, width)
        self.register_buffer("places", positions(a.context, width), persistent=False)
        self.encoder = transformer_encoder(a)
        self.queries = nn.Parameter(torch.randn(a.chunk, width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, 1, nn.LayerNorm(width))
        self.out = nn.Linear(width, actions)

    def decode(self, tokens: Tensor, style: Tensor) -> Tensor:
        """The chunk (B, N, A) of a context and a style (B, Z)."""
        context = torch.cat([self.read_style(style)[:, None], tokens + self.places], 1)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        return self.out(self.decoder(queries, self.encoder(context)))

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean absolute error, and the divergence of the styles from a standard normal."""
        summary = self.summary.expand(tokens.shape[0], -1, -1)
        x = torch.cat([summary, tokens[:, -1:], self.read_action(actions) + self.steps], 1)
        mean, log_variance = self.style(self.style_encoder(x)[:, 0]).chunk(2, -1)  # (B, Z) each
        style = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        error = functional.l1_loss(self.decode(tokens, style), actions)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1).mean()
        return error + self.KL_WEIGHT * divergence

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A) of the mean style; nothing is drawn."""
        return self.decode(tokens, tokens.new_zeros(tokens.shape[0], self.STYLE))


def transformer_encoder(architecture: Architecture) -> nn.TransformerEncoder:
    """Layers of self-attention, each normalised before."""
    a = architecture
    layer = nn.TransformerEncoderLayer(
        a.width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
    )
    norm = nn.LayerNorm(a.width)
    return nn.TransformerEncoder(layer, a.layers, norm, enable_nested_tensor=False)


def positions(count: int, width: int) -> Tensor:
    """Sinusoidal encodings (count, width) of 0, 1, ...

    Source: Vaswani et al., Attention Is All You Need, 2017.
    """
    return sinusoid(torch.arange(count), width)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Sines and cosines (..., width) of numbers (...), from fast to slow ones; width is even."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=values.device) / half)
    angles = values.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
