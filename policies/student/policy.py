"""A student acts: history, chunks and batches, behind the contract of every policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from komo_envs.env import KomoEnv
from komo_envs.registration import find_spec
from policies.base import Observation, batch_shape
from policies.export_onnx import OnnxStudent
from policies.student.checkpoint import load_checkpoint
from policies.student.config import Architecture
from policies.student.dinov2 import Backbone
from policies.training.data import IMAGES, Layout, layout_of, mask_of, privileged

Arrays = dict[str, NDArray[Any]]
ENSEMBLE_RATE = 0.01
"""By how much less a newer chunk counts than the one before it."""


class Network(Protocol):
    """What a policy asks for actions: a ``Student``, or one in another form."""

    architecture: Architecture
    layout: Layout

    @property
    def device(self) -> torch.device:
        """Where its inputs are to be."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """See ``Student.forward``."""


def env_options(student: Network) -> dict[str, Any]:
    """The keyword arguments of ``gym.make`` that a student's observations and actions ask for."""
    layout, architecture = student.layout, student.architecture
    privileged = architecture.encoder == "state"
    return {
        "obs_mode": "state" if privileged else architecture.modality,
        "control_mode": layout.control_mode,
        "cameras": layout.cameras,
        "image_size": layout.image_size,
    }


@dataclass
class Memory:
    """What a student remembers of B episodes."""

    history: Arrays
    """(M, B, ...) each: what was seen at the last moments, the present one last."""
    chunks: NDArray[np.float32]
    """(B, K, N, A), the last that were predicted, the newest first."""
    count: NDArray[np.int64]
    """(B,), how many there are so far, at most K."""
    done: NDArray[np.int64]
    """(B,), how many actions were carried out since the newest was predicted."""


class StudentPolicy:
    """A trained student as a policy.

    Args:
        student: In the state that it is to act in.
        observation_space: Of the env that it acts in, with ``obs_mode``.
        action_space: Of that env.
        name: What to call it.
    """

    def __init__(
        self,
        student: Network,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        name: str = "student",
    ) -> None:
        self.student = student
        self.name = name
        self.observation_space = observation_space
        self.action_space = action_space
        self.env_options = env_options(student)
        self.learning: dict[str, Any] | None = None
        """What it took to train, as a result says it."""
        self.chunk_seconds: list[float] = []
        """Wall time of every prediction so far."""
        self.execute = 1 if student.architecture.ensemble else student.architecture.execute
        self._shape = (student.architecture.chunk, student.layout.action_size)
        self._backbone: Backbone | None = None
        if student.architecture.encoder == "dinov2":
            self._backbone = load_backbone(student.architecture, student.device)
        self.set_random_seed(0)

    @classmethod
    def of_env(
        cls, student: Network, env: gym.Env[Any, Any], name: str = "student"
    ) -> StudentPolicy:
        """A student that acts in an env which was made with its ``env_options``."""
        observation_space, action_space = env.observation_space, env.action_space
        assert isinstance(observation_space, spaces.Dict)
        assert isinstance(action_space, spaces.Box)
        return cls(student, observation_space, action_space, name)

    @property
    def privileged(self) -> bool:
        """Whether it sees the state of the simulation, in its observations."""
        return self.student.architecture.encoder == "state"

    def set_random_seed(self, seed: int) -> None:
        """Let what a diffusion head draws from here on depend on ``seed`` alone."""
        self._generator = torch.Generator().manual_seed(seed)

    def predict(
        self,
        obs: Observation,
        state: Memory | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Memory]:
        """The next action (A,), or (B, A) for a batch; and what to remember.

        Raises:
            ValueError: An observation is not of the observation space.
        """
        single = not batch_shape(obs, self.observation_space)
        now = self._parts(obs, single)
        count = len(now["agent_pos"])
        start = np.ones(count, bool) if state is None else np.zeros(count, bool)
        if episode_start is not None:
            start |= np.asarray(episode_start, bool)
        memory = self._remember(now, state, start)
        due = np.flatnonzero(memory.done >= self.execute)
        if len(due):
            started = perf_counter()
            chunk = self._predict({k: v[:, due] for k, v in memory.history.items()})
            memory.chunks[due] = np.concatenate([chunk[:, None], memory.chunks[due, :-1]], 1)
            memory.count[due] = np.minimum(memory.count[due] + 1, memory.chunks.shape[1])
            memory.done[due] = 0
            self.chunk_seconds.append(perf_counter() - started)
        action = _mean_action(memory)
        memory.done += 1
        action = np.clip(action, self.action_space.low, self.action_space.high)
        return (action[0] if single else action), memory

    def _parts(self, obs: Observation, single: bool) -> Arrays:
        """What the student reads of observations, with a batch axis."""
        if self.privileged:
            layout = self.student.layout
            parts = {
                "seen": privileged(obs, mask_of(layout, privileged=True)),
                "agent_pos": obs["observation"][..., : layout.agent_pos],
                "goal": obs["desired_goal"][..., :-1],
            }
        else:
            modality, cameras = self.student.architecture.modality, self.student.layout.cameras
            images = obs[IMAGES[modality]]
            if len(cameras) > 1:
                images = np.concatenate([images[camera] for camera in cameras], -2)
            parts = {
                "seen": images,
                "agent_pos": obs["agent_pos"],
                "goal": obs["goal"],
            }
            if modality == "depth":  # as precise as in demonstrations
                parts["seen"] = np.round(parts["seen"] * 1000.0).astype(np.float32) / 1000.0
        parts = {key: np.asarray(part)[None] if single else part for key, part in parts.items()}
        if self._backbone is not None:
            views = np.split(parts["seen"], len(self.student.layout.cameras), 2)
            features = [self._backbone.features(torch.from_numpy(view)) for view in views]
            parts["seen"] = torch.cat(features, 1).numpy()
        return parts

    def _remember(self, now: Arrays, memory: Memory | None, start: NDArray[np.bool_]) -> Memory:
        a, actions = self.student.architecture, self.student.layout.action_size
        if memory is None or start.all():
            kept = a.chunk if a.ensemble else 1
            return Memory(
                history={key: np.repeat(part[None], a.context, 0) for key, part in now.items()},
                chunks=np.zeros((len(start), kept, a.chunk, actions), np.float32),
                count=np.zeros(len(start), np.int64),
                done=np.full(len(start), self.execute),
            )
        history = {
            key: np.concatenate([memory.history[key][1:], part[None]]) for key, part in now.items()
        }
        done = np.where(start, self.execute, memory.done)
        count = np.where(start, 0, memory.count)
        for key, part in now.items():
            history[key][:, start] = part[start]
        return Memory(history, memory.chunks.copy(), count, done)

    @torch.inference_mode()
    def _predict(self, history: Arrays) -> NDArray[np.float32]:
        """Chunks (B, N, A) of histories (M, B, ...)."""
        inputs = [
            torch.from_numpy(history[key]).transpose(0, 1) for key in ("seen", "agent_pos", "goal")
        ]
        inputs.append(torch.randn(len(inputs[0]), *self._shape, generator=self._generator))
        return self.student(*(part.to(self.student.device) for part in inputs)).cpu().numpy()


