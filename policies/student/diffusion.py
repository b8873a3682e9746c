"""The diffusion head: chunks of actions out of noise.

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
from policies.student.heads import positions, sinusoid

CLIP = 4.0
"""Normalised actions are kept within so many standard deviations while noise is removed."""


class DiffusionHead(nn.Module):
    """DDPM over chunks, with DDIM to act. ``Architecture.denoiser`` says which network it has."""

    kept: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        self.steps = architecture.diffusion_steps
        self.sampling_steps = architecture.sampling_steps
        self.denoiser: nn.Module
        if architecture.denoiser == "unet":
            self.denoiser = UNet(architecture, actions)
        else:
            self.denoiser = TransformerDenoiser(architecture, actions)
        self.register_buffer("kept", cosine_schedule(self.steps), persistent=False)

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of the noise that is guessed."""
        noise = torch.randn_like(actions)
        step = torch.randint(self.steps, (len(actions),), device=actions.device)
        kept = self.kept[step][:, None, None]
        noisy = kept.sqrt() * actions + (1 - kept).sqrt() * noise
        return functional.mse_loss(self.denoiser(noisy, step, tokens), noise)

    def sample(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, N, A) that noise (B, N, A) becomes."""
        noisy = noise
        steps = torch.linspace(self.steps - 1, 0, self.sampling_steps).round().long()
        for index, step in enumerate(steps):
            last = index + 1 == len(steps)
            kept = self.kept[step]
            kept_next = torch.ones_like(kept) if last else self.kept[steps[index + 1]]
            guess = self.denoiser(noisy, step.to(tokens.device).expand(tokens.shape[0]), tokens)
            clean = (noisy - (1 - kept).sqrt() * guess) / kept.sqrt()
            clean = clean.clamp(-CLIP, CLIP)
            guess = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
            noisy = kept_next.sqrt() * clean + (1 - kept_next).sqrt() * guess
        return noisy


def cosine_schedule(steps: int) -> Tensor:
    """The share (steps,) of the action's variance that is left after each step of noising."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


class TransformerDenoiser(nn.Module):
    """A transformer whose tokens are the noisy actions; context and step are attended to."""

    places: Tensor
    times: Tensor

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a, width = architecture, architecture.width
        self.read_action = nn.Linear(actions, width)
        self.read_step = StepEncoder(width)
        self.register_buffer("places", positions(a.context, width), persistent=False)
        self.register_buffer("times", positions(a.chunk, width), persistent=False)
        layer = nn.TransformerDecoderLayer(
            width, a.heads, a.feedforward, a.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, a.layers, nn.LayerNorm(width))
        self.out = nn.Linear(width, actions)

    def forward(self, noisy: Tensor, step: Tensor, tokens: Tensor) -> Tensor:
        """The noise (B, N, A) in a noisy chunk (B, N, A) at steps (B,)."""
        time = self.read_step(step)[:, None]  # (B, 1, D)
        context = torch.cat([tokens + self.places, time], 1)
        x = self.read_action(noisy) + self.times + time
        return self.out(self.decoder(x, context))


class UNet(nn.Module):
    """A 1-D U-Net along the chunk; step and context scale and shift its channels."""

    def __init__(self, architecture: Architecture, actions: int) -> None:
        super().__init__()
        a = architecture
        self.read_step = StepEncoder(a.width)
        self.read_context = nn.Linear(a.context * a.width, a.width)
        condition = 2 * a.width
        widths = a.unet_widths
        finer, coarser = widths[:-1], widths[1:]
        self.down = nn.ModuleList(
            _Level(before, after, condition)
            for before, after in zip([actions, *finer], widths, strict=True)
        )
        self.halved = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in finer)
        self.middle = _Level(widths[-1], widths[-1], condition)
        self.doubled = nn.ModuleList(
            nn.ConvTranspose1d(low, high, 4, stride=2, padding=1)
            for high, low in zip(finer, coarser, strict=True)
        )
        self.up = nn.ModuleList(_Level(2 * w, w, condition) for w in finer)
        self.out = nn.Sequential(_conv(widths[0], widths[0]), nn.Conv1d(widths[0], actions, 1))

    def forward(self, noisy: Tensor, step: Tensor, tokens: Tensor) -> Tensor:
        """The noise (B, N, A) in a noisy chunk (B, N, A) at steps (B,)."""
        condition = torch.cat([self.read_step(step), self.read_context(tokens.flatten(1))], 1)
        x = noisy.transpose(1, 2)  # (B, A, N)
        skips = []
        for level, halve in zip(self.down, self.halved, strict=False):
            x = level(x, condition)
            skips.append(x)
            x = halve(x)
        x = self.middle(self.down[-1](x, condition), condition)
        for level, double in zip(reversed(self.up), reversed(self.doubled), strict=True):
            x = level(torch.cat([double(x), skips.pop()], 1), condition)
        return self.out(x).transpose(1, 2)


class _Level(nn.Module):
    """Two blocks."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.block1 = _ConditionalBlock(before, after, condition)
        self.block2 = _ConditionalBlock(after, after, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.block2(self.block1(x, condition), condition)


class _ConditionalBlock(nn.Module):
    """Two convolutions and a way around them, with a condition in between."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, after)
        self.conv2 = _conv(after, after)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * after))
        self.around = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None].chunk(2, 1)
        y = self.conv1(x) * (1 + scale) + shift
        return self.conv2(y) + self.around(x)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.Mish())


class StepEncoder(nn.Module):
    """The step of noising as a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width)
        )

    def forward(self, step: Tensor) -> Tensor:
        """(B, D) of steps (B,)."""
        return self.layers(sinusoid(step, self.width))
