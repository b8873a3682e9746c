"""The diffusion head: DDPM over chunks of actions, in the symbols of the papers.

Source: Ho et al., Denoising Diffusion Probabilistic Models, 2020; Nichol and Dhariwal, Improved
Denoising Diffusion Probabilistic Models, 2021 (the schedule); Song et al., Denoising Diffusion
Implicit Models, 2021 (sampling in fewer steps); Chi et al., Diffusion Policy, 2023 (for actions).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.student.config import Architecture
from policies.student.heads import sinusoid, sinusoidal

CLIP = 4.0
"""Range of the predicted x_0, in standard deviations of the actions."""


class DiffusionHead(nn.Module):
    """DDPM over chunks, with DDIM sampling; ``Architecture.denoiser`` names the network.

    With x_0 the chunk and eps the noise, x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
    """

    alphas_cumprod: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        self.steps = architecture.diffusion_steps
        self.sampling_steps = architecture.sampling_steps
        self.denoiser: nn.Module
        if architecture.denoiser == "unet":
            self.denoiser = UNet(architecture, actions)
        else:
            self.denoiser = TransformerDenoiser(architecture, actions)
        self.register_buffer("alphas_cumprod", cosine_schedule(self.steps), persistent=False)

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of the predicted noise."""
        eps = torch.randn_like(actions)
        t = torch.randint(self.steps, (len(actions),), device=actions.device)
        alpha_bar = self.alphas_cumprod[t][:, None, None]
        x_t = alpha_bar.sqrt() * actions + (1 - alpha_bar).sqrt() * eps
        return functional.mse_loss(self.denoiser(x_t, t, tokens), eps)

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A) denoised from noise (B, N, A)."""
        x_t = noise
        timesteps = torch.linspace(self.steps - 1, 0, self.sampling_steps).round().long()
        for index, t in enumerate(timesteps):
            last = index + 1 == len(timesteps)
            alpha_bar = self.alphas_cumprod[t]
            alpha_bar_prev = (
                torch.ones_like(alpha_bar) if last else self.alphas_cumprod[timesteps[index + 1]]
            )
            eps = self.denoiser(x_t, t.to(tokens.device).expand(tokens.shape[0]), tokens)
            x_0 = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
            x_0 = x_0.clamp(-CLIP, CLIP)
            eps = (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
            x_t = alpha_bar_prev.sqrt() * x_0 + (1 - alpha_bar_prev).sqrt() * eps
        return x_t


def cosine_schedule(steps: int) -> Tensor:
    """The cosine schedule's alpha_bar (steps,): the share of the signal's variance."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


class TransformerDenoiser(nn.Module):
    """A transformer decoder over x_t, with cross-attention to the tokens and to t."""

    pos_embed: Tensor
    action_pos_embed: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a, width = architecture, architecture.width
        self.action_proj = nn.Linear(actions, width)
        self.time_embed = TimeEmbedding(width)
        self.register_buffer("pos_embed", sinusoidal(a.n_obs_steps, width), persistent=False)
        self.register_buffer("action_pos_embed", sinusoidal(a.chunk_size, width), persistent=False)
        layer = nn.TransformerDecoderLayer(
            width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, a.layers, nn.LayerNorm(width))
        self.out = nn.Linear(width, actions)

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """The predicted noise (B, N, A) in x_t (B, N, A) at timesteps (B,)."""
        time = self.time_embed(t)[:, None]  # (B, 1, D)
        memory = torch.cat([tokens + self.pos_embed, time], 1)
        x = self.action_proj(x_t) + self.action_pos_embed + time
        return self.out(self.decoder(x, memory))


class UNet(nn.Module):
    """A 1-D U-Net along the chunk, conditioned on t and the tokens by FiLM."""

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a = architecture
        self.time_embed = TimeEmbedding(a.width)
        self.obs_proj = nn.Linear(a.n_obs_steps * a.width, a.width)
        condition = 2 * a.width
        widths = a.unet_widths
        finer, coarser = widths[:-1], widths[1:]
        self.down = nn.ModuleList(
            _Level(before, after, condition)
            for before, after in zip([actions, *finer], widths, strict=True)
        )
        self.downsamples = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in finer)
        self.middle = _Level(widths[-1], widths[-1], condition)
        self.upsamples = nn.ModuleList(
            nn.ConvTranspose1d(low, high, 4, stride=2, padding=1)
            for high, low in zip(finer, coarser, strict=True)
        )
        self.up = nn.ModuleList(_Level(2 * w, w, condition) for w in finer)
        self.out = nn.Sequential(_conv(widths[0], widths[0]), nn.Conv1d(widths[0], actions, 1))

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """The predicted noise (B, N, A) in x_t (B, N, A) at timesteps (B,)."""
        condition = torch.cat([self.time_embed(t), self.obs_proj(tokens.flatten(1))], 1)
        x = x_t.transpose(1, 2)  # (B, A, N)
        skips = []
        for level, downsample in zip(self.down, self.downsamples, strict=False):
            x = level(x, condition)
            skips.append(x)
            x = downsample(x)
        x = self.middle(self.down[-1](x, condition), condition)
        for level, upsample in zip(reversed(self.up), reversed(self.upsamples), strict=True):
            x = level(torch.cat([upsample(x), skips.pop()], 1), condition)
        return self.out(x).transpose(1, 2)


class _Level(nn.Module):
    """Two residual blocks."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.block1 = _ConditionalBlock(before, after, condition)
        self.block2 = _ConditionalBlock(after, after, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.block2(self.block1(x, condition), condition)


class _ConditionalBlock(nn.Module):
    """A residual block of two convolutions, with FiLM in between."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, after)
        self.conv2 = _conv(after, after)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * after))
        self.residual_conv = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None].chunk(2, 1)
        y = self.conv1(x) * (1 + scale) + shift
        return self.conv2(y) + self.residual_conv(x)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.Mish())


class TimeEmbedding(nn.Module):
    """Embedding of the diffusion timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """(B, D) of timesteps (B,)."""
        return self.layers(sinusoid(t, self.width))
