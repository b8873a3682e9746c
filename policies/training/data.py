"""Demonstrations in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.dataset.format import DemoFile, image_names, reading
from komo_envs.env import unwrap
from policies.student.actions import ActionEncoding
from policies.student.config import Architecture, Modality, Training
from policies.student.dinov2 import Backbone
from policies.student.features import (
    DatasetStats,
    Features,
    Floats,
    Stats,
    features_of,
    masked_state,
    state_mask,
)
from policies.student.images import IMAGE_KEYS, side_by_side, to_metres
from policies.training.dinov2_cache import cached_features

VECTORS = ("agent_pos", "goal", "observation", "achieved_goal")
"""Keys of observations that are read besides images."""
MIN_STD = 1e-4
"""Entries that vary less carry no information, and are not normalized to the size of others."""
MIN_STATE_STD = 2e-3
"""m or rad: an image shows no less."""


@dataclass(frozen=True)
class Frames:
    """The time steps of all demonstrations, concatenated: N of them."""

    images: NDArray[Any] | None
    """uint8 (N, H, W, 3), or uint16 (N, H, W, 1) in mm, those of all cameras side by side; or
    DINOv2 features (N, F), float32; None for a state-based student."""
    agent_pos: Floats
    """(N, P)"""
    goal: Floats
    """Target position of the object (N, G)."""
    state: Floats
    """(N, K), see ``masked_state``: all of the privileged state for a state-based student, and what
    an image shows of it, to be predicted, for an image-based one."""
    actions: Floats
    """Actions of the expert (N, A)."""
    first: NDArray[np.int64]
    """(N,), index of the first time step of the same episode."""
    last: NDArray[np.int64]
    """(N,), index of its last time step."""
    loss_mask: NDArray[np.bool_]
    """(N,), whether a chunk may start here: the expert itself acts from here on."""

    def __len__(self) -> int:
        return len(self.agent_pos)


def open_features(
    paths: Sequence[Path],
    control_mode: str | None,
    cameras: tuple[str, ...] | None = None,
    trust_code: bool = False,
) -> Features:
    """The features that the demonstrations of all files share.

    Args:
        paths: The files.
        control_mode: Control mode of the student; that of the demonstrations if None.
        cameras: Cameras of the student; all that the demonstrations have if None.
        trust_code: Whether the module of their env may be imported, if they name one.

    Raises:
        ValueError: The files are of several envs or of other images, or lack a camera, or cannot be
            read.
    """
    options: dict[str, Any] = {} if control_mode is None else {"control_mode": control_mode}
    if cameras is not None:
        options["cameras"] = cameras
    features, camera_options = [], []
    for path in paths:
        with DemoFile(path, trust_code) as file:
            camera_options.append(file.camera_options)
            if not set(cameras or ()) <= set(file.cameras):
                wanted, there = " ".join(cameras or ()), " ".join(file.cameras)
                raise ValueError(f"--cameras {wanted}: expected of those that {path} has, {there}")
            env = file.make_env(obs_mode="state", **options)
            try:
                features.append(features_of(unwrap(env), file.env_id))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            finally:
                env.close()
    for path, theirs, options in zip(paths, features, camera_options, strict=True):
        if theirs != features[0]:
            raise ValueError(f"{path}: {theirs}; expected the same as {paths[0]}, {features[0]}")
        if options != camera_options[0]:
            raise ValueError(
                f"{path}: was rendered with {options}; expected the same as {paths[0]}, "
                f"{camera_options[0]}"
            )
    return features[0]


def demos_per_file(paths: Sequence[Path], num_demos: int | None) -> list[int]:
    """Number of demonstrations to take of each file, in proportion to those that it has.

    Args:
        paths: The files.
        num_demos: Number in all; None for all there are.

    Raises:
        ValueError: There are fewer, or a file cannot be read.
    """
    there = []
    for path in paths:
        with DemoFile(path) as file:
            there.append(len(file))
    total = sum(there)
    if not total:
        raise ValueError(f"--demos {', '.join(map(str, paths))}: no demonstrations are there")
    wanted = total if num_demos is None else num_demos
    if wanted > total:
        raise ValueError(f"--num-demos {num_demos}: there are {total} demonstrations")
    ends = [wanted * end // total for end in accumulate(there)]
    return [end - begin for begin, end in pairwise([0, *ends])]


def load_frames(
    paths: Sequence[Path],
    features: Features,
    modality: Modality | None,
    n_obs_steps: int,
    num_demos: int | None = None,
    backbone: Backbone | None = None,
) -> Frames:
    """Read demonstrations, without those that fail, or in which no expert acts.

    Args:
        paths: The files.
        features: The features that they share.
        modality: Images to read; None for none.
        n_obs_steps: Observations of the input.
        num_demos: Number of demonstrations to take, see ``demos_per_file``; all if None.
        backbone: Replaces images by its features; None for none.

    Raises:
        ValueError: None succeeds, or a file is damaged.
    """
    parts: dict[str, list[Any]] = {name: [] for name in Frames.__dataclass_fields__}
    start = 0
    for path, used in zip(paths, demos_per_file(paths, num_demos), strict=True):
        with DemoFile(path) as file, reading(path):
            names = image_names(IMAGE_KEYS[modality], file.cameras) if modality else {}
            names = {camera: names[camera] for camera in features.cameras} if names else {}
            mask = state_mask(features, privileged=modality is None)
            encoded: list[Floats] = []
            if backbone is not None:
                views = [cached_features(path, name, backbone) for name in names.values()]
                every = np.concatenate(views, 1)
                ends = np.cumsum([file.group(i).attrs["num_samples"] for i in range(len(file))])
                encoded = np.split(every, ends[:-1])
            for index in range(used):
                group = file.group(index)
                by_expert = np.arange(group.attrs["num_samples"]) >= group.attrs["intervention"]
                if not group.attrs["success"] or not by_expert.any():
                    continue
                # Steps of the student are left out, but for the history of the first chunk.
                begin = max(0, int(np.argmax(by_expert)) - n_obs_steps + 1)
                obs = {name: group["obs"][name][begin:] for name in VECTORS}
                length = len(by_expert) - begin
                if backbone is not None:
                    parts["images"].append(encoded[index][begin:])
                elif modality:
                    views = [group["obs"][name][begin:] for name in names.values()]
                    parts["images"].append(side_by_side(views))
                parts["agent_pos"].append(obs["agent_pos"])
                parts["goal"].append(obs["goal"])
                parts["state"].append(masked_state(obs, mask))
                parts["actions"].append(group[f"action_dict/{features.control_mode}"][begin:])
                parts["first"].append(np.full(length, start))
                parts["last"].append(np.full(length, start + length - 1))
                parts["loss_mask"].append(by_expert[begin:])
                start += length
    if not start:
        raise ValueError(f"--demos {', '.join(map(str, paths))}: none succeeds")
    arrays: dict[str, Any] = {name: _concatenate(part) for name, part in parts.items() if part}
    for name in ("agent_pos", "goal", "state", "actions"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"--demos {', '.join(map(str, paths))}: {name}: not all are finite")
    return Frames(**{"images": None, **arrays})


def _concatenate(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Concatenated arrays. The list is emptied on the way: images take much of the memory."""
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined


