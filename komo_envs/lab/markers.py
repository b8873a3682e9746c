"""ArUco markers: detection and poses. Needs OpenCV, of the extra ``real``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy  # whose parts are loaded when they are first asked for
from numpy.typing import NDArray

from komo_envs.entities import Array
from komo_envs.lab.cameras import Frame, Intrinsics
from komo_envs.lab.config import Marker
from komo_envs.poses import compose, invert, make_pose
from komo_envs.utils.extras import missing

BOARD = (5, 7)
"""Markers of the calibration board, along x and y."""
BOARD_MARKER, BOARD_GAP = 0.03, 0.01
"""Side of one of them and the gap between two, m: the board is 0.19 x 0.27 m, on a page of A4."""


def load_opencv() -> Any:
    """OpenCV.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise missing("the board", "real", error) from error
    return cv2


def dictionary() -> Any:
    """The markers' patterns."""
    cv2 = load_opencv()
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)


def find(rgb: NDArray[np.uint8]) -> dict[int, Array]:
    """Corners (4, 2) in pixels, clockwise from the top left, of each marker in an image, by id."""
    cv2 = load_opencv()
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(dictionary(), parameters)
    corners, ids, _ = detector.detectMarkers(np.ascontiguousarray(rgb))
    if ids is None:
        return {}
    pairs = zip(ids.ravel(), corners, strict=True)
    return {int(number): each.reshape(4, 2).astype(float) for number, each in pairs}


def square(size: float) -> Array:
    """The corners (4, 3) of a marker in its own frame, as ``find`` has them."""
    return np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]]) * size / 2


def locate(points: Array, pixels: Array, camera: Intrinsics, flat: bool) -> tuple[Array, float]:
    """Locate points that an image shows.

    Args:
        points: (N, 3) in their own frame, m.
        pixels: (N, 2) their positions in the image.
        camera: Intrinsics of the camera.
        flat: Whether they are the corners of one square.

    Returns:
        The pose (7,) of their frame in the camera's, and the mean distance in pixels of where they
        would then be seen from where they are.
    """
    cv2 = load_opencv()
    matrix = np.array(
        [[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1.0]]
    )
    method = cv2.SOLVEPNP_IPPE_SQUARE if flat else cv2.SOLVEPNP_ITERATIVE
    _, turn, shift = cv2.solvePnP(points, pixels, matrix, None, flags=method)
    again, _ = cv2.projectPoints(points, turn, shift, matrix, None)
    error = float(np.linalg.norm(again.reshape(-1, 2) - pixels, axis=1).mean())
    rotation = scipy.spatial.transform.Rotation.from_rotvec(turn.ravel())
    return np.array(make_pose(shift.ravel(), rotation)), error


def track(frame: Frame, camera: Any, markers: Mapping[str, Marker]) -> dict[str, Array]:
    """Poses (7,) in the world of the bodies whose markers an image shows, by name.

    Args:
        frame: The image.
        camera: Pose (7,) of the camera that took it, in the world.
        markers: By body.
    """
    seen, found = find(frame.rgb), {}
    for name, marker in markers.items():
        if marker.id in seen:
            pose, _ = locate(square(marker.size), seen[marker.id], frame.intrinsics, flat=True)
            there = compose(camera, pose)
            if marker.height is not None:  # along the line of sight, to that height
                eye = np.asarray(camera[:3])
                sight = there[:3] - eye
                there[:3] = eye + sight * (marker.height - eye[2]) / sight[2]
            found[name] = compose(there, invert(marker.pose))
    return found


def draw_board(pixels_per_metre: float) -> NDArray[np.uint8]:
    """The calibration board (H, W), grey, without a margin."""
    width, height = board_size()
    side = (round(width * pixels_per_metre), round(height * pixels_per_metre))
    return np.asarray(board().generateImage(side, marginSize=0, borderBits=1))


def board_size() -> tuple[float, float]:
    """Width (x) and height (y) in m of the board's markers together."""
    width, height = (n * (BOARD_MARKER + BOARD_GAP) - BOARD_GAP for n in BOARD)
    return width, height


def board() -> Any:
    """OpenCV's calibration board."""
    cv2 = load_opencv()
    return cv2.aruco.GridBoard(BOARD, BOARD_MARKER, BOARD_GAP, dictionary())


def locate_board(frame: Frame) -> tuple[Array, float]:
    """Locate the calibration board.

    Returns:
        Pose (7,) in the camera's frame of the board's middle: x to its right, y to its top as it is
        printed, z out of it; and the mean error in pixels.

    Raises:
        ValueError: Too few of its markers are seen.
    """
    seen = find(frame.rgb)
    by_id = dict(zip(board().getIds().ravel().tolist(), board().getObjPoints(), strict=True))
    ids = [i for i in seen if i in by_id]
    if len(ids) < 6:
        raise ValueError(f"{len(ids)} of the board's {len(by_id)} markers are seen")
    width, height = board_size()
    # OpenCV's corner of the board is its top left, with y down and z into it.
    points = np.concatenate([np.asarray(by_id[i], dtype=float) for i in ids])
    points = (points - [width / 2, height / 2, 0]) * [1, -1, -1]
    return locate(points, np.concatenate([seen[i] for i in ids]), frame.intrinsics, flat=False)
