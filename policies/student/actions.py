"""Action encoding: chunks relative to the last command, in the frame from object to goal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policies.student.config import Architecture
from policies.student.features import Features, Floats
from policies.student.geometry import direction


@dataclass(frozen=True)
class ActionEncoding:
    """The form in which a network predicts actions.

    Training encodes the actions of demonstrations, in NumPy; acting decodes those of the network,
    in PyTorch. Shapes: B batch, N chunk, A action, P proprioception.
    """

    command_slice: tuple[int, int]
    """Start and stop, in ``agent_pos``, of the command that is subtracted; empty if none is."""
    rotated: bool
    """Whether x and y are rotated into the frame whose first axis points from object to goal."""

    def encode(self, actions: Floats, agent_pos: Floats, goal: Floats, obj: Floats) -> Floats:
        """Encoded actions (B, N, A).

        Args:
            actions: (B, N, A)
            agent_pos: (B, P), at the first step of each chunk, as the next two are.
            goal: (B, 2 or more), of which x and y are used, m.
            obj: The object's position (B, 2 or more), of which x and y are used, m.
        """
        start, stop = self.command_slice
        if start != stop:
            actions = actions - agent_pos[:, None, start:stop]
        if self.rotated:
            ahead = goal[:, :2] - obj[:, :2]
            ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-6
            left = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
            axes = np.stack([ahead, left], 1)  # (B, 2, 2), in rows
            rotated = actions[..., :2] @ axes.transpose(0, 2, 1)
            actions = np.concatenate([rotated, actions[..., 2:]], -1)
        return actions

    def decode(
        self, actions: Tensor, agent_pos: Tensor, goal: Tensor, obj: Tensor | None
    ) -> Tensor:
        """Actions (B, N, A) of encoded ones; arguments as of ``encode``.

        ``obj`` may be None if nothing is rotated.
        """
        if self.rotated:
            assert obj is not None
            ahead = direction(goal[:, :2] - obj[:, :2])
            left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
            axes = torch.stack([ahead, left], 1)  # (B, 2, 2), in rows
            actions = torch.cat([actions[..., :2] @ axes, actions[..., 2:]], -1)
        start, stop = self.command_slice
        return actions if start == stop else actions + agent_pos[:, None, start:stop]


def action_encoding(architecture: Architecture, features: Features) -> ActionEncoding:
    """The encoding of a student's actions.

    They are rotated if they are end-effector positions, and the student knows the object's.
    """
    knows_object = architecture.predict_state or architecture.encoder == "state"
    planar = features.control_mode == "ee" and features.position_size >= 2
    return ActionEncoding(features.command_slice, rotated=knows_object and planar)
