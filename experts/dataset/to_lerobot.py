"""Demonstrations as a LeRobot data set, version 3.0: Parquet, MP4 and JSON in one folder.

    meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet, ...                       a row for each action
    videos/KEY/chunk-000/file-000.mp4, ...                     a frame for each row

Features of a row, besides LeRobot's own timestamp, frame_index, episode_index, index, task_index:

    observation.images.CAMERA         in the videos; RGB, lossless: HEVC of RGB, not of YUV
    observation.state                 float32, ``agent_pos``
    observation.environment_state     float32, ``goal``
    action                            float32, the expert's, in one control mode
    next.reward, next.done, next.success

The data set is for imitation: of a disturbed demonstration, the actions are those that the expert
wanted, not the executed ones. LeRobot's policies use every feature that is called an observation,
so the privileged state is left out. So is depth, which those policies do not use: LeRobot's videos
would round it, and as a plain array it would break LeRobot's tools.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experts.dataset.format import Arrays, Demo, DemoFile, image_names
from komo_envs.env import KomoEnv, unwrap
from komo_envs.utils.video import VideoWriter

DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
CHUNK_FILES = 1000
"""Largest number of files in one folder."""
DATA_MB, VIDEO_MB = 100, 200
"""Largest size of one file before compression, which LeRobot reads in info.json."""
SMALLEST = 16
"""Smallest side that HEVC's encoder takes, pixels."""
KEYFRAMES = 8
"""Frames from one key frame to the next, all of which a reader of a single one decodes. With 2,
files are half as large again; with more than 10, hardly smaller."""
# Lossless, and without frames that look ahead, so that the first frame's time is 0.
ENCODING = (
    "-c:v libx265 -pix_fmt gbrp -x265-params lossless=1:bframes=0:log-level=error "
    f"-tag:v hvc1 -g {KEYFRAMES}"
)
"""Options of ffmpeg for the videos."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Stats = dict[str, dict[str, list[Any]]]
"""Statistics of each feature, as lists: min, max, mean, std, count and quantiles."""


def write(file: DemoFile, demos: Iterable[Demo], mode: str, folder: Path) -> str:
    """Write a data set.

    Args:
        file: File of demonstrations.
        demos: All its demonstrations.
        mode: Control mode of the actions.
        folder: Folder of the data set, empty.

    Returns:
        How to load the data set.

    Raises:
        ValueError: The images are too small.
        OSError: It cannot be written.
    """
    env = unwrap(file.make_env(control_mode=mode))
    if min(env.image_size) < SMALLEST:
        raise ValueError(f"images of {env.image_size} are too small for a video: {SMALLEST} and up")
    fps = env.metadata["render_fps"]
    open_video = partial(VideoWriter, fps=fps, encoding=ENCODING)
    features = _features(env, fps)
    summary, episodes, frames = _Summary(), [], 0
    with ExitStack() as stack:
        table_files = stack.enter_context(_Files(folder, DATA, _Table, DATA_MB))
        video_files = {
            key: stack.enter_context(_Files(folder, VIDEO, open_video, VIDEO_MB, key))
            for key, feature in features.items()
            if feature["dtype"] == "video"
        }
        for number, demo in enumerate(demos):
            arrays = {
                **_images(demo, file.cameras),
                **_vectors(demo, mode, fps, number, frames),
            }
            in_table = [key for key in features if key not in video_files]
            table = pa.table({key: _column(arrays[key]) for key in in_table})
            place = table_files.add(table, len(demo), table.nbytes)
            episode = {
                "episode_index": number,
                "tasks": [env.task_description],
                "length": len(demo),
                "dataset_from_index": frames,
                "dataset_to_index": frames + len(demo),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "data/chunk_index": place.chunk,
                "data/file_index": place.file,
            }
            for key, files in video_files.items():
                place = files.add(arrays[key], len(demo), arrays[key].nbytes)
                episode[f"videos/{key}/chunk_index"] = place.chunk
                episode[f"videos/{key}/file_index"] = place.file
                episode[f"videos/{key}/from_timestamp"] = place.first / fps
                episode[f"videos/{key}/to_timestamp"] = (place.first + len(demo)) / fps
            for key, stats in summary.add(arrays).items():
                episode.update({f"stats/{key}/{name}": value for name, value in stats.items()})
            episodes.append(episode)
            frames += len(demo)
    env.close()
    _write_meta(folder, env.task_description, fps, features, episodes, summary.total())
    return "LeRobotDataset takes this folder as its root"


def _write_meta(
    folder: Path,
    task: str,
    fps: int,
    features: dict[str, dict[str, Any]],
    episodes: list[dict[str, Any]],
    stats: Stats,
) -> None:
    """Write the metadata: the folder ``meta``."""
    info = {
        "codebase_version": "v3.0",
        "robot_type": "panda",
        "total_episodes": len(episodes),
        "total_frames": sum(episode["length"] for episode in episodes),
        "total_tasks": 1,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA,
        "video_path": VIDEO,
        "features": features,
    }
    (folder / EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), folder / EPISODES)
    pq.write_table(_tasks(task), folder / "meta/tasks.parquet")
    for name, content in (("info", info), ("stats", stats)):
        text = json.dumps(content, indent=4)
        (folder / f"meta/{name}.json").write_text(text, encoding="utf-8")


def _features(env: KomoEnv, fps: int) -> dict[str, dict[str, Any]]:
    """Features of the data set, as in info.json."""
    height, width = env.image_size
    sides = ["height", "width", "channels"]
    ee = list(env.task.end_effector.names)
    joints = [f"joint{i}" for i in range(1, 8)]
    actions = {"joint": joints, "ee": ee, "ee_delta": [f"{name}.delta" for name in ee]}
    state = [*joints, *(f"{name}.command" for name in joints)]
    state += [*ee, *(f"{name}.command" for name in ee)]
    vectors = {
        "observation.state": state,
        "observation.environment_state": [f"goal{i}" for i in range(len(env.task.goal_low) - 1)],
        "action": actions[env.control_mode],
    }
    scalars = {
        "next.reward": "float32",
        "next.done": "bool",
        "next.success": "bool",
        "timestamp": "float32",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": "hevc",
        "video.pix_fmt": "gbrp",
        "video.g": KEYFRAMES,
        "video.crf": 0,
        "video.extra_options": {"x265-params": "lossless=1:bframes=0"},
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "is_depth_map": False,
    }
    features: dict[str, dict[str, Any]] = {}
    for camera in env.cameras:
        features[f"observation.images.{camera.name}"] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": sides,
            "info": video,
        }
    for key, names in vectors.items():
        features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
    for key, dtype in scalars.items():
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return features


def _vectors(demo: Demo, mode: str, fps: int, number: int, index: int) -> Arrays:
    """All features but images: (T,) and (T, n).

    Args:
        demo: Demonstration of T actions.
        mode: Control mode of the actions.
        fps: Actions a second.
        number: Index of the demonstration in the data set.
        index: Index of its first row in the data set.
    """
    steps = np.arange(len(demo), dtype=np.int64)
    return {
        "observation.state": demo.obs["agent_pos"][:-1],
        "observation.environment_state": demo.obs["goal"][:-1],
        "action": demo.actions[mode],
        "next.reward": demo.rewards.astype(np.float32),
        "next.done": steps == len(demo) - 1,
        "next.success": demo.successes,
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, number),
        "index": steps + index,
        "task_index": np.zeros_like(steps),
    }


def _images(demo: Demo, cameras: Sequence[str]) -> Arrays:
    """Images (T, H, W, 3) before each action."""
    names = image_names("pixels", cameras)
    return {f"observation.images.{camera}": demo.obs[names[camera]][:-1] for camera in cameras}


def _column(array: NDArray[Any]) -> pa.Array:
    """A column of T values, of which each is a number or a vector."""
    column = pa.array(array.ravel())
    return column if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(column, array.shape[1])


def _tasks(task: str) -> pa.Table:
    """Table of the task and its number. LeRobot reads it with pandas, with the task as index."""
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [task]})
    columns = [
        {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [{**column, "field_name": column["name"]} for column in columns],
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


class _Sink(Protocol):
    """A file that is open for writing."""

    def write(self, part: Any) -> None:
        """Append."""

    def close(self) -> None:
        """Finish it."""


@dataclass(frozen=True)
class _Place:
    """The place of an episode in the files of one kind."""

    chunk: int
    """Number of the folder."""
    file: int
    """Number of the file in it."""
    first: int
    """Number of the episode's first frame in the file."""


