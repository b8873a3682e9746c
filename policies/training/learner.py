"""Training, without the command around it: a learner that steps, saves itself, and goes on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from komo_envs.utils.files import replacing
from policies.student.config import Architecture, Training
from policies.student.network import Losses, Student, turns
from policies.training.augment import augment
from policies.training.data import Batch, Frames, Layout, Scales, sample_batch, scales_of

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


class Learner:
    """Fits a student to demonstrations, one step of the optimiser at a time.

    What a step draws depends on the seed and its number alone, so that one that goes on where it
    was stopped ends with the same weights as one that never was.

    Args:
        architecture: Of the student.
        training: How it learns.
        frames: The demonstrations.
        layout: Of their env's vectors.
        seed: Of the first weights and of all that is drawn.
        device: Where the student is.
    """

    def __init__(
        self,
        architecture: Architecture,
        training: Training,
        frames: Frames,
        layout: Layout,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.training, self.frames, self.layout, self.seed = training, frames, layout, seed
        self.device = torch.device(device)
        self.turned = turns(architecture, layout)
        self.scales: Scales = scales_of(frames, layout, architecture.chunk, self.turned)
        torch.manual_seed(seed)
        self.student = Student(architecture, layout, self.scales)
        self.student.to(self.device).train()
        # Elsewhere GroupNorm would turn the layout round, there and back.
        if self.device.type == "cpu":
            for encoder in (self.student.encoder, self.student.map_encoder):
                if encoder is not None:
                    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student.bf16 = training.bf16
        self.averaged = copy.deepcopy(self.student).eval().requires_grad_(False)
        """The weights that act: the mean of those of the last steps."""
        self.averaged.bf16 = False
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(),
            training.learning_rate,
            weight_decay=training.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.step = 0

    def advance(self) -> Losses:
        """One step of the optimiser.

        Raises:
            ValueError: The gradient is not finite.
        """
        torch.manual_seed(self.seed * 1_000_003 + self.step + 1)
        losses = self.losses(self.draw(np.random.default_rng([self.seed, self.step])))
        total = losses.actions + self.training.estimate_weight * losses.estimate
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.learning_rate * schedule(self.step / self.training.steps)
        self.optimiser.zero_grad()
        total.backward()
        parameters, most = self.student.parameters(), self.training.clip_gradient
        if not torch.nn.utils.clip_grad_norm_(parameters, most).isfinite():
            raise ValueError(f"step {self.step}: the gradient is not finite")
        self.optimiser.step()
        # Young averages forget faster, or they would remember the first weights for long.
        kept = min(self.training.ema, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(kept)
        average([*self.averaged.parameters()], [*self.student.parameters()], self.step)
        self.step += 1
        return Losses(losses.actions.detach(), losses.estimate.detach())

    def draw(self, rng: np.random.Generator) -> Batch:
        """A batch of the demonstrations."""
        training, a = self.training, self.student.architecture
        sizes = (training.clips, training.windows, a.context, a.chunk)
        return sample_batch(self.frames, self.layout, *sizes, self.turned, rng)

    def losses(self, batch: Batch) -> Losses:
        """Of a batch, whose images are augmented."""
        agent_pos, goal, state = (
            part.flatten(0, 1).to(self.device)
            for part in (batch.agent_pos, batch.goal, batch.state)
        )
        seen = state
        if batch.images is not None:
            seen = augment(batch.images.to(self.device), self.training).flatten(0, 1)
        tokens, estimate = self.student.tokens(seen, agent_pos, goal)
        contexts, actions = tokens[batch.context.to(self.device)], batch.actions.to(self.device)
        error = torch.zeros((), device=self.device)
        if estimate is not None:
            error = self.student.estimate_loss(estimate, state)
        return Losses(self.student.loss(contexts, actions), error)

    def save(self, path: Path, more: dict[str, Any]) -> None:
        """Write all that going on takes, and ``more``, which is plain.

        Raises:
            OSError: It cannot be written.
        """
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "more": more,
        }
        with replacing(path) as scratch:
            torch.save(state, scratch)

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where ``save`` was; returns its ``more``.

        Raises:
            ValueError: The file is damaged, or of another student.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])
            return dict(state["more"])
        except Exception as error:  # of any kind, from pickle's depths
            raise ValueError(f"{path}: cannot go on from here: {error}") from error


def schedule(progress: float) -> float:
    """The share of the highest learning rate at a progress from 0 to 1."""
    return min(1.0, progress / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2
