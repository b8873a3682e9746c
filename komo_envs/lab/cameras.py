"""Live pictures: from a RealSense, or from files of earlier, cut to what a policy sees."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import imageio.v3 as iio
import numpy as np
import scipy  # whose parts are loaded when they are first asked for
from numpy.typing import NDArray

from komo_envs.entities import Camera
from komo_envs.utils.extras import missing
from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json
from komo_envs.worlds.rai import RobotStopped

LENS = "lens.json"
"""The file of a recording that holds its ``Lens``."""
PATIENCE = 0.3
"""Seconds without a new picture after which a camera is lost."""
_WARM_UP = 30  # pictures
_FIRST_PICTURE = 15_000  # ms that a camera may take to give one, when it is begun


class CameraLost(RobotStopped):
    """A camera gives no pictures any more, so its robot stands still."""


@dataclass(frozen=True)
class Lens:
    """A pinhole camera's picture: where its optical axis meets it, and how far away it is, in
    pixels.
    """

    focal: tuple[float, float]
    """(x, y)"""
    center: tuple[float, float]
    """(x, y)"""


@dataclass(frozen=True)
class Frame:
    """What a camera gives."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    depth: NDArray[np.float32]
    """(H, W) metres along the optical axis, 0 where nothing is seen; aligned with ``rgb``."""
    lens: Lens


class Stream(Protocol):
    """Where pictures come from."""

    def read(self) -> Frame:
        """The newest picture.

        Raises:
            CameraLost: There is none.
        """

    def close(self) -> None:
        """Let go of the camera."""


class RealSense:
    """A RealSense camera, 640 x 480 at 30 Hz, with its depth aligned to its colours.

    Args:
        serial: Its serial number.

    Raises:
        ImportError: pyrealsense2 is not installed.
        OSError: There is no such camera.
    """

    def __init__(self, serial: str) -> None:
        try:
            rs = importlib.import_module("pyrealsense2")
        except ImportError as error:
            raise missing(f"camera realsense:{serial}", "real", error) from error
        self._serial = serial
        self._pipeline, config = rs.pipeline(), rs.config()
        config.enable_device(serial)
        config.enable_stream(rs.stream.color, 640, 480, rs.format.rgb8, 30)
        config.enable_stream(rs.stream.depth, 640, 480, rs.format.z16, 30)
        try:
            profile = self._pipeline.start(config)
            self._align = rs.align(rs.stream.color)
            self._unit = profile.get_device().first_depth_sensor().get_depth_scale()
            inner = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
            for _ in range(_WARM_UP):  # the first takes long, and exposure finds its level
                self._pipeline.wait_for_frames(_FIRST_PICTURE)
        except RuntimeError as error:
            self.close()
            raise OSError(f"camera realsense:{serial}: {error}") from error
        # librealsense counts from the middle of the first pixel.
        self._lens = Lens((inner.fx, inner.fy), (inner.ppx + 0.5, inner.ppy + 0.5))

    def read(self) -> Frame:
        """The newest picture; see ``Stream``."""
        try:
            frames = self._pipeline.wait_for_frames(round(PATIENCE * 1000))
            while newer := self._pipeline.poll_for_frames():  # what waited is old
                frames = newer
            aligned = self._align.process(frames)
            depth = np.asanyarray(aligned.get_depth_frame().get_data()) * np.float32(self._unit)
            rgb = np.array(aligned.get_color_frame().get_data(), dtype=np.uint8)
        except RuntimeError as error:  # half a pair of pictures is one of them, too
            raise CameraLost(f"camera realsense:{self._serial}: {error}") from error
        return Frame(rgb, depth.astype(np.float32), self._lens)

    def close(self) -> None:
        """Let go of the camera."""
        with contextlib.suppress(RuntimeError):  # it was lost, or never begun
            self._pipeline.stop()


