"""Find where a camera is: ``python -m komo_envs.lab.calibrate lab.json --at 0 0.3``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import tyro
from scipy.spatial.transform import Rotation

from komo_envs.entities import ROBOT_LINKS, Array, Camera
from komo_envs.env import KomoEnv
from komo_envs.lab.cameras import CameraLost, max_fov, open_stream
from komo_envs.lab.config import Lab, load_lab, save_lab
from komo_envs.lab.markers import (
    BOARD_MARKER,
    board_size,
    draw_board,
    locate_board,
)
from komo_envs.poses import compose, invert, make_pose, rotation
from komo_envs.registration import ENTRY_POINT, find_spec
from komo_envs.tasks.base import TABLE_TOP
from komo_envs.utils.cli import fail, parse
from komo_envs.worlds.panda import JOINT_HIGH, JOINT_LOW, Kinematics

MODULE = "komo_envs.lab.calibrate"
DOTS = 300 / 0.0254  # a metre, in print
MARGIN = 0.01  # m of white around the board
WORST = 1.0
"""Pixels by which corners are seen off where they should be, in the mean: beyond, the board is not
flat, or was printed in another size, or the camera's intrinsics are wrong."""


@dataclass(frozen=True)
class Arguments:
    """Find where a camera of a laboratory is, from a printed board at a known place."""

    lab: Annotated[Path, tyro.conf.Positional]
    """The file of the laboratory. The camera's pose is written into it, and its field of view if
    that is missing."""
    camera: str = "front"
    """Name of the camera in that file."""
    env: str = "KomoPush-v0"
    """Environment with a camera of that name, which tells whether the robot carries it."""
    joints: tuple[float, float, float, float, float, float, float] | None = None
    """Joint positions of the arm while a camera that the robot carries looks, rad."""
    at: tuple[float, float] = (0.0, 0.3)
    """Position of the board's middle on the table, x and y in the world, m. The robot's base stands
    at (0, -0.2) and looks along y."""
    yaw: float = 0.0
    """Rotation of the board about z, degrees; at 0 its top points along y."""
    height: float = TABLE_TOP
    """Height of the board, z in the world, m; the table's if not given."""
    images: int = 10
    """Number of images to average."""
    draw: Path | None = None
    """Write the board to print, a PNG of 300 dots an inch, to this file, and do nothing else."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.draw is not None:
            draw(arguments.draw)
            return
        lab = load_lab(arguments.lab)
        if arguments.camera not in lab.cameras:
            known = ", ".join(lab.cameras) or "none"
            raise ValueError(f"--camera {arguments.camera}: {arguments.lab} has {known}")
        camera = camera_of(arguments)
        if arguments.images < 1:
            raise ValueError(f"--images {arguments.images}: expected 1 or more")
        calibrated, error = calibrate(lab, arguments, camera.fov)
        save_lab(calibrated, arguments.lab)
    except (ValueError, ImportError, OSError, CameraLost) as error_:
        fail(MODULE, error_)
    pose = calibrated.cameras[arguments.camera].pose
    assert pose is not None
    frame = "the world" if arguments.joints is None else "the hand"
    print(
        f"{arguments.camera} is at ({', '.join(f'{x:.3f}' for x in pose[:3])}) m of {frame}; the "
        f"board's corners are seen {error:.2f} pixels off, in the mean. {arguments.lab} has it now."
    )


def draw(path: Path) -> None:
    """Write the board, with a margin.

    Raises:
        OSError: It cannot be written.
    """
    picture = np.pad(draw_board(DOTS), round(MARGIN * DOTS), constant_values=255)
    iio.imwrite(path, picture, dpi=(300, 300))
    width, height = board_size()
    print(
        f"{path}: print it at 300 dots an inch, unscaled: a marker is {BOARD_MARKER * 100:g} cm "
        f"wide, all together are {width * 100:g} x {height * 100:g} cm."
    )


def camera_of(arguments: Arguments) -> Camera:
    """The env's camera of that name, with which the joints go.

    Raises:
        ValueError: The message names what is wrong.
    """
    try:
        spec = find_spec(arguments.env)
    except ValueError as error:
        raise ValueError(f"--env {error}") from error
    if spec.entry_point != ENTRY_POINT:
        raise ValueError(f"--env {arguments.env}: expected an environment of this kind")
    env = gym.make(arguments.env, disable_env_checker=True).unwrapped
    assert isinstance(env, KomoEnv)
    cameras = {camera.name: camera for camera in env.task.cameras}
    env.close()
    name, joints = arguments.camera, arguments.joints
    if name not in cameras:
        raise ValueError(f"--camera {name}: {arguments.env} has {', '.join(cameras)}")
    if (cameras[name].parent is None) != (joints is None):
        expected = "none, for it stands still" if joints else "those of the arm, which carries it"
        raise ValueError(f"--joints: expected {expected}, with --camera {name}")
    if (
        joints is not None
        and not ((np.array(joints) >= JOINT_LOW) & (np.array(joints) <= JOINT_HIGH)).all()
    ):
        raise ValueError(
            f"--joints {' '.join(map(str, joints))}: expected each within the arm's limits, rad, "
            f"{JOINT_LOW.tolist()} to {JOINT_HIGH.tolist()}"
        )
    return cameras[name]


def calibrate(lab: Lab, arguments: Arguments, fov: float) -> tuple[Lab, float]:
    """The laboratory with the camera where it is, and the mean error in pixels.

    Args:
        lab: The laboratory without it.
        arguments: The command's arguments.
        fov: Field of view of the env's camera, degrees. Where the real camera sees less and its
            field of view is not given, the real one is written down.

    Raises:
        ValueError: The board is not seen, or not as it should be.
        OSError: The camera cannot be read.
        ImportError: Something is not installed.
    """
    camera = lab.cameras[arguments.camera]
    stream = open_stream(camera.source)
    if stream is None:
        raise ValueError(f"--camera {arguments.camera}: its images are rendered: nothing to find")
    turn = Rotation.from_euler("z", arguments.yaw, degrees=True)
    board = np.array(make_pose([*arguments.at, arguments.height], turn))
    if arguments.joints is not None:  # a carried camera's pose is in the frame of the hand
        board = compose(invert(hand(np.array(arguments.joints))), board)
    poses, errors = [], []
    try:
        for _ in range(arguments.images):
            frame = stream.read()
            seen, error = locate_board(frame)
            poses.append(compose(board, invert(seen)))
            errors.append(error)
    finally:
        stream.close()
    error = float(np.mean(errors))
    if error > WORST:
        raise ValueError(
            f"the board's corners are seen {error:.1f} pixels off, expected {WORST:g} at most: is "
            "it flat, and printed unscaled?"
        )
    mean = make_pose(np.mean(poses, axis=0)[:3], rotation(poses).mean())
    if camera.fov is None and (sees := max_fov(frame)) < fov:
        camera = replace(camera, fov=math.floor(10 * sees) / 10)
    found = replace(camera, pose=mean)
    return replace(lab, cameras={**lab.cameras, arguments.camera: found}), error


def hand(q: Array) -> Array:
    """Pose (7,) of the hand in the world, with the arm's joints at ``q`` (7,), rad."""
    _, links = Kinematics((0, 0, 0, 1, 0, 0, 0)).poses(q)
    return links[ROBOT_LINKS.index("hand")]


if __name__ == "__main__":
    main()
