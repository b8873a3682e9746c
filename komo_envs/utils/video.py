"""Video files: frames are piped to ffmpeg."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

H264 = "-c:v libx264 -pix_fmt yuv420p"
"""Options of ffmpeg for videos that every player and browser plays. Sides must be even."""


class VideoWriter:
    """An MP4 file that frames are appended to. Without any frame there will be no file.

    A context: it finishes the file at its end.

    Args:
        path: Path of the file; one that is there is replaced.
        fps: Frames a second.
        encoding: Options of ffmpeg: the codec and what it is told.
    """

    def __init__(self, path: Path, fps: float, encoding: str = H264) -> None:
        self._path = path
        self._fps = fps
        self._encoding = encoding
        self._ffmpeg: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:  # else the first error is the one to tell
                raise

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3), all of one size."""
        if self._ffmpeg is None:
            self._ffmpeg = self._start(*frames.shape[1:3])
        assert self._ffmpeg.stdin is not None
        with suppress(BrokenPipeError):  # ``close`` says why it has ended
            self._ffmpeg.stdin.write(frames.tobytes())

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self._fps}"
        options = f"-v error -y {raw} -i - {self._encoding}"
        return subprocess.Popen(
            # An absolute path is no option and no URL, whatever is in it.
            [get_ffmpeg_exe(), *options.split(), str(self._path.absolute())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to answer
        )

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: It could not be written.
        """
        ffmpeg, self._ffmpeg = self._ffmpeg, None
        if ffmpeg is not None:
            _, said = ffmpeg.communicate()
            if ffmpeg.returncode:
                raise OSError(f"{self._path.name}: ffmpeg: {said.decode(errors='replace')}")


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write frames (H, W, 3), all of one size, into an MP4 file.

    Args:
        path: Path of the file; one that is there is replaced.
        frames: One frame or more.
        fps: Frames a second.

    Raises:
        OSError: It could not be written.
    """
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(frame[None])