def chunk_indices(frames: Frames, steps: NDArray[np.int64], chunk_size: int) -> NDArray[np.int64]:
    """Time steps (B, N) of the actions of the chunks at ``steps`` (B,).

    After the end of its episode, the last one is repeated.
    """
    ahead = steps[:, None] + np.arange(chunk_size)
    return np.minimum(ahead, frames.last[steps, None])


def history_indices(
    frames: Frames, steps: NDArray[np.int64], n_obs_steps: int
) -> NDArray[np.int64]:
    """Time steps (B, M) of the observations up to ``steps`` (B,), the present one last.

    Before the beginning of its episode, the first one is repeated.
    """
    before = steps[:, None] - np.arange(n_obs_steps)[::-1]
    return np.maximum(before, frames.first[steps, None])


def encoded_chunks(
    frames: Frames, steps: NDArray[np.int64], chunk_size: int, encoding: ActionEncoding
) -> Floats:
    """Encoded chunks (B, N, A) of the expert's actions at ``steps`` (B,)."""
    actions = frames.actions[chunk_indices(frames, steps, chunk_size)]
    return encoding.encode(
        actions, frames.agent_pos[steps], frames.goal[steps], frames.state[steps]
    )


def compute_stats(values: Floats, min_std: float = MIN_STD) -> Stats:
    """Statistics of values (N, ...) along the first axis; std is 1 where below ``min_std``."""
    std = values.std(0, dtype=np.float64)
    std = np.where(std < min_std, 1.0, std)
    return Stats(values.mean(0, dtype=np.float64).astype(np.float32), std.astype("f4"))


