"""Demonstrations in memory, and windows of them to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.dataset.format import DemoFile, image_names, reading
from komo_envs.env import KomoEnv
from policies.student.config import Modality
from policies.student.dinov2 import Backbone, cached_features

Floats = NDArray[np.float32]

VECTORS = ("agent_pos", "goal", "observation", "achieved_goal")
"""What is read of observations besides images."""
IMAGES: dict[Modality, str] = {"rgb": "pixels", "depth": "depth"}
"""The key of the images of each modality, in observations and in files."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of an env's vectors are, and which env it is."""

    env_id: str
    control_mode: str
    cameras: tuple[str, ...]
    """Whose pictures are seen, side by side."""
    carried: bool
    """Whether what they see is read together with where the robot is: because it carries one of
    them, or because none stands exactly where it should, and the robot is what tells by how much.
    """
    image_size: int
    action_size: int
    command: tuple[int, int]
    """First and end of the last command in ``agent_pos``, in the action's own coordinates; the same
    number twice in ``ee_delta``, whose actions are relative to it as they are."""
    tool: tuple[int, int]
    """First and end of the end-effector's coordinates in ``agent_pos``."""
    position: int
    """How many numbers of a goal say where the object is to be."""
    visible: tuple[bool, ...]
    """Which numbers of the privileged state a picture shows."""
    alike: tuple[int, int] = (0, 0)
    """How many things of one kind it ends with, in no order, and with how many numbers each."""

    @property
    def agent_pos(self) -> int:
        """Numbers of the proprioception: after the tool's coordinates come the commanded ones."""
        return 2 * self.tool[1] - self.tool[0]


def layout_of(env: KomoEnv, env_id: str) -> Layout:
    """The layout of an env of square images.

    Raises:
        ValueError: It has images of another shape.
    """
    height, width = env.image_size
    if height != width:
        raise ValueError(f"image_size: {(height, width)}; expected a square")
    size = len(env.task.end_effector.names)
    action_size = {"joint": 7, "ee": size, "ee_delta": size}
    command = {"joint": (7, 14), "ee": (14 + size, 14 + 2 * size), "ee_delta": (0, 0)}
    return Layout(
        env_id=env_id,
        control_mode=env.control_mode,
        cameras=tuple(camera.name for camera in env.cameras),
        carried=any(camera.parent is not None for camera in env.cameras)
        or (env.randomization is not None and env.randomization.moves_cameras),
        image_size=height,
        action_size=action_size[env.control_mode],
        command=command[env.control_mode],
        tool=(14, 14 + size),
        position=len(env.task.goal_low) - 1,
        visible=tuple(map(bool, env.task.observable_mask)),
        alike=env.task.object_slots,
    )


@dataclass(frozen=True)
class Frames:
    """The moments of all demonstrations, one after another: N of them."""

    images: NDArray[Any] | None
    """uint8 (N, H, W, 3), uint16 (N, H, W, 1) in mm, the pictures of all cameras side by side; or
    DINOv2's features (N, F), float32; None for a student of states."""
    agent_pos: Floats
    """(N, P)"""
    goal: Floats
    """(N, G), where the object is to be"""
    state: Floats
    """(N, K), where it is, then what else is known of it: all that is privileged for a student of
    states; what a picture shows of that, for others to learn to estimate"""
    actions: Floats
    """(N, A), what the expert wants"""
    first: NDArray[np.int64]
    """(N,), index of the first moment of the same episode"""
    last: NDArray[np.int64]
    """(N,), index of its last moment"""
    taught: NDArray[np.bool_]
    """(N,), whether a window may start here: the expert itself acted from here on"""

    def __len__(self) -> int:
        return len(self.agent_pos)