def _mean_action(memory: Memory) -> NDArray[np.float32]:
    """The actions (B, A) that are due, the mean of what the chunks say.

    Older ones count more. Source: temporal ensembling in Zhao et al., Learning Fine-Grained
    Bimanual Manipulation with Low-Cost Hardware, 2023.
    """
    rows, ages = np.arange(len(memory.done))[:, None], np.arange(memory.chunks.shape[1])
    actions = memory.chunks[rows, ages, memory.done[:, None] + ages]  # (B, K, A)
    older = memory.count[:, None] - 1 - ages  # how many of the chunks are
    weights = np.where(older >= 0, np.exp(-ENSEMBLE_RATE * older), 0.0)
    weights /= weights.sum(1, keepdims=True)
    return (actions * weights[..., None]).sum(1).astype(np.float32)


def check_device(device: str) -> None:
    """Refuse what is none.

    Raises:
        ValueError: PyTorch has no such device here.
    """
    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device {device}: expected cpu, cuda or cuda:N") from None
    try:
        torch.zeros(1, device=device).cpu()  # there are devices without memory
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None


def load_backbone(architecture: Architecture, device: torch.device) -> Backbone:
    """The DINOv2 that a student learned with.

    Raises:
        ValueError: It is not there, or another.
        ImportError: transformers is not installed.
    """
    backbone = Backbone(architecture.backbone, device)
    if backbone.sha256 != architecture.backbone_sha256:
        raise ValueError(
            f"backbone {backbone.name}: has the weights {backbone.sha256}; expected those that the "
            f"student learned with, {architecture.backbone_sha256}"
        )
    return backbone


def load_student(folder: Path, env_id: str, device: str = "cpu") -> StudentPolicy:
    """A checkpoint, or its ONNX file, as a policy for an env.

    Args:
        folder: Of the checkpoint; or the file.
        env_id: Of the env.
        device: Of PyTorch, where a checkpoint computes.

    Raises:
        ValueError: It is no checkpoint, or one for another task; or there is no such device.
        OSError: It cannot be read.
    """
    check_device(device)
    student: Network
    if folder.is_dir():
        student, card = load_checkpoint(folder)
        student.to(device)
    else:
        student = OnnxStudent(folder)
        card = student.card
    layout = card.layout
    module = layout.env_id.rpartition(":")[0]
    if module and module != env_id.rpartition(":")[0]:  # importing it would run its code
        raise ValueError(
            f"policy {folder}: learned {layout.env_id}; name the module in --env too: {module}:..."
        )
    task, learned = (find_spec(name).kwargs["task"] for name in (env_id, layout.env_id))
    env = gym.make(env_id, disable_env_checker=True, **env_options(student))
    try:
        assert isinstance(env.unwrapped, KomoEnv)
        here = layout_of(env.unwrapped, env_id)
        # Where cameras stand exactly may differ from what it knows.
        here = replace(here, env_id=layout.env_id, carried=layout.carried)
        # A student of pictures may meet other things than it knows, and a state has no place
        # for them.
        if card.architecture.encoder != "state":
            here = replace(here, visible=layout.visible, alike=layout.alike)
        if task != learned or here != layout:
            raise ValueError(
                f"policy {folder}: learned {layout.env_id}, and cannot act in {env_id}, "
                "which is another task, or has another state"
            )
        name = card.name if folder.is_dir() else f"{card.name}, ONNX"  # other last digits
        policy = StudentPolicy.of_env(student, env, name)
    finally:
        env.close()
    if card.origin.shadows and not policy.privileged:
        policy.env_options["shadows"] = True
    policy.learning = {
        "parameters": card.parameters,
        "demonstrations": card.origin.demonstrations,
        "minutes": card.origin.minutes,
        "hardware": card.origin.hardware,
    }
    return policy