def compute_dataset_stats(
    frames: Frames, features: Features, chunk_size: int, encoding: ActionEncoding
) -> DatasetStats:
    """Statistics of demonstrations."""
    depth = np.zeros((1, 1), np.float32)
    if frames.images is not None and frames.images.dtype == np.uint16:
        every = max(1, len(frames) // 500)
        depth = to_metres(frames.images[::every].reshape(-1, 1))
    every_chunk = encoded_chunks(frames, np.arange(len(frames)), chunk_size, encoding)
    return DatasetStats(
        agent_pos=compute_stats(frames.agent_pos),
        goal=compute_stats(frames.goal),
        state=_state_stats(frames.state, features),
        actions=compute_stats(every_chunk),
        depth=compute_stats(depth),
    )


def _state_stats(state: Floats, features: Features) -> Stats:
    """Statistics of states (N, K); all obstacles share those of the ones that exist."""
    stats = compute_stats(state, MIN_STATE_STD)
    count, size = features.object_slots
    if not count:
        return stats
    own = state.shape[1] - count * size
    obstacles = state[:, own:].reshape(-1, size)
    existing = obstacles[obstacles.any(1)]
    if not len(existing):
        return stats
    each = compute_stats(existing, MIN_STATE_STD)
    mean = np.concatenate([stats.mean[:own], np.tile(each.mean, count)])
    return Stats(mean, np.concatenate([stats.std[:own], np.tile(each.std, count)]))


@dataclass(frozen=True)
class Batch:
    """C sequences of L time steps, and W chunks that start in them."""

    images: Tensor | None
    """As in ``Frames``, but depth in m: (C, L, H, W, ...)"""
    agent_pos: Tensor
    """(C, L, P)"""
    goal: Tensor
    """(C, L, G)"""
    state: Tensor
    """(C, L, K)"""
    history: Tensor
    """(W, M), indices of each chunk's observations among the C x L time steps."""
    actions: Tensor
    """(W, N, A), encoded."""


def sample_batch(
    frames: Frames,
    architecture: Architecture,
    training: Training,
    encoding: ActionEncoding,
    rng: np.random.Generator,
) -> Batch:
    """Sample sequences uniformly, with the chunks that start at their last time steps.

    A sequence may cross the border between two episodes; a chunk and its history do not.
    """
    count, n_obs_steps = training.batch_size, architecture.n_obs_steps
    length = training.sequence_length + n_obs_steps - 1
    mask = np.zeros(0, bool)
    while not mask.any():
        # Of the steps at which chunks start.
        begins = rng.integers(0, len(frames) - training.sequence_length + 1, count)
        steps = begins[:, None] + np.arange(training.sequence_length)  # (C, W/C)
        mask = frames.loss_mask[steps].ravel()
    offsets = begins[:, None] - (n_obs_steps - 1) + np.arange(length)
    offsets = np.maximum(offsets, 0)  # (C, L)
    starts = length * np.arange(count)[:, None, None] - (begins - (n_obs_steps - 1))[:, None, None]
    history = history_indices(frames, steps.ravel(), n_obs_steps)
    history = history.reshape(count, training.sequence_length, n_obs_steps) + starts
    images = None
    if frames.images is not None:
        images = frames.images[offsets]
        images = torch.from_numpy(to_metres(images) if images.dtype == np.uint16 else images)
    actions = encoded_chunks(frames, steps.ravel()[mask], architecture.chunk_size, encoding)
    return Batch(
        images=images,
        agent_pos=torch.from_numpy(frames.agent_pos[offsets]),
        goal=torch.from_numpy(frames.goal[offsets]),
        state=torch.from_numpy(frames.state[offsets]),
        history=torch.from_numpy(history.reshape(-1, n_obs_steps)[mask]),
        actions=torch.from_numpy(actions),
    )
