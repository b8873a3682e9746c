"""The student: an encoder and a head, joined. It sees observations, and returns chunks of actions.

Shapes: B batch, T time, M context, N chunk, A action, K state, D token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.student import obstacle_map
from policies.student.config import Architecture
from policies.student.diffusion import DiffusionHead
from policies.student.encoders import ResNet18, SideBySide, StateEncoder, relief
from policies.student.heads import ActHead, TransformerHead
from policies.training.data import Layout, Scale, Scales

Head = TransformerHead | DiffusionHead | ActHead
HEADS: dict[str, Callable[..., Head]] = {
    "transformer": TransformerHead,
    "diffusion": DiffusionHead,
    "act": ActHead,
}
NEAR = 0.01
"""m: directions between points that are nearer than this fade to nothing."""


@dataclass(frozen=True)
class Losses:
    """Of a batch."""

    actions: Tensor
    estimate: Tensor
    """Of the privileged state, see ``Student.estimate_loss``."""


class Estimate(NamedTuple):
    """What a student makes out of the state, in pictures."""

    own: Tensor
    """Of the object, normalised (B, K')."""
    chart: Tensor | None
    """The map of the things around it (B, CELLS, CELLS), logits; None if there never are any."""


class Student(nn.Module):
    """The network of a policy that was distilled from an expert.

    Each moment becomes a token: of what the encoder says of its image, of the proprioception, of
    the goal, and, with ``architecture.estimate``, of the state that is estimated from the image and
    the geometry of tool, object and goal. The head makes the chunk of the last M tokens.

    Actions are what is to be added to the last command, but for control mode ``ee_delta``.

    Args:
        architecture: What it is made of.
        layout: Of the env's vectors.
        scales: Of its inputs and outputs.
    """

    def __init__(self, architecture: Architecture, layout: Layout, scales: Scales) -> None:
        super().__init__()
        self.architecture, self.layout = architecture, layout
        self.bf16 = False
        """Whether images are encoded in bfloat16, which is faster to train."""
        self.agent_pos_scale = Scaling(scales.agent_pos)
        self.goal_scale = Scaling(scales.goal)
        self.state_scale = Scaling(scales.state)
        self.actions_scale = Scaling(scales.actions)
        self.depth_scale = Scaling(scales.depth)
        a, size = architecture, len(scales.state.mean)
        self.encoder: nn.Module
        self.map_encoder: nn.Module | None = None
        if a.encoder == "state":
            self.encoder = StateEncoder(size, a.width)
            features = a.width
        elif a.encoder == "dinov2":
            self.encoder = nn.Identity()  # what the frozen backbone says is computed ahead
            features = a.backbone_size * len(layout.cameras)
        else:
            self.encoder = encoder = _resnet(a, layout)
            features = encoder.out_features
        count, numbers = layout.alike
        self.known = size - count * numbers
        """How many numbers of a state are about the object; the others are about things around."""
        if a.estimate and a.encoder != "state":
            # What a camera sees that the robot carries depends on where it is.
            informed = features + (len(scales.agent_pos.mean) if layout.carried else 0)
            self.estimator = nn.Sequential(
                nn.Linear(informed, a.width), nn.GELU(), nn.Linear(a.width, self.known)
            )
            surveyed = features
            if count and a.map_encoder and a.encoder == "resnet18":
                self.map_encoder = encoder = _resnet(a, layout)
                surveyed = encoder.out_features
            self.surveyor = nn.Linear(surveyed, obstacle_map.CELLS**2) if count else None
            features = self.known + (features if a.features else 0)
        places = 0
        if (a.estimate or a.encoder == "state") and layout.position >= 2:
            places = GEOMETRY + (obstacle_map.PLACES if count else 0)
        inputs = features + len(scales.agent_pos.mean) + len(scales.goal.mean) + places
        self.read = nn.Sequential(
            nn.Linear(inputs, 2 * a.width),
            nn.GELU(),
            nn.Linear(2 * a.width, a.width),
            nn.LayerNorm(a.width),
        )
        self.head: Head = HEADS[a.head](a, layout.action_size)

    @property
    def device(self) -> torch.device:
        """Where it is, and its inputs are to be."""
        return self.state_scale.mean.device

    def tokens(
        self, seen: Tensor, agent_pos: Tensor, goal: Tensor
    ) -> tuple[Tensor, Estimate | None]:
        """Each moment as a token.

        Args:
            seen: Images (B, H, W, 3) uint8, or (B, H, W, 1) in m, those of all cameras side by
                side, or (B, F), the features that DINOv2 has found in them; states (B, K) for a
                student of those.
            agent_pos: (B, P)
            goal: (B, G)

        Returns:
            Tokens (B, D), and the ``Estimate``, if it makes one.
        """
        estimate = obj = chart = None
        if self.architecture.encoder == "state":
            features = self.encoder(self.state_scale(seen))
            obj = seen[:, :2]
            chart = self.chart(seen)
        else:
            images = self._normalised(seen)
            features = self._encoded(self.encoder, images)
        own = self.agent_pos_scale(agent_pos)
        parts = [own, self.goal_scale(goal)]
        if self.architecture.features or self.architecture.encoder == "state":
            parts = [features, *parts]
        if self.architecture.estimate and obj is None:
            informed = torch.cat([features, own], 1) if self.layout.carried else features
            estimate = Estimate(self.estimator(informed), None)
            if self.surveyor is not None:
                surveyed = features
                if self.map_encoder is not None:
                    surveyed = self._encoded(self.map_encoder, images)
                logits = self.surveyor(surveyed).unflatten(1, 2 * (obstacle_map.CELLS,))
                estimate, chart = Estimate(estimate.own, logits), logits.detach().sigmoid()
            # What the estimate is good for must not change what it says: it has a loss of its own.
            parts.append(estimate.own.detach())
            obj = self._position(estimate)
        if obj is not None and self.layout.position >= 2:
            first, end = self.layout.tool
            tool, command = agent_pos[:, first : first + 2], agent_pos[:, end : end + 2]
            parts.append(geometry(tool, command, obj, goal[:, :2]))
            if chart is not None:
                where = [part[self.known : self.known + 2] for part in self.state_scale.parts()]
                parts.append(obstacle_map.read(chart, obj, direction(goal[:, :2] - obj), *where))
        return self.read(torch.cat(parts, -1)), estimate

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Of chunks (B, N, A) after contexts (B, M, D)."""
        return self.head.loss(tokens, self.actions_scale(actions))

    def estimate_loss(self, estimate: Estimate, state: Tensor) -> Tensor:
        """Mean error of estimates of states (B, K), in standard deviations or what is like them.

        The object's position, the rest of what is known of it, and the things around count the
        same: a picture with much to tell would else tell of the object last.
        """
        error = (estimate.own - self.state_scale(state)[:, : self.known]).abs()
        position = self.layout.position
        parts = [error[:, :position], error[:, position:]]
        losses = [part.mean() for part in parts if part.numel()]
        truth = self.chart(state)
        if truth is not None and estimate.chart is not None:
            losses.append(obstacle_map.error(estimate.chart, truth))
        return torch.stack(losses).mean()

    def chart(self, state: Tensor) -> Tensor | None:
        """The map of the things around, of states (B, K); None if there are never any."""
        if not self.layout.alike[0]:
            return None
        scaled, there = (
            numbers[:, self.known :].unflatten(1, self.layout.alike)
            for numbers in (self.state_scale(state), state)
        )
        return obstacle_map.draw(scaled.where(there.ne(0).any(-1, keepdim=True), torch.nan))

    def _position(self, estimate: Estimate) -> Tensor:
        """Where the object is (B, 2), m, as far as the student knows."""
        mean, deviation = (part[:2] for part in self.state_scale.parts())
        return estimate.own.detach()[:, :2] * deviation + mean

    def forward(self, seen: Tensor, agent_pos: Tensor, goal: Tensor, noise: Tensor) -> Tensor:
        """The actions (B, N, A) that follow contexts.

        Args:
            seen: (B, M, ...), each as ``tokens`` takes it.
            agent_pos: (B, M, P)
            goal: (B, M, G)
            noise: (B, N, A), standard normal: what a head that draws begins with.
        """
        shape = agent_pos.shape[:2]
        tokens, estimate = self.tokens(
            seen.flatten(0, 1), agent_pos.flatten(0, 1), goal.flatten(0, 1)
        )
        actions = self.actions_scale.inverse(self.head.sample(tokens.unflatten(0, shape), noise))
        if turns(self.architecture, self.layout):
            obj = seen[:, -1, :2]
            if estimate is not None:
                obj = self._position(estimate).unflatten(0, shape)[:, -1]
            ahead = direction(goal[:, -1, :2] - obj)
            axes = torch.stack([ahead, torch.stack([-ahead[:, 1], ahead[:, 0]], -1)], 1)
            actions = torch.cat([actions[..., :2] @ axes, actions[..., 2:]], -1)
        first, end = self.layout.command
        return actions if first == end else actions + agent_pos[:, -1:, first:end]

    def _encoded(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """What an encoder says of normalised images, (B, F)."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return encoder(images).float()

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), of about mean 0 and deviation 1; features as they are."""
        if images.ndim == 2:
            return images
        if images.dtype == torch.uint8:
            images = images.float() / 64.0 - 2.0
        else:
            depth = images.permute(0, 3, 1, 2)
            seen = torch.cat([self.depth_scale(depth), relief(depth, len(self.layout.cameras))], 1)
            return seen.contiguous(memory_format=torch.channels_last)
        return images.permute(0, 3, 1, 2)  # laid out channels last, which is faster


def _resnet(architecture: Architecture, layout: Layout) -> ResNet18 | SideBySide:
    """An encoder of the images of all cameras."""
    channels = 3 if architecture.modality == "rgb" else 2
    width, readout = architecture.encoder_width, architecture.readout
    eyes = [ResNet18(channels, width, readout) for _ in layout.cameras]
    return eyes[0] if len(eyes) == 1 else SideBySide(eyes)


class Scaling(nn.Module):
    """Brings numbers to mean 0 and deviation 1, and back."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(scale.mean), persistent=False)
        self.register_buffer("deviation", torch.as_tensor(scale.deviation), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation

    def parts(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation."""
        return self.mean, self.deviation

    def inverse(self, values: Tensor) -> Tensor:
        return values * self.deviation + self.mean


def turns(architecture: Architecture, layout: Layout) -> bool:
    """Whether actions are in the frame of the way from object to goal: the tool's positions are,
    where the student knows that way.
    """
    knows = architecture.estimate or architecture.encoder == "state"
    return knows and layout.control_mode == "ee" and layout.position >= 2


def direction(way: Tensor) -> Tensor:
    """Ways (B, 2), of length 1."""
    return way / (way.norm(dim=-1, keepdim=True) + 1e-6)


GEOMETRY = 11


def geometry(tool: Tensor, command: Tensor, obj: Tensor, goal: Tensor) -> Tensor:
    """How tool, object and goal lie, seen from above: (B, 11), of their positions (B, 2), m.

    The direction of the way from object to goal, and its length; then, along and to the left of
    it, the ways from the tool and from where it was last commanded to the object, and the
    direction of the first. Lengths in tenths of a metre.
    """
    way = goal - obj
    ahead = way / (way.norm(dim=-1, keepdim=True) + NEAR)
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)

    def seen(vector: Tensor) -> Tensor:
        return torch.stack([(vector * ahead).sum(-1), (vector * left).sum(-1)], -1)

    reach = seen(obj - tool)
    parts = [
        ahead,
        10 * way,
        10 * way.norm(dim=-1, keepdim=True),
        10 * reach,
        10 * seen(obj - command),
        reach / (reach.norm(dim=-1, keepdim=True) + NEAR),
    ]
    return torch.cat(parts, -1)