class _Files:
    """Files of one kind, filled one after another with whole episodes.

    Args:
        folder: Folder of the data set.
        pattern: Pattern of the files' paths in it.
        open_file: Opens a file for writing, in a folder that exists.
        limit: Largest size of a file before compression, MB.
        key: Feature whose videos they are; empty for tables.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        open_file: Callable[[Path], _Sink],
        limit: float,
        key: str = "",
    ) -> None:
        self._folder = folder
        self._pattern = pattern
        self._open_file = open_file
        self._limit = limit * 2**20
        self._key = key
        self._number = -1
        self._frames = self._size = 0
        self._sink: _Sink | None = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._sink is not None:
                self._sink.close()
        except OSError:
            if kind is None:  # else the first error is the one to tell
                raise

    def add(self, part: Any, frames: int, size: int) -> _Place:
        """Append an episode.

        Args:
            part: What the file's ``write`` takes.
            frames: Number of frames.
            size: Size in bytes before compression: that of the compressed file is known only when
                its encoder has finished, so the episodes in a file would depend on timing.
        """
        if self._sink is None or self._size + size > self._limit:
            if self._sink is not None:
                self._sink.close()
            self._number += 1
            self._frames = self._size = 0
            self._sink = self._open_file(self._path())
        place = _Place(*divmod(self._number, CHUNK_FILES), self._frames)
        self._frames += frames
        self._size += size
        self._sink.write(part)
        return place

    def _path(self) -> Path:
        """Path of the present file, whose folder is made."""
        chunk, number = divmod(self._number, CHUNK_FILES)
        path = self._folder / self._pattern.format(
            video_key=self._key, chunk_index=chunk, file_index=number
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Table:
    """A Parquet file, with a row group for each episode."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, part: pa.Table) -> None:
        """Append an episode."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, part.schema, compression="zstd")
        self._writer.write_table(part)

    def close(self) -> None:
        """Finish it."""
        if self._writer is not None:
            self._writer.close()


class _Summary:
    """Statistics of single episodes and of all of them; they are exact, not estimates."""

    def __init__(self) -> None:
        self._vectors: dict[str, list[NDArray[Any]]] = defaultdict(list)
        self._levels: dict[str, NDArray[np.int64]] = {}
        self._frames = 0

    def add(self, arrays: Arrays) -> Stats:
        """Count an episode in, and give its statistics.

        Args:
            arrays: Arrays of each feature: (T,), (T, n) or, for images, (T, H, W, channels).
        """
        stats: Stats = {}
        for key, array in arrays.items():
            if array.ndim < 3:
                rows = array.reshape(len(array), -1)
                self._vectors[key].append(rows)
                stats[key] = _stats(rows)
            else:
                levels = _count_levels(array)
                self._levels[key] = self._levels.get(key, 0) + levels
                stats[key] = _image_stats(levels, len(array))
        self._frames += len(next(iter(arrays.values())))
        return stats

    def total(self) -> Stats:
        """Statistics of all episodes."""
        vectors = {key: _stats(np.concatenate(parts)) for key, parts in self._vectors.items()}
        images = {key: _image_stats(n, self._frames) for key, n in self._levels.items()}
        return {**images, **vectors}


def _stats(rows: NDArray[Any]) -> dict[str, list[Any]]:
    """Statistics of each column of (N, n)."""
    rows = rows.astype(float)
    stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    for name, share in QUANTILES.items():
        stats[name] = np.quantile(rows, share, axis=0, method="inverted_cdf")
    return {**{name: value.tolist() for name, value in stats.items()}, "count": [len(rows)]}


def _count_levels(images: NDArray[Any]) -> NDArray[np.int64]:
    """Counts (C, L) of the L values of the type in each channel of images (T, H, W, C)."""
    levels = np.iinfo(images.dtype).max + 1
    channels = range(images.shape[-1])
    return np.stack([np.bincount(images[..., c].ravel(), minlength=levels) for c in channels])


def _image_stats(counts: NDArray[np.int64], frames: int) -> dict[str, list[Any]]:
    """Statistics of each channel, (3, 1, 1) as in LeRobot with 1 for white.

    Args:
        counts: Counts (C, L) of the values of each channel.
        frames: Number of frames.
    """
    levels = np.arange(counts.shape[1])
    shares = counts.cumsum(1) / counts.sum(1, keepdims=True)
    mean = counts @ levels / counts.sum(1)
    square = (counts * (levels - mean[:, None]) ** 2).sum(1)
    stats = {
        "min": (counts > 0).argmax(1),
        "max": levels[-1] - (counts[:, ::-1] > 0).argmax(1),
        "mean": mean,
        "std": np.sqrt(square / counts.sum(1)),
        **{name: (shares >= share).argmax(1) for name, share in QUANTILES.items()},
    }
    scaled = {name: (value / levels[-1]).reshape(3, 1, 1) for name, value in stats.items()}
    return {**{name: value.tolist() for name, value in scaled.items()}, "count": [frames]}