class Recorded:
    """Pictures of earlier, as ``record`` keeps them.

    Args:
        folder: Where they are. They come in the order of their names, and then the camera is lost.

    Raises:
        OSError: There are none.
        ValueError: They are not as they were recorded.
    """

    def __init__(self, folder: Path) -> None:
        names = sorted(file for file in folder.glob("*.png") if ".depth" not in file.suffixes)
        if not names:
            raise OSError(f"camera recorded:{folder}: there are no pictures")
        self._folder, self._left = folder, names[::-1]
        self._lens = parse_json(Lens, (folder / LENS).read_bytes(), str(folder / LENS))

    def read(self) -> Frame:
        """The next picture; see ``Stream``."""
        if not self._left:
            raise CameraLost(f"camera recorded:{self._folder}: there are no more pictures")
        file = self._left.pop()
        deep = file.with_suffix(".depth.png")
        rgb = np.ascontiguousarray(iio.imread(file)[..., :3])
        depth = np.zeros(rgb.shape[:2], np.float32)
        if deep.exists():
            depth[:] = iio.imread(deep) / 1000
        return Frame(rgb, depth, self._lens)

    def close(self) -> None:
        """There is nothing to let go of."""


def record(frame: Frame, folder: Path, number: int) -> None:
    """Keep a picture as ``Recorded`` shows it: ``NUMBER.png``, and its depth in 16-bit millimetres.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LENS, json.dumps(asdict(frame.lens)))
    iio.imwrite(folder / f"{number:06}.png", frame.rgb)
    millimetres = np.clip(np.round(frame.depth * 1000), 0, 65535).astype(np.uint16)
    iio.imwrite(folder / f"{number:06}.depth.png", millimetres)


def open_stream(source: str) -> Stream | None:
    """Where a ``LabCamera``'s pictures come from; None if they are rendered.

    Raises:
        ImportError: Something is not installed.
        OSError: There is no such camera.
        ValueError: Recorded pictures are not as they were.
    """
    kind, _, name = source.partition(":")
    if kind == "realsense":
        return RealSense(name)
    return Recorded(Path(name)) if kind == "recorded" else None


def widest(frame: Frame) -> float:
    """The largest vertical field of view, in degrees, that can be cut from a picture."""
    height, middle, focal = frame.rgb.shape[0], frame.lens.center[1], frame.lens.focal[1]
    return 2 * math.degrees(math.atan(min(middle, height - middle) / focal))


def check_covers(frame: Frame, camera: Camera) -> None:
    """Refuse a camera that sees less than a policy is to see.

    Raises:
        ValueError: It does.
    """
    sees = widest(frame)
    if camera.fov > sees + 0.1:
        raise ValueError(
            f"lab: cameras.{camera.name}.fov: {camera.fov:g} degrees are wanted, and the camera "
            f"sees {sees:.1f}; say so there, and policies and simulation see as much"
        )


def cut(frame: Frame, fov: float, size: tuple[int, int]) -> tuple[Any, Any]:
    """The part of a picture that a camera with this field of view and size (height, width) sees.

    Args:
        frame: A picture.
        fov: Vertical field of view in degrees.
        size: (height, width) in pixels.

    Returns:
        Colours, uint8 (H, W, 3), and depth, float32 (H, W, 1), m.
    """
    height, width = size
    focal = height / 2 / math.tan(math.radians(fov) / 2)
    scale = [focal / each for each in frame.lens.focal]  # pixels of the cut for one of the picture
    # Each pixel's middle, in the picture's pixels.
    columns = (np.arange(width) + 0.5 - width / 2) / scale[0] + frame.lens.center[0] - 0.5
    rows = (np.arange(height) + 0.5 - height / 2) / scale[1] + frame.lens.center[1] - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    # What is made smaller is blurred first, as a pixel sees all that it covers.
    blur = [max(0.0, 0.5 * (1 / s - 1)) for s in scale[::-1]]
    ndimage = scipy.ndimage
    channels = [
        ndimage.map_coordinates(
            ndimage.gaussian_filter(frame.rgb[..., channel].astype(np.float32), blur),
            grid,
            order=1,
            mode="nearest",
        )
        for channel in range(3)
    ]
    rgb = np.clip(np.round(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
    # A depth between two would be of neither.
    depth = ndimage.map_coordinates(frame.depth, grid, order=0, mode="constant", cval=0.0)
    return rgb, depth.astype(np.float32)[..., None]
