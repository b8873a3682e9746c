"""The student as a policy: history, chunks and batches, behind the policy contract."""

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

from komo_envs.env import unwrap
from komo_envs.registration import find_spec
from policies.base import Observation, batch_shape
from policies.student.checkpoint import load_checkpoint
from policies.student.config import Architecture
from policies.student.dinov2 import Backbone
from policies.student.features import Features, features_of, masked_state, state_mask
from policies.student.images import observed_images
from policies.student.onnx_student import OnnxStudent

Arrays = dict[str, NDArray[Any]]


class Network(Protocol):
    """A ``Student``, or one in another form."""

    architecture: Architecture
    features: Features

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """See ``Student.forward``."""


def env_options(student: Network) -> dict[str, Any]:
    """The keyword arguments of ``gym.make`` that a student needs."""
    features, architecture = student.features, student.architecture
    return {
        "obs_mode": "state" if architecture.encoder == "state" else architecture.modality,
        "control_mode": features.control_mode,
        "cameras": features.cameras,
        "image_size": features.image_size,
    }


@dataclass
class PolicyState:
    """State of a student between the steps of B episodes."""

    history: Arrays
    """Inputs of the last M steps, (M, B, ...) each, the present one last."""
    chunks: NDArray[np.float32]
    """(B, K, N, A), the last predicted chunks, the newest first."""
    n_chunks: NDArray[np.int64]
    """(B,), number of chunks so far, at most K."""
    n_executed: NDArray[np.int64]
    """(B,), number of actions executed since the newest chunk was predicted."""


