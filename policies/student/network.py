"""The student: an encoder and a head, from observations to chunks of actions.

Shapes: B batch, M observation steps, N chunk, A action, P proprioception, G goal, K state, D token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.student import obstacle_map
from policies.student.actions import action_encoding
from policies.student.config import Architecture
from policies.student.diffusion import DiffusionHead
from policies.student.encoders import MultiCameraEncoder, ResNet18, StateEncoder
from policies.student.features import DatasetStats, Features, Stats
from policies.student.geometry import GEOMETRY_SIZE, direction, geometry
from policies.student.heads import ActHead, TransformerHead
from policies.student.images import encoder_input

Head = TransformerHead | DiffusionHead | ActHead
HEADS: dict[str, Callable[..., Head]] = {
    "transformer": TransformerHead,
    "diffusion": DiffusionHead,
    "act": ActHead,
}


@dataclass(frozen=True)
class Losses:
    """Losses of a batch."""

    actions: Tensor
    state: Tensor
    """Error of the predicted state, see ``Student.state_loss``."""


class StatePrediction(NamedTuple):
    """The privileged state that the auxiliary head predicts from images."""

    object_state: Tensor
    """State of the object (B, K'), normalized."""
    obstacle_logits: Tensor | None
    """Map of the obstacles (B, CELLS, CELLS), logits; None if there are never any."""


class Student(nn.Module):
    """The network of a policy that is distilled from an expert.

    Each observation becomes a token: of the features of its image, the proprioception, the goal,
    and, with ``architecture.predict_state``, the state that is predicted from the image and the
    geometry of end-effector, object and goal. The head maps the last M tokens to a chunk, which
    ``ActionEncoding`` decodes.

    Args:
        architecture: The network.
        features: The inputs and outputs.
        stats: Statistics of the inputs and outputs.
    """

    def __init__(self, architecture: Architecture, features: Features, stats: DatasetStats) -> None:
        super().__init__()
        self.architecture = architecture
        self.features = features
        self.action_encoding = action_encoding(architecture, features)
        self.bf16 = False
        """Whether images are encoded in bfloat16, which is faster to train."""
        self.agent_pos_normalizer = Normalizer(stats.agent_pos)
        self.goal_normalizer = Normalizer(stats.goal)
        self.state_normalizer = Normalizer(stats.state)
        self.actions_normalizer = Normalizer(stats.actions)
        self.depth_normalizer = Normalizer(stats.depth)
        a, state_size = architecture, len(stats.state.mean)
        self.encoder: nn.Module
        self.map_encoder: nn.Module | None = None
        if a.encoder == "state":
            self.encoder = StateEncoder(state_size, a.width)
            encoded_size = a.width
        elif a.encoder == "dinov2":
            self.encoder = nn.Identity()  # the features of the frozen backbone are the input
            encoded_size = a.backbone_size * len(features.cameras)
        else:
            self.encoder = encoder = _resnet(a, features)
            encoded_size = encoder.out_features
        obstacles, obstacle_size = features.object_slots
        self.object_state_size = state_size - obstacles * obstacle_size
        """Entries of a state that are about the object; the others are about obstacles."""
        if a.predict_state and a.encoder != "state":
            # An image of a camera on the robot depends on where that is.
            estimator_inputs = encoded_size
            if features.camera_pose_varies:
                estimator_inputs += len(stats.agent_pos.mean)
            self.estimator = nn.Sequential(
                nn.Linear(estimator_inputs, a.width),
                nn.GELU(),
                nn.Linear(a.width, self.object_state_size),
            )
            map_inputs = encoded_size
            if obstacles and a.map_encoder and a.encoder == "resnet18":
                self.map_encoder = encoder = _resnet(a, features)
                map_inputs = encoder.out_features
            # The head of the obstacle map.
            self.surveyor = nn.Linear(map_inputs, obstacle_map.CELLS**2) if obstacles else None
            encoded_size = self.object_state_size + (encoded_size if a.use_image_features else 0)
        geometry_size = 0
        if (a.predict_state or a.encoder == "state") and features.position_size >= 2:
            geometry_size = GEOMETRY_SIZE + (obstacle_map.SAMPLES if obstacles else 0)
        inputs = encoded_size + len(stats.agent_pos.mean) + len(stats.goal.mean) + geometry_size
        # From all parts of an observation to its token.
        self.read = nn.Sequential(
            nn.Linear(inputs, 2 * a.width),
            nn.GELU(),
            nn.Linear(2 * a.width, a.width),
            nn.LayerNorm(a.width),
        )
        self.head: Head = HEADS[a.head](a, features.action_size)

    @property
    def device(self) -> torch.device:
        """Device of the network and its inputs."""
        return self.state_normalizer.mean.device

    def tokens(
        self, obs: Tensor, agent_pos: Tensor, goal: Tensor
    ) -> tuple[Tensor, StatePrediction | None]:
        """Tokens of observations.

        Args:
            obs: Images (B, H, W, 3), uint8, or (B, H, W, 1), m, those of all cameras side by side;
                or their DINOv2 features (B, F); or states (B, K), if the student is state-based.
            agent_pos: (B, P)
            goal: (B, G)

        Returns:
            Tokens (B, D), and the predicted state, if there is one.
        """
        prediction = obj = heat_map = None
        if self.architecture.encoder == "state":
            encoded = self.encoder(self.state_normalizer(obs))
            obj = obs[:, :2]
            heat_map = self.target_map(obs)
        else:
            images = obs
            if obs.ndim > 2:
                images = encoder_input(obs, self.depth_normalizer, len(self.features.cameras))
            encoded = self._encode(self.encoder, images)
        proprioception = self.agent_pos_normalizer(agent_pos)
        parts = [proprioception, self.goal_normalizer(goal)]
        if self.architecture.use_image_features or self.architecture.encoder == "state":
            parts = [encoded, *parts]
        if self.architecture.predict_state and obj is None:
            estimator_inputs = encoded
            if self.features.camera_pose_varies:
                estimator_inputs = torch.cat([encoded, proprioception], 1)
            prediction = StatePrediction(self.estimator(estimator_inputs), None)
            if self.surveyor is not None:
                map_inputs = encoded
                if self.map_encoder is not None:
                    map_inputs = self._encode(self.map_encoder, images)
                logits = self.surveyor(map_inputs).unflatten(1, 2 * (obstacle_map.CELLS,))
                prediction = StatePrediction(prediction.object_state, logits)
                heat_map = logits.detach().sigmoid()
            # The loss of the actions must not change the prediction, which has a loss of its own.
            parts.append(prediction.object_state.detach())
            obj = self._predicted_position(prediction)
        if obj is not None and self.features.position_size >= 2:
            start, stop = self.features.ee_slice
            ee, command = agent_pos[:, start : start + 2], agent_pos[:, stop : stop + 2]
            parts.append(geometry(ee, command, obj, goal[:, :2]))
            if heat_map is not None:
                first = self.object_state_size
                mean = self.state_normalizer.mean[first : first + 2]
                std = self.state_normalizer.std[first : first + 2]
                ahead = direction(goal[:, :2] - obj)
                parts.append(obstacle_map.sample_along(heat_map, obj, ahead, mean, std))
        return self.read(torch.cat(parts, -1)), prediction

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Loss of encoded chunks (B, N, A) after tokens (B, M, D)."""
        return self.head.loss(tokens, self.actions_normalizer(actions))

    def state_loss(self, prediction: StatePrediction, state: Tensor) -> Tensor:
        """Mean error of predicted states (B, K), in standard deviations or what equals them.

        The object's position, the rest of its state, and the obstacles have the same weight: an
        image with much to predict would teach the object's position last otherwise.
        """
        target = self.state_normalizer(state)[:, : self.object_state_size]
        error = (prediction.object_state - target).abs()
        size = self.features.position_size
        losses = [part.mean() for part in (error[:, :size], error[:, size:]) if part.numel()]
        target_map = self.target_map(state)
        if target_map is not None and prediction.obstacle_logits is not None:
            losses.append(obstacle_map.loss(prediction.obstacle_logits, target_map))
        return torch.stack(losses).mean()

    def target_map(self, state: Tensor) -> Tensor | None:
        """The obstacle map of states (B, K); None if there are never any obstacles."""
        if not self.features.object_slots[0]:
            return None
        normalized, entries = (
            values[:, self.object_state_size :].unflatten(1, self.features.object_slots)
            for values in (self.state_normalizer(state), state)
        )
        exists = entries.ne(0).any(-1, keepdim=True)
        return obstacle_map.rasterize(normalized.where(exists, torch.nan))

    def _predicted_position(self, prediction: StatePrediction) -> Tensor:
        """Predicted position of the object (B, 2), m."""
        mean, std = self.state_normalizer.mean[:2], self.state_normalizer.std[:2]
        return prediction.object_state.detach()[:, :2] * std + mean

    def forward(self, obs: Tensor, agent_pos: Tensor, goal: Tensor, noise: Tensor) -> Tensor:
        """The actions (B, N, A) after the last M observations.

        Args:
            obs: (B, M, ...), each as in ``tokens``.
            agent_pos: (B, M, P)
            goal: (B, M, G)
            noise: (B, N, A), standard normal, from which a diffusion head samples.
        """
        shape = agent_pos.shape[:2]
        tokens, prediction = self.tokens(
            obs.flatten(0, 1), agent_pos.flatten(0, 1), goal.flatten(0, 1)
        )
        encoded = self.head.sample(tokens.unflatten(0, shape), noise)
        obj = None
        if self.action_encoding.rotated:
            obj = obs[:, -1, :2]
            if prediction is not None:
                obj = self._predicted_position(prediction).unflatten(0, shape)[:, -1]
        actions = self.actions_normalizer.unnormalize(encoded)
        return self.action_encoding.decode(actions, agent_pos[:, -1], goal[:, -1], obj)

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Features (B, F) of normalized images."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return encoder(images).float()


def _resnet(architecture: Architecture, features: Features) -> ResNet18 | MultiCameraEncoder:
    """An encoder of the images of all cameras."""
    channels = 3 if architecture.modality == "rgb" else 2
    width, pooling = architecture.encoder_width, architecture.pooling
    encoders = [ResNet18(channels, width, pooling) for _ in features.cameras]
    return encoders[0] if len(encoders) == 1 else MultiCameraEncoder(encoders)


class Normalizer(nn.Module):
    """Normalizes values to mean 0 and standard deviation 1, and back."""

    mean: Tensor
    std: Tensor

    def __init__(self, stats: Stats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(stats.mean), persistent=False)
        self.register_buffer("std", torch.as_tensor(stats.std), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std

    def unnormalize(self, values: Tensor) -> Tensor:
        """Values of normalized ones."""
        return values * self.std + self.mean
