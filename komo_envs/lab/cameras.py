"""Camera images: from a RealSense or from recorded files, cropped to a policy's field of view."""

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

INTRINSICS = "intrinsics.json"
"""The file of a recording that holds its ``Intrinsics``."""
PATIENCE = 0.3
"""Time without a new image after which a camera is lost, s."""
_WARM_UP = 30  # pictures
_FIRST_PICTURE = 15_000  # ms that a camera may take to give one, when it is begun


class CameraLost(RobotStopped):
    """A camera gives no images any more, so its robot stands still."""


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: focal lengths and principal point, pixels; x to the right, y down."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Frame:
    """An image of a camera, with its depth."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    depth: NDArray[np.float32]
    """(H, W) metres along the optical axis, 0 where nothing is seen; aligned with ``rgb``."""
    intrinsics: Intrinsics


class Stream(Protocol):
    """A source of images."""

    def read(self) -> Frame:
        """The newest image.

        Raises:
            CameraLost: There is none.
        """

    def close(self) -> None:
        """Let go of the camera."""


class RealSense:
    """A RealSense camera, 640 x 480 at 30 Hz, with its depth aligned to its colors.

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
        self._intrinsics = Intrinsics(inner.fx, inner.fy, inner.ppx + 0.5, inner.ppy + 0.5)

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
        return Frame(rgb, depth.astype(np.float32), self._intrinsics)

    def close(self) -> None:
        """Let go of the camera."""
        with contextlib.suppress(RuntimeError):  # it was lost, or never begun
            self._pipeline.stop()


class Recorded:
    """Recorded images, as ``record`` writes them.

    Args:
        folder: Their folder. They come in the order of their names; then the camera is lost.

    Raises:
        OSError: There are none.
        ValueError: They are not as they were recorded.
    """

    def __init__(self, folder: Path) -> None:
        names = sorted(file for file in folder.glob("*.png") if ".depth" not in file.suffixes)
        if not names:
            raise OSError(f"camera recorded:{folder}: there are no images")
        self._folder, self._left = folder, names[::-1]
        file = folder / INTRINSICS
        self._intrinsics = parse_json(Intrinsics, file.read_bytes(), str(file))

    def read(self) -> Frame:
        """The next image; see ``Stream``."""
        if not self._left:
            raise CameraLost(f"camera recorded:{self._folder}: there are no more images")
        file = self._left.pop()
        deep = file.with_suffix(".depth.png")
        rgb = np.ascontiguousarray(iio.imread(file)[..., :3])
        depth = np.zeros(rgb.shape[:2], np.float32)
        if deep.exists():
            depth[:] = iio.imread(deep) / 1000
        return Frame(rgb, depth, self._intrinsics)

    def close(self) -> None:
        """There is nothing to let go of."""


def record(frame: Frame, folder: Path, number: int) -> None:
    """Write an image as ``Recorded`` reads it: ``NUMBER.png``, and its depth in 16-bit millimetres.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / INTRINSICS, json.dumps(asdict(frame.intrinsics)))
    iio.imwrite(folder / f"{number:06}.png", frame.rgb)
    millimetres = np.clip(np.round(frame.depth * 1000), 0, 65535).astype(np.uint16)
    iio.imwrite(folder / f"{number:06}.depth.png", millimetres)


def open_stream(source: str) -> Stream | None:
    """The source of a ``LabCamera``'s images; None if they are rendered.

    Raises:
        ImportError: Something is not installed.
        OSError: There is no such camera.
        ValueError: Recorded images are damaged.
    """
    kind, _, name = source.partition(":")
    if kind == "realsense":
        return RealSense(name)
    return Recorded(Path(name)) if kind == "recorded" else None


def max_fov(frame: Frame) -> float:
    """The largest vertical field of view, in degrees, that can be cropped from an image."""
    height, middle = frame.rgb.shape[0], frame.intrinsics.cy
    return 2 * math.degrees(math.atan(min(middle, height - middle) / frame.intrinsics.fy))


def check_covers(frame: Frame, camera: Camera) -> None:
    """Refuse a camera that sees less than a policy is to see.

    Raises:
        ValueError: It does.
    """
    sees = max_fov(frame)
    if camera.fov > sees + 0.1:
        raise ValueError(
            f"lab: cameras.{camera.name}.fov: {camera.fov:g} degrees are wanted, and the camera "
            f"sees {sees:.1f}; say so there, and policies and simulation see as much"
        )


def crop_resize(frame: Frame, fov: float, size: tuple[int, int]) -> tuple[Any, Any]:
    """Crop and resize an image to the field of view and size of a camera.

    Args:
        frame: The image.
        fov: Vertical field of view in degrees.
        size: (height, width) in pixels.

    Returns:
        RGB, uint8 (H, W, 3), and depth, float32 (H, W, 1), m.
    """
    height, width = size
    focal = height / 2 / math.tan(math.radians(fov) / 2)
    camera = frame.intrinsics
    scale = [focal / camera.fx, focal / camera.fy]  # pixels of the crop per pixel of the frame
    # Each pixel's middle, in the picture's pixels.
    columns = (np.arange(width) + 0.5 - width / 2) / scale[0] + camera.cx - 0.5
    rows = (np.arange(height) + 0.5 - height / 2) / scale[1] + camera.cy - 0.5
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