class StudentPolicy:
    """A trained student as a policy.

    Args:
        student: The network, in evaluation mode.
        observation_space: Of the env, made with ``env_options``.
        action_space: Of the env.
        name: Display name.
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
        self.training: dict[str, Any] | None = None
        """Training cost, as in a result, see ``Policy``."""
        self.chunk_seconds: list[float] = []
        """Wall time of every prediction so far."""
        a = student.architecture
        self._ensemble = a.temporal_ensemble_coeff is not None
        self._n_action_steps = 1 if self._ensemble else a.n_action_steps
        self._shape = (a.chunk_size, student.features.action_size)
        self._backbone: Backbone | None = None
        if student.architecture.encoder == "dinov2":
            self._backbone = load_backbone(student.architecture, student.device)
        self.set_random_seed(0)

    @classmethod
    def of_env(
        cls, student: Network, env: gym.Env[Any, Any], name: str = "student"
    ) -> StudentPolicy:
        """A student in an env that was made with its ``env_options``."""
        observation_space, action_space = env.observation_space, env.action_space
        assert isinstance(observation_space, spaces.Dict)
        assert isinstance(action_space, spaces.Box)
        return cls(student, observation_space, action_space, name)

    @property
    def privileged(self) -> bool:
        """Whether its observations are states of the simulation."""
        return self.student.architecture.encoder == "state"

    def set_random_seed(self, seed: int) -> None:
        """Make the following noise of a diffusion head depend on ``seed`` alone."""
        self._generator = torch.Generator().manual_seed(seed)

    def predict(
        self,
        obs: Observation,
        state: PolicyState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], PolicyState]:
        """The next action (A,), or (B, A) for a batch; and the state for the next call.

        Raises:
            ValueError: An observation is not of the observation space.
        """
        single = not batch_shape(obs, self.observation_space)
        now = self._inputs(obs, single)
        count = len(now["agent_pos"])
        start = np.ones(count, bool) if state is None else np.zeros(count, bool)
        if episode_start is not None:
            start |= np.asarray(episode_start, bool)
        state = self._next_state(now, state, start)
        due = np.flatnonzero(state.n_executed >= self._n_action_steps)
        if len(due):
            started = perf_counter()
            chunk = self._predict({k: v[:, due] for k, v in state.history.items()})
            state.chunks[due] = np.concatenate([chunk[:, None], state.chunks[due, :-1]], 1)
            state.n_chunks[due] = np.minimum(state.n_chunks[due] + 1, state.chunks.shape[1])
            state.n_executed[due] = 0
            self.chunk_seconds.append(perf_counter() - started)
        action = _ensembled(state, self.student.architecture.temporal_ensemble_coeff or 0.0)
        state.n_executed += 1
        action = np.clip(action, self.action_space.low, self.action_space.high)
        return (action[0] if single else action), state

    def _inputs(self, obs: Observation, single: bool) -> Arrays:
        """Inputs of the network, with a batch axis."""
        features = self.student.features
        if self.privileged:
            inputs = {
                "obs": masked_state(obs, state_mask(features, privileged=True)),
                "agent_pos": obs["observation"][..., : features.agent_pos_size],
                "goal": obs["desired_goal"][..., :-1],
            }
        else:
            modality = self.student.architecture.modality
            inputs = {
                "obs": observed_images(obs, modality, features.cameras),
                "agent_pos": obs["agent_pos"],
                "goal": obs["goal"],
            }
        inputs = {key: np.asarray(part)[None] if single else part for key, part in inputs.items()}
        if self._backbone is not None:
            views = np.split(inputs["obs"], len(features.cameras), 2)
            encoded = [self._backbone.features(torch.from_numpy(view)) for view in views]
            inputs["obs"] = torch.cat(encoded, 1).numpy()
        return inputs

    def _next_state(
        self, now: Arrays, state: PolicyState | None, start: NDArray[np.bool_]
    ) -> PolicyState:
        """The state with the present inputs; reset where an episode starts."""
        if state is None or start.all():
            a = self.student.architecture
            kept = a.chunk_size if self._ensemble else 1
            return PolicyState(
                history={key: np.repeat(part[None], a.n_obs_steps, 0) for key, part in now.items()},
                chunks=np.zeros((len(start), kept, *self._shape), np.float32),
                n_chunks=np.zeros(len(start), np.int64),
                n_executed=np.full(len(start), self._n_action_steps),
            )
        history = {
            key: np.concatenate([state.history[key][1:], part[None]]) for key, part in now.items()
        }
        for key, part in now.items():
            history[key][:, start] = part[start]
        n_chunks = np.where(start, 0, state.n_chunks)
        n_executed = np.where(start, self._n_action_steps, state.n_executed)
        return PolicyState(history, state.chunks.copy(), n_chunks, n_executed)

    @torch.inference_mode()
    def _predict(self, history: Arrays) -> NDArray[np.float32]:
        """Chunks (B, N, A) of histories (M, B, ...)."""
        inputs = [
            torch.from_numpy(history[key]).transpose(0, 1) for key in ("obs", "agent_pos", "goal")
        ]
        inputs.append(torch.randn(len(inputs[0]), *self._shape, generator=self._generator))
        return self.student(*(part.to(self.student.device) for part in inputs)).cpu().numpy()


def _ensembled(state: PolicyState, coeff: float) -> NDArray[np.float32]:
    """The present actions (B, A), averaged over chunks with weights exp(-coeff * i).

    i = 0 is the oldest chunk. Source: temporal ensembling in Zhao et al., Learning Fine-Grained
    Bimanual Manipulation with Low-Cost Hardware, 2023.
    """
    rows, ages = np.arange(len(state.n_executed))[:, None], np.arange(state.chunks.shape[1])
    actions = state.chunks[rows, ages, state.n_executed[:, None] + ages]  # (B, K, A)
    older = state.n_chunks[:, None] - 1 - ages  # number of older chunks
    weights = np.where(older >= 0, np.exp(-coeff * older), 0.0)
    weights /= weights.sum(1, keepdims=True)
    return (actions * weights[..., None]).sum(1).astype(np.float32)


def check_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use.

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
    """The DINOv2 that a student was trained with.

    Raises:
        ValueError: The backbone is not there, or another.
        ImportError: transformers is not installed.
    """
    backbone = Backbone(architecture.backbone, device)
    if backbone.sha256 != architecture.backbone_sha256:
        raise ValueError(
            f"backbone {backbone.name}: has the weights {backbone.sha256}; expected those that the "
            f"student learned with, {architecture.backbone_sha256}"
        )
    return backbone


def load_student(path: Path, env_id: str, device: str = "cpu") -> StudentPolicy:
    """A checkpoint, or its ONNX file, as a policy for an env.

    Args:
        path: The folder of the checkpoint, or the file.
        env_id: A registered id, or ``"module:Id"``.
        device: PyTorch device of a checkpoint; ONNX files run on the CPU.

    Raises:
        ValueError: The path holds no student, or one of another task; or there is no such device.
        OSError: A file cannot be read.
    """
    check_device(device)
    student: Network
    if path.is_dir():
        student, card = load_checkpoint(path)
        student.to(device)
    else:
        student = OnnxStudent(path)
        card = student.card
    features = card.features
    module = features.env_id.rpartition(":")[0]
    if module and module != env_id.rpartition(":")[0]:  # importing it would run its code
        raise ValueError(
            f"policy {path}: learned {features.env_id}; name the module in --env too: {module}:..."
        )
    task, learned = (find_spec(name).kwargs["task"] for name in (env_id, features.env_id))
    env = gym.make(env_id, disable_env_checker=True, **env_options(student))
    try:
        here = features_of(unwrap(env), env_id)
        # Cameras may stand a little elsewhere than in the training.
        varies = features.camera_pose_varies
        here = replace(here, env_id=features.env_id, camera_pose_varies=varies)
        # An image may show other obstacles than in the training; a state has no entries for them.
        if card.architecture.encoder != "state":
            here = replace(
                here,
                observable_mask=features.observable_mask,
                object_slots=features.object_slots,
            )
        if task != learned or here != features:
            raise ValueError(
                f"policy {path}: learned {features.env_id}, and cannot act in {env_id}, "
                "which is another task, or has another state"
            )
        name = card.name if path.is_dir() else f"{card.name}, ONNX"  # other last digits
        policy = StudentPolicy.of_env(student, env, name)
    finally:
        env.close()
    if card.origin.shadows and not policy.privileged:
        policy.env_options["shadows"] = True
    policy.training = {
        "parameters": card.parameters,
        "demonstrations": card.origin.demonstrations,
        "minutes": card.origin.minutes,
        "hardware": card.origin.hardware,
    }
    return policy
