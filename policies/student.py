"""The student: an encoder and a head, joined. It sees observations, and returns chunks of actions.

Shapes: B batch, T time, M context, N chunk, A action, K state, D token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn

from policies.config import Architecture
from policies.data import Layout, Scale, Scales
from policies.diffusion import DiffusionHead
from policies.encoders import ResNet18, StateEncoder
from policies.heads import ActHead, TransformerHead

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
    """Of the privileged state, mean absolute error in standard deviations."""


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
        if a.encoder == "state":
            self.encoder = StateEncoder(size, a.width)
            features = a.width
        elif a.encoder == "dinov2":
            self.encoder = nn.Identity()  # what the frozen backbone says is computed ahead
            features = a.backbone_size
        else:
            channels = 3 if a.modality == "rgb" else 1
            resnet = ResNet18(channels, a.encoder_width, a.readout)
            self.encoder, features = resnet, resnet.out_features
        knows = a.estimate or a.encoder == "state"
        if a.estimate and a.encoder != "state":
            self.estimator = nn.Sequential(
                nn.Linear(features, a.width), nn.GELU(), nn.Linear(a.width, size)
            )
            features += size
        geometry = GEOMETRY if knows and layout.position >= 2 else 0
        inputs = features + len(scales.agent_pos.mean) + len(scales.goal.mean) + geometry
        self.read = nn.Sequential(
            nn.Linear(inputs, 2 * a.width),
            nn.GELU(),
            nn.Linear(2 * a.width, a.width),
            nn.LayerNorm(a.width),
        )
        self.head: Head = HEADS[a.head](a, layout.action_size)

    def tokens(self, seen: Tensor, agent_pos: Tensor, goal: Tensor) -> tuple[Tensor, Tensor | None]:
        """Each moment as a token.

        Args:
            seen: Images (B, H, W, 3) uint8, or (B, H, W, 1) in m, or (B, F), the features that
                DINOv2 has found in them; states (B, K) for a student of those.
            agent_pos: (B, P)
            goal: (B, G)

        Returns:
            Tokens (B, D), and the estimate of the normalised state (B, K), if it makes one.
        """
        state = estimate = None
        if self.architecture.encoder == "state":
            state = seen
            features = self.encoder(self.state_scale(seen))
        else:
            with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.bf16):
                features = self.encoder(self._normalised(seen)).float()
        parts = [features, self.agent_pos_scale(agent_pos), self.goal_scale(goal)]
        if self.architecture.estimate and state is None:
            estimate = self.estimator(features)
            # What the estimate is good for must not change what it says: it has a loss of its own.
            parts.append(estimate.detach())
            state = self.state_scale.inverse(estimate.detach())
        if state is not None and self.layout.position >= 2:
            first, end = self.layout.tool
            tool, command = agent_pos[:, first : first + 2], agent_pos[:, end : end + 2]
            parts.append(geometry(tool, command, state[:, :2], goal[:, :2]))
        return self.read(torch.cat(parts, -1)), estimate

    def loss(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Of chunks (B, N, A) after contexts (B, M, D)."""
        return self.head.loss(tokens, self.actions_scale(actions))

    def estimate_loss(self, estimate: Tensor, state: Tensor) -> Tensor:
        """Mean absolute error of normalised estimates (B, K) of states (B, K).

        The object's position, the rest of what is known of it, and all other things count the same:
        a picture with much to tell would else tell of the object last.
        """
        count, size = self.layout.alike
        position, own = self.layout.position, estimate.shape[1] - count * size
        state = self.state_scale(state)
        error = (estimate - state).abs()
        parts = [error[:, :position], error[:, position:own]]
        if count:
            things = [part[:, own:].unflatten(1, (count, size)) for part in (estimate, state)]
            parts.append(unordered_error(*things))
        return torch.stack([part.mean() for part in parts if part.numel()]).mean()

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
            known = seen[:, -1]
            if estimate is not None:
                known = self.state_scale.inverse(estimate.unflatten(0, shape)[:, -1])
            way = goal[:, -1, :2] - known[:, :2]
            ahead = way / (way.norm(dim=-1, keepdim=True) + 1e-6)
            axes = torch.stack([ahead, torch.stack([-ahead[:, 1], ahead[:, 0]], -1)], 1)
            actions = torch.cat([actions[..., :2] @ axes, actions[..., 2:]], -1)
        first, end = self.layout.command
        return actions if first == end else actions + agent_pos[:, -1:, first:end]

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), of about mean 0 and deviation 1; features as they are."""
        if images.ndim == 2:
            return images
        if images.dtype == torch.uint8:
            images = images.float() / 64.0 - 2.0
        else:
            images = self.depth_scale(images)
        return images.permute(0, 3, 1, 2)  # laid out channels last, which is faster


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

    def inverse(self, values: Tensor) -> Tensor:
        return values * self.deviation + self.mean


def turns(architecture: Architecture, layout: Layout) -> bool:
    """Whether actions are in the frame of the way from object to goal: the tool's positions are,
    where the student knows that way.
    """
    knows = architecture.estimate or architecture.encoder == "state"
    return knows and layout.control_mode == "ee" and layout.position >= 2


def unordered_error(estimate: Tensor, things: Tensor) -> Tensor:
    """Least mean absolute errors (B,) of estimates (B, C, S) of things (B, C, S), in any order.

    No picture shows in which order they are counted.
    """
    each = (estimate[:, :, None] - things[:, None]).abs().mean(-1)  # (B, C, C)
    count = range(each.shape[1])
    orders = [each[:, count, order].mean(1) for order in permutations(count)]
    return torch.stack(orders).amin(0)


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
