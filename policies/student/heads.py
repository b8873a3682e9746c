"""Heads: from the tokens of the last observations to a chunk of actions.

Each has ``loss`` for training and ``sample`` for acting, over tokens (B, M, D), one for each
observation, and normalized actions (B, N, A), a chunk. Diffusion has a file of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.student.config import Architecture


class TransformerHead(nn.Module):
    """A transformer encoder over the tokens and one query for each action of the chunk."""

    pos_embed: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a = architecture
        self.queries = nn.Parameter(torch.randn(a.chunk_size, a.width) * 0.02)
        self.register_buffer("pos_embed", sinusoidal(a.n_obs_steps, a.width), persistent=False)
        self.encoder = transformer_encoder(a)
        self.out = nn.Linear(a.width, actions)

    def forward(self, tokens: Tensor) -> Tensor:
        """The chunk (B, N, A)."""
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        x = torch.cat([tokens + self.pos_embed, queries], 1)  # (B, M + N, D)
        x = self.encoder(x)[:, tokens.shape[1] :]  # (B, N, D)
        return self.out(x)

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean absolute error: its minimum is the median of the expert's actions, not the mean."""
        return functional.l1_loss(self(tokens), actions)

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A); ``noise`` is not used."""
        return self(tokens)


class ActHead(nn.Module):
    """ACT: a conditional variational autoencoder of chunks.

    In training, an encoder infers the latent style variable z from the chunk and the present token;
    the decoder makes the chunk of the tokens and z. Acting, z is the mean of the prior, zero. Here
    the tokens of observations take the place of ACT's patches of the present images.

    Source: Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware, 2023.
    """

    LATENT_SIZE = 32
    KL_WEIGHT = 10.0
    pos_embed: Tensor
    action_pos_embed: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a, width = architecture, architecture.width
        self.action_proj = nn.Linear(actions, width)
        self.cls_token = nn.Parameter(torch.randn(1, width) * 0.02)
        self.register_buffer("action_pos_embed", sinusoidal(a.chunk_size, width), persistent=False)
        self.vae_encoder = transformer_encoder(a)
        self.latent_params = nn.Linear(width, 2 * self.LATENT_SIZE)
        self.latent_proj = nn.Linear(self.LATENT_SIZE, width)
        self.register_buffer("pos_embed", sinusoidal(a.n_obs_steps, width), persistent=False)
        self.encoder = transformer_encoder(a)
        self.queries = nn.Parameter(torch.randn(a.chunk_size, width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, 1, nn.LayerNorm(width))
        self.out = nn.Linear(width, actions)

    def decode(self, tokens: Tensor, z: Tensor) -> Tensor:
        """The chunk (B, N, A) of tokens (B, M, D) and a latent variable (B, Z)."""
        memory = torch.cat([self.latent_proj(z)[:, None], tokens + self.pos_embed], 1)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        return self.out(self.decoder(queries, self.encoder(memory)))

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean absolute error, and the KL divergence of z from a standard normal."""
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        embedded = self.action_proj(actions) + self.action_pos_embed
        x = torch.cat([cls_token, tokens[:, -1:], embedded], 1)
        mu, logvar = self.latent_params(self.vae_encoder(x)[:, 0]).chunk(2, -1)  # (B, Z) each
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        l1 = functional.l1_loss(self.decode(tokens, z), actions)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1).mean()
        return l1 + self.KL_WEIGHT * kl

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A) of z = 0; ``noise`` is not used."""
        return self.decode(tokens, tokens.new_zeros(tokens.shape[0], self.LATENT_SIZE))


def transformer_encoder(architecture: Architecture) -> nn.TransformerEncoder:
    """Layers of self-attention, normalized before (pre-norm)."""
    a = architecture
    layer = nn.TransformerEncoderLayer(
        a.width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
    )
    norm = nn.LayerNorm(a.width)
    return nn.TransformerEncoder(layer, a.layers, norm, enable_nested_tensor=False)


def sinusoidal(count: int, width: int) -> Tensor:
    """Sinusoidal position embeddings (count, width) of 0, 1, ...

    Source: Vaswani et al., Attention Is All You Need, 2017.
    """
    return sinusoid(torch.arange(count), width)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Sines and cosines (..., width) of values (...), from fast to slow; width is even."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=values.device) / half)
    angles = values.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
