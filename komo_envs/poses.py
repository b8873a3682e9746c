"""Poses ``[x, y, z, qw, qx, qy, qz]``, m: composed, inverted, and as vectors and matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # whose parts are loaded when they are first asked for
from numpy.typing import NDArray

from komo_envs.entities import Array, Pose

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation


def rotation(pose: Any) -> Rotation:
    """SciPy's rotation of a pose (7,), or those of poses (N, 7)."""
    return scipy.spatial.transform.Rotation.from_quat(np.asarray(pose)[..., 3:], scalar_first=True)


def make_pose(position: Sequence[float] | Array, orientation: Rotation) -> Pose:
    """The pose with a position (3,), m, and an orientation."""
    x, y, z = map(float, position)
    qw, qx, qy, qz = orientation.as_quat(scalar_first=True).tolist()
    return (x, y, z, qw, qx, qy, qz)


def compose(outer: Any, inner: Any) -> Array:
    """The pose (7,) in the world of a pose (7,) ``inner`` in a frame that is at ``outer`` (7,)."""
    turn = rotation(outer)
    position = np.asarray(outer[:3]) + turn.apply(inner[:3])
    return np.array(make_pose(position, turn * rotation(inner)))


def invert(pose: Any) -> Array:
    """The pose (7,) of the world in a frame that has this pose (7,) in the world."""
    turn = rotation(pose).inv()
    return np.array(make_pose(-turn.apply(pose[:3]), turn))


def look_at(
    eye: tuple[float, float, float],
    target: tuple[float, float, float],
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Pose:
    """Pose of a camera at ``eye`` that looks at ``target`` with ``up`` upward in its picture.

    Raises:
        ValueError: the camera would look along ``up``.
    """
    forward = np.subtract(target, eye).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        raise ValueError(f"look_at: from {eye} to {target} is along up, {up}")
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    x, y, z = map(float, eye)
    return (x, y, z, *matrix_to_quaternion(np.stack([right, down, forward], axis=1)))


def matrix_to_quaternion(matrix: Array) -> tuple[float, float, float, float]:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix of shape (3, 3)."""
    # The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix:
    # Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
    k = np.zeros((4, 4))  # only its lower triangle is read
    k[0, 0] = xx + yy + zz
    k[1, :2] = zy - yz, xx - yy - zz
    k[2, :3] = xz - zx, yx + xy, yy - xx - zz
    k[3, :] = yx - xy, zx + xz, zy + yz, zz - xx - yy
    w, x, y, z = np.linalg.eigh(k)[1][:, 3]
    sign = 1.0 if w >= 0 else -1.0
    return (float(sign * w), float(sign * x), float(sign * y), float(sign * z))


def axis(q: Array, index: int) -> Array:
    """The x, y or z axis (index 0, 1 or 2) of an orientation (w, x, y, z), as a vector (3,)."""
    w, x, y, z = q
    if index == 0:
        return np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    if index == 1:
        return np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def uprightness(q: Array) -> float:
    """Cosine of the angle between an orientation's z axis and the world's."""
    return float(1 - 2 * (q[1] ** 2 + q[2] ** 2))


def pose_matrices(poses: Array) -> NDArray[np.float32]:
    """(N, 3, 4) matrices [rotation | position] of (N, 7) poses."""
    x, y, z, w, i, j, k = np.asarray(poses, float).T
    matrices = np.array(
        [
            [1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w), x],
            [2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w), y],
            [2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j), z],
        ]
    )
    return matrices.transpose(2, 0, 1).astype(np.float32, order="C")
