"""ArUco markers: where they are, seen by a camera. Needs OpenCV, of the extra ``real``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from komo_envs.entities import Array
from komo_envs.lab.cameras import Frame, Lens
from komo_envs.lab.config import Marker
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
    """Corners (4, 2) in pixels, clockwise from the top left, of each marker in a picture, by id."""
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


def locate(points: Array, pixels: Array, lens: Lens, flat: bool) -> tuple[Array, float]:
    """Where points that a picture shows are.

    Args:
        points: (N, 3) in their own frame, m.
        pixels: (N, 2) where the picture shows them.
        lens: Of the camera.
        flat: Whether they are the corners of one square.

    Returns:
        The pose (7,) of their frame in the camera's, and the mean distance in pixels of where they
        would then be seen from where they are.
    """
    cv2 = load_opencv()
    (fx, fy), (cx, cy) = lens.focal, lens.center
    matrix = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])
    method = cv2.SOLVEPNP_IPPE_SQUARE if flat else cv2.SOLVEPNP_ITERATIVE
    _, turn, shift = cv2.solvePnP(points, pixels, matrix, None, flags=method)
    again, _ = cv2.projectPoints(points, turn, shift, matrix, None)
    error = float(np.linalg.norm(again.reshape(-1, 2) - pixels, axis=1).mean())
    quaternion = Rotation.from_rotvec(turn.ravel()).as_quat(scalar_first=True)
    return np.concatenate([shift.ravel(), quaternion]), error


def compose(*poses: Any) -> Array:
    """The pose (7,) that comes of one pose in the frame of the one before, and so on."""
    position, turn = np.zeros(3), Rotation.identity()
    for pose in poses:
        position = position + turn.apply(pose[:3])
        turn = turn * Rotation.from_quat(pose[3:], scalar_first=True)
    return np.concatenate([position, turn.as_quat(scalar_first=True)])


def invert(pose: Any) -> Array:
    """The pose (7,) of the world in a frame that has this pose (7,) in the world."""
    turn = Rotation.from_quat(pose[3:], scalar_first=True).inv()
    return np.concatenate([-turn.apply(pose[:3]), turn.as_quat(scalar_first=True)])


def track(frame: Frame, camera: Any, markers: Mapping[str, Marker]) -> dict[str, Array]:
    """Poses (7,) in the world of the bodies whose markers a picture shows, by name.

    Args:
        frame: A picture.
        camera: Pose (7,) of the camera that took it, in the world.
        markers: By body.
    """
    seen, found = find(frame.rgb), {}
    for name, marker in markers.items():
        if marker.id in seen:
            pose, _ = locate(square(marker.size), seen[marker.id], frame.lens, flat=True)
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
    """Where the calibration board is.

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
    return locate(points, np.concatenate([seen[i] for i in ids]), frame.lens, flat=False)
