"""The training loop's state: a learner that steps, saves itself, and resumes."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from komo_envs.utils.files import replacing
from policies.student.actions import action_encoding
from policies.student.config import Architecture, Training
from policies.student.features import DatasetStats, Features
from policies.student.network import Losses, Student
from policies.training.augment import augment
from policies.training.data import Batch, Frames, compute_dataset_stats, sample_batch

WARM_UP = 0.05
"""Share of the steps in which the learning rate increases."""


class Learner:
    """Fits a student to demonstrations, one optimizer step at a time.

    Random numbers of a step depend on the seed and the step's index alone, so that a training that
    was interrupted and resumed ends with the same weights as one that was not.

    Args:
        architecture: The network.
        training: The hyperparameters.
        frames: The demonstrations.
        features: The inputs and outputs.
        seed: Seed of the initial weights and of all sampling.
        device: PyTorch device.
    """

    def __init__(
        self,
        architecture: Architecture,
        training: Training,
        frames: Frames,
        features: Features,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.training = training
        self.frames = frames
        self.features = features
        self.seed = seed
        self.device = torch.device(device)
        self.stats: DatasetStats = compute_dataset_stats(
            frames, features, architecture.chunk_size, action_encoding(architecture, features)
        )
        torch.manual_seed(seed)
        self.student = Student(architecture, features, self.stats)
        self.student.to(self.device).train()
        # On a GPU, GroupNorm would convert the memory format to and fro.
        if self.device.type == "cpu":
            for encoder in (self.student.encoder, self.student.map_encoder):
                if encoder is not None:
                    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student.bf16 = training.bf16
        self.averaged = copy.deepcopy(self.student).eval().requires_grad_(False)
        """The exponential moving average of the weights, which acts."""
        self.averaged.bf16 = False
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            training.learning_rate,
            weight_decay=training.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.step = 0

    def advance(self) -> Losses:
        """Take one optimizer step.

        Raises:
            ValueError: The gradient is not finite.
        """
        torch.manual_seed(self.seed * 1_000_003 + self.step + 1)
        losses = self.losses(self.sample(np.random.default_rng([self.seed, self.step])))
        total = losses.actions + self.training.state_loss_weight * losses.state
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * schedule(self.step / self.training.steps)
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.student.parameters(), self.training.grad_clip_norm
        )
        if not norm.isfinite():
            raise ValueError(f"step {self.step}: the gradient is not finite")
        self.optimizer.step()
        # A lower decay at first, or the average would keep the initial weights for long.
        decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(decay)
        average([*self.averaged.parameters()], [*self.student.parameters()], self.step)
        self.step += 1
        return Losses(losses.actions.detach(), losses.state.detach())

    def sample(self, rng: np.random.Generator) -> Batch:
        """A batch of the demonstrations."""
        student = self.student
        return sample_batch(
            self.frames, student.architecture, self.training, student.action_encoding, rng
        )

    def losses(self, batch: Batch) -> Losses:
        """Losses of a batch, whose images are augmented."""
        agent_pos, goal, state = (
            part.flatten(0, 1).to(self.device)
            for part in (batch.agent_pos, batch.goal, batch.state)
        )
        obs = state
        if batch.images is not None:
            obs = augment(batch.images.to(self.device), self.training).flatten(0, 1)
        tokens, prediction = self.student.tokens(obs, agent_pos, goal)
        tokens = tokens[batch.history.to(self.device)]  # (W, M, D)
        state_loss = torch.zeros((), device=self.device)
        if prediction is not None:
            state_loss = self.student.state_loss(prediction, state)
        return Losses(self.student.loss(tokens, batch.actions.to(self.device)), state_loss)

    def save(self, path: Path, more: dict[str, Any]) -> None:
        """Write the state of the training, and ``more``, which is plain data.

        Raises:
            OSError: The file cannot be written.
        """
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "more": more,
        }
        with replacing(path) as scratch:
            torch.save(state, scratch)

    def restore(self, path: Path) -> dict[str, Any]:
        """Resume from the state that ``save`` wrote; returns its ``more``.

        Raises:
            ValueError: The file is damaged, or of another student.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            return dict(state["more"])
        except Exception as error:  # of any kind, from pickle's depths
            raise ValueError(f"{path}: cannot resume from here: {error}") from error


def schedule(progress: float) -> float:
    """Factor of the learning rate at a progress from 0 to 1: linear warm-up, cosine decay."""
    return min(1.0, progress / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2