def open_layout(
    paths: Sequence[Path],
    control_mode: str | None,
    cameras: tuple[str, ...] | None = None,
    trust_code: bool = False,
) -> Layout:
    """The layout that the demonstrations of all files share.

    Args:
        paths: Of the files.
        control_mode: Of the student; that which they were collected in if None.
        cameras: Of the student; all that the demonstrations have if None.
        trust_code: Whether the module of their env may be imported, if they name one.

    Raises:
        ValueError: They are of several envs or of other images, or lack a camera, or cannot be
            read.
    """
    options: dict[str, Any] = {} if control_mode is None else {"control_mode": control_mode}
    if cameras is not None:
        options["cameras"] = cameras
    layouts, sceneries = [], []
    for path in paths:
        with DemoFile(path, trust_code) as file:
            sceneries.append(file.scenery)
            if not set(cameras or ()) <= set(file.cameras):
                seen, there = " ".join(cameras or ()), " ".join(file.cameras)
                raise ValueError(f"--cameras {seen}: expected of those that {path} has, {there}")
            env = file.make_env(obs_mode="state", **options)
            assert isinstance(env.unwrapped, KomoEnv)
            try:
                layouts.append(layout_of(env.unwrapped, file.env_id))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            finally:
                env.close()
    for path, layout, scenery in zip(paths, layouts, sceneries, strict=True):
        if layout != layouts[0]:
            raise ValueError(f"{path}: {layout}; expected the same as {paths[0]}, {layouts[0]}")
        if scenery != sceneries[0]:
            raise ValueError(
                f"{path}: was seen with {scenery}; expected the same as {paths[0]}, {sceneries[0]}"
            )
    return layouts[0]


def shares(paths: Sequence[Path], episodes: int | None) -> list[int]:
    """How many demonstrations to take of each file: the first ones, as many as its share of all.

    Args:
        paths: Of the files.
        episodes: How many in all; None for all there are.

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
    wanted = total if episodes is None else episodes
    if wanted > total:
        raise ValueError(f"--episodes {episodes}: there are {total} demonstrations")
    ends = [wanted * end // total for end in accumulate(there)]
    return [end - begin for begin, end in pairwise([0, *ends])]


def load_frames(
    paths: Sequence[Path],
    layout: Layout,
    modality: Modality | None,
    context: int,
    episodes: int | None = None,
    backbone: Backbone | None = None,
) -> Frames:
    """Read demonstrations, without those that fail, or teach nothing.

    Args:
        paths: Of the files.
        layout: What they share.
        modality: Which images to read; None for none.
        context: How many moments a window looks at.
        episodes: How many demonstrations to take, see ``shares``; all if None.
        backbone: Whose features to take in place of the images; None for none.

    Raises:
        ValueError: None succeeds, or a file is damaged.
    """
    parts: dict[str, list[Any]] = {name: [] for name in Frames.__dataclass_fields__}
    start = 0
    for path, share in zip(paths, shares(paths, episodes), strict=True):
        with DemoFile(path) as file, reading(path):
            names = image_names(IMAGES[modality], file.cameras) if modality else {}
            names = {camera: names[camera] for camera in layout.cameras} if names else {}
            mask = mask_of(layout, privileged=modality is None)
            features: list[Floats] = []
            if backbone is not None:
                views = [cached_features(path, name, backbone) for name in names.values()]
                every = np.concatenate(views, 1)
                ends = np.cumsum([file.group(i).attrs["num_samples"] for i in range(len(file))])
                features = np.split(every, ends[:-1])
            for index in range(share):
                group = file.group(index)
                taught = np.arange(group.attrs["num_samples"]) >= group.attrs["handover"]
                if not group.attrs["success"] or not taught.any():
                    continue
                # What nobody learns from is left out, but for what the first window looks back at.
                begin = max(0, int(np.argmax(taught)) - context + 1)
                obs = {name: group["obs"][name][begin:] for name in VECTORS}
                length = len(taught) - begin
                if backbone is not None:
                    parts["images"].append(features[index][begin:])
                elif modality:
                    views = [group["obs"][name][begin:] for name in names.values()]
                    parts["images"].append(np.concatenate(views, 2))
                parts["agent_pos"].append(obs["agent_pos"])
                parts["goal"].append(obs["goal"])
                parts["state"].append(privileged(obs, mask))
                parts["actions"].append(group[f"action_dict/{layout.control_mode}"][begin:])
                parts["first"].append(np.full(length, start))
                parts["last"].append(np.full(length, start + length - 1))
                parts["taught"].append(taught[begin:])
                start += length
    if not start:
        raise ValueError(f"--demos {', '.join(map(str, paths))}: none succeeds")
    arrays: dict[str, Any] = {name: _joined(part) for name, part in parts.items() if part}
    for name in ("agent_pos", "goal", "state", "actions"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"--demos {', '.join(map(str, paths))}: {name}: not all are finite")
    return Frames(**{"images": None, **arrays})


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays one after another. The list is emptied on the way: images fill much of a memory."""
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined


def mask_of(layout: Layout, privileged: bool) -> tuple[bool, ...]:
    """Which numbers of the privileged state a student reads, or estimates."""
    return tuple(privileged or visible for visible in layout.visible)


def privileged(obs: Mapping[str, Any], mask: Sequence[bool]) -> Floats:
    """Where the object is, and the numbers of the privileged state that ``mask`` (P,) names.

    Args:
        obs: Observations of states, (..., S) each, of an env or of a file.
        mask: For each number, whether to take it.
    """
    position, state = obs["achieved_goal"][..., :-1], obs["observation"][..., -len(mask) :]
    return np.concatenate([position, state[..., np.array(mask)]], -1)


@dataclass(frozen=True)
class Scale:
    """What numbers are shifted and divided by, so that they have mean 0 and deviation 1."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, values: Floats, least: float = 1e-4) -> Scale:
        """The scale of values (N, ...), along the first axis.

        What varies less than ``least`` tells nothing, and is not blown up to the size of the rest.
        """
        deviation = values.std(0, dtype=np.float64)
        deviation = np.where(deviation < least, 1.0, deviation)
        return cls(values.mean(0, dtype=np.float64).astype(np.float32), deviation.astype("f4"))


LEAST_IN_STATE = 2e-3
"""m or rad: less than that, a picture does not show."""


@dataclass(frozen=True)
class Scales:
    """The scales of all that a student reads and writes."""

    agent_pos: Scale
    goal: Scale
    state: Scale
    actions: Scale
    """Of chunks (N, A) of what the actions add to the last command."""
    depth: Scale
    """Of depth in m, ()."""


def chunk_indices(frames: Frames, moments: NDArray[np.int64], chunk: int) -> NDArray[np.int64]:
    """Which moments (B, N) the actions of the chunks of ``moments`` (B,) belong to.

    After its episode's end, the last one is repeated.
    """
    ahead = moments[:, None] + np.arange(chunk)
    return np.minimum(ahead, frames.last[moments, None])


def context_indices(frames: Frames, moments: NDArray[np.int64], context: int) -> NDArray[np.int64]:
    """Which moments (B, M) the contexts of ``moments`` (B,) are, the present one last.

    Before its episode's beginning, the first one is repeated.
    """
    before = moments[:, None] - np.arange(context)[::-1]
    return np.maximum(before, frames.first[moments, None])


def chunks(
    frames: Frames, layout: Layout, moments: NDArray[np.int64], chunk: int, turned: bool
) -> Floats:
    """What the actions (B, N, A) that follow ``moments`` (B,) add to the last command there.

    Args:
        frames: The demonstrations.
        layout: Of their env's vectors.
        moments: Indices.
        chunk: N.
        turned: Whether their first two numbers, x and y, are along and to the left of the way from
            the object to its goal.
    """
    first, end = layout.command
    actions = frames.actions[chunk_indices(frames, moments, chunk)]
    if first != end:
        actions = actions - frames.agent_pos[moments, None, first:end]
    if turned:
        way = frames.goal[moments, :2] - frames.state[moments, :2]
        way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
        axes = np.stack([way, np.stack([-way[:, 1], way[:, 0]], 1)], 1)  # (B, 2, 2), in rows
        actions[..., :2] = actions[..., :2] @ axes.transpose(0, 2, 1)
    return actions


def scales_of(frames: Frames, layout: Layout, chunk: int, turned: bool) -> Scales:
    """The scales of demonstrations."""
    depth = np.zeros((1, 1), np.float32)
    if frames.images is not None and frames.images.dtype == np.uint16:
        every = max(1, len(frames) // 500)
        depth = frames.images[::every].reshape(-1, 1).astype(np.float32) / 1000.0
    return Scales(
        agent_pos=Scale.of(frames.agent_pos),
        goal=Scale.of(frames.goal),
        state=_state_scale(frames.state, layout),
        actions=Scale.of(chunks(frames, layout, np.arange(len(frames)), chunk, turned)),
        depth=Scale.of(depth),
    )


def _state_scale(state: Floats, layout: Layout) -> Scale:
    """Of states (N, K); the things around the object have one scale, of those that are there."""
    scale = Scale.of(state, LEAST_IN_STATE)
    count, size = layout.alike
    if not count:
        return scale
    own = state.shape[1] - count * size
    things = state[:, own:].reshape(-1, size)
    there = things[things.any(1)]
    if not len(there):
        return scale
    one = Scale.of(there, LEAST_IN_STATE)
    mean = np.concatenate([scale.mean[:own], np.tile(one.mean, count)])
    return Scale(mean, np.concatenate([scale.deviation[:own], np.tile(one.deviation, count)]))


@dataclass(frozen=True)
class Batch:
    """Clips: C pieces of L moments in a row, and the windows in them, W in all."""

    images: Tensor | None
    """As in ``Frames``, (C, L, H, W, ...)"""
    agent_pos: Tensor
    """(C, L, P)"""
    goal: Tensor
    """(C, L, G)"""
    state: Tensor
    """(C, L, K)"""
    context: Tensor
    """(W, M), indices into the C x L moments"""
    actions: Tensor
    """(W, N, A), see ``chunks``"""


def sample_batch(
    frames: Frames,
    layout: Layout,
    clips: int,
    windows: int,
    context: int,
    chunk: int,
    turned: bool,
    rng: np.random.Generator,
) -> Batch:
    """Draw clips, uniformly, with the windows whose last observation is among their last moments.

    A clip may go over the border between two episodes; no window does.
    """
    length = windows + context - 1
    taught = np.zeros(0, bool)
    while not taught.any():
        begins = rng.integers(0, len(frames) - windows + 1, clips)  # of the windows
        moments = begins[:, None] + np.arange(windows)  # (C, W/C)
        taught = frames.taught[moments].ravel()
    offsets = begins[:, None] - (context - 1) + np.arange(length)
    offsets = np.maximum(offsets, 0)  # (C, L)
    starts = length * np.arange(clips)[:, None, None] - (begins - (context - 1))[:, None, None]
    indices = context_indices(frames, moments.ravel(), context).reshape(clips, windows, context)
    return Batch(
        images=None if frames.images is None else torch.from_numpy(_images(frames.images[offsets])),
        agent_pos=torch.from_numpy(frames.agent_pos[offsets]),
        goal=torch.from_numpy(frames.goal[offsets]),
        state=torch.from_numpy(frames.state[offsets]),
        context=torch.from_numpy((indices + starts).reshape(-1, context)[taught]),
        actions=torch.from_numpy(chunks(frames, layout, moments.ravel()[taught], chunk, turned)),
    )


def _images(images: NDArray[Any]) -> NDArray[Any]:
    """Depth in m; RGB and features as they are."""
    return images.astype(np.float32) / 1000.0 if images.dtype == np.uint16 else images
