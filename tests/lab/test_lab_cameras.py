"""What a laboratory's cameras see: where they are, and where what wears a marker is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
from common import write_json
from conftest import Command
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import komo_envs  # noqa: F401 - registers the ids
from komo_envs.entities import ROBOT_LINKS, Camera
from komo_envs.lab import Lab, LabCamera, Marker, load_lab
from komo_envs.lab.cameras import CameraLost, Frame, Intrinsics, crop_resize, record
from komo_envs.lab.markers import compose, draw_board
from komo_envs.lab.perception import Perception
from komo_envs.poses import look_at

cv2 = pytest.importorskip("cv2")
ENV = "KomoPush-v0"
CAMERA = Intrinsics(612.0, 610.0, 322.0, 238.0)
"""Much like a RealSense's."""


def photograph(flat: NDArray[np.uint8], size: tuple[float, float], pose: Any, eye: Any) -> Frame:
    """What a camera at ``eye`` sees of a flat picture (H, W) of that size (x, y), m."""
    fine = 4  # pixels in each direction for one of the photograph
    x, y = size[0] / 2, size[1] / 2
    corners = np.array([[-x, y, 0], [x, y, 0], [x, -y, 0], [-x, -y, 0]])
    world = Rotation.from_quat(pose[3:], scalar_first=True).apply(corners) + pose[:3]
    turn = Rotation.from_quat(eye[3:], scalar_first=True).inv()
    seen = turn.apply(world - np.asarray(eye[:3]))
    pixels = (
        fine * (seen[:, :2] / seen[:, 2:] * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]) - 0.5
    )
    height, width = flat.shape
    there = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    way = cv2.getPerspectiveTransform(there.astype(np.float32), pixels.astype(np.float32))
    large = cv2.warpPerspective(flat, way, (640 * fine, 480 * fine), borderValue=130)
    grey = cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA)
    return Frame(np.repeat(grey[..., None], 3, axis=2), np.zeros((480, 640), np.float32), CAMERA)


def test_a_camera_is_found_and_the_simulation_sees_through_it(
    tmp_path: Path, command: Command
) -> None:
    board = tmp_path / "board.png"
    lab = {"robot": "franka", "cameras": {"front": {"source": f"recorded:{tmp_path / 'pictures'}"}}}
    file = write_json(tmp_path / "lab.json", lab)
    done = command("komo_envs.lab.calibrate", file, "--draw", board)
    assert done.returncode == 0, done.stderr
    page = iio.imread(board)
    size = (page.shape[1] / 300 * 0.0254, page.shape[0] / 300 * 0.0254)
    eye = look_at((0.15, 1.2, 1.45), (0.0, 0.3, 0.65))
    turn = Rotation.from_euler("z", 30, degrees=True).as_quat(scalar_first=True)
    frame = photograph(page, size, [0.05, 0.35, 0.65, *turn], eye)
    for number in range(3):
        record(frame, tmp_path / "pictures", number)
    at = ("--at", 0.05, 0.35, "--yaw", 30, "--images", 3)
    done = command("komo_envs.lab.calibrate", file, *at)
    assert done.returncode == 0, done.stderr
    assert "front is at (0.15" in done.stdout
    found = load_lab(file).cameras["front"].pose
    assert found is not None
    assert np.abs(np.subtract(found[:3], eye[:3])).max() < 0.003
    off = Rotation.from_quat(found[3:], scalar_first=True).inv() * Rotation.from_quat(
        eye[3:], scalar_first=True
    )
    assert np.degrees(off.magnitude()) < 0.2
    env: Any = gym.make(ENV, obs_mode="rgb", lab=file)
    assert env.unwrapped.cameras[0].pose == found
    plain: Any = gym.make(ENV, obs_mode="rgb")
    one, other = (each.reset(seed=0)[0]["pixels"] for each in (env, plain))
    assert np.abs(one.astype(int) - other).mean() > 5
    env.close()
    plain.close()

    away = write_json(tmp_path / "away.json", lab)
    record(
        Frame(np.full((480, 640, 3), 130, np.uint8), frame.depth, CAMERA),
        tmp_path / "pictures",
        0,
    )
    done = command("komo_envs.lab.calibrate", away, *at)
    assert done.returncode == 2
    assert done.stderr == "komo_envs.lab.calibrate: 0 of the board's 35 markers are seen\n"
    assert load_lab(away).cameras["front"].pose is None


def test_a_carried_camera_is_found(tmp_path: Path, command: Command) -> None:
    source = f"recorded:{tmp_path / 'pictures'}"
    cameras = {"wrist": {"source": source}}
    file = write_json(tmp_path / "lab.json", {"robot": "franka", "cameras": cameras})
    env: Any = gym.make(ENV, obs_mode="rgb", cameras=("wrist",))
    env.reset(seed=0)
    inner = env.unwrapped
    [camera] = inner.cameras
    q = inner.state.q
    hand = inner.state.link_poses[ROBOT_LINKS.index("hand")]
    off = Rotation.from_euler("xyz", [3, -2, 4], degrees=True).as_quat(scalar_first=True)
    here = compose(camera.pose, [0.01, -0.005, 0.008, *off])  # not quite where it should be
    page = np.pad(draw_board(4000), 40, constant_values=255)
    size = (page.shape[1] / 4000, page.shape[0] / 4000)
    turn = Rotation.from_euler("z", 90, degrees=True).as_quat(scalar_first=True)
    board = [*inner.state.link_poses[-1][:2], 0.65, *turn]
    record(photograph(page, size, board, compose(hand, here)), tmp_path / "pictures", 0)
    at = ("--camera", "wrist", "--images", 1, "--at", board[0], board[1], "--yaw", 90)
    for words, reason in (
        (at, "--joints: expected those of the arm, which carries it, with --camera wrist"),
        ((*at, "--joints", *q[:6], 7), "expected each within the arm's limits"),
    ):
        done = command("komo_envs.lab.calibrate", file, *words)
        assert done.returncode == 2
        assert reason in done.stderr
        assert load_lab(file).cameras["wrist"].pose is None
    done = command("komo_envs.lab.calibrate", file, *at, "--joints", *q)
    assert done.returncode == 0, done.stderr
    found = load_lab(file).cameras["wrist"].pose
    assert found is not None
    assert np.abs(np.subtract(found[:3], here[:3])).max() < 0.003
    env.close()


@pytest.mark.parametrize(("height", "accuracy"), [(None, 0.02), (0.68, 0.002)])
def test_what_wears_a_marker_is_seen(tmp_path: Path, height: float | None, accuracy: float) -> None:
    marker = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), 40, 400
    )
    marker = np.pad(marker, 100, constant_values=255)
    eye = look_at((0.1, 1.0, 1.3), (0.0, 0.35, 0.65))
    lab = Lab(
        "franka",
        cameras={"front": LabCamera(f"recorded:{tmp_path}", eye)},
        markers={"puck": Marker(40, 0.04, (0, 0, 0.015, 1, 0, 0, 0), height)},
    )
    env: Any = gym.make(ENV)
    env.reset(seed=0)
    state, bodies = env.unwrapped.state, env.unwrapped.bodies
    index = [body.name for body in bodies].index("puck")
    turn = Rotation.from_euler("z", 50, degrees=True).as_quat(scalar_first=True)
    for number, x in enumerate((0.10, 0.14)):
        page = [x, 0.4, 0.68, *turn]
        record(photograph(marker, (0.06, 0.06), page, eye), tmp_path, number)
    record(Frame(np.full((480, 640, 3), 130, np.uint8), np.zeros((480, 640)), CAMERA), tmp_path, 2)
    cameras = lab.calibrated(env.unwrapped.task.cameras)
    live = Perception(lab, cameras, [])
    assert live.without_marker(bodies) == []
    live.forget()
    for x in (0.10, 0.14):
        seen = live.look(state, bodies)
        assert np.abs(seen.body_poses[index, :3] - [x, 0.4, 0.665]).max() < accuracy
        off = Rotation.from_quat(seen.body_poses[index, 3:], scalar_first=True)
        assert abs(off.as_euler("zyx", degrees=True)[0] - 50) < 2
    assert seen.body_velocities[index, 0] > 0
    off = np.linalg.norm(state.body_poses[index, :2] - [0.14, 0.4])
    assert live.misplaced(state, state, bodies) == ""
    found = re.fullmatch(r"puck is (.*) cm from its place", live.misplaced(seen, state, bodies))
    assert found
    assert abs(float(found[1]) / 100 - off) < accuracy
    # Hidden, it may move, and so does not rest; a policy is told where it was.
    hidden = live.look(state, bodies)
    assert np.array_equal(hidden.body_poses, seen.body_poses)
    inner = env.unwrapped
    inner.backend = "real"
    inner._arrive(hidden)
    observation = inner.observe("state")
    assert env.observation_space.contains(observation)
    assert observation["achieved_goal"][2] == 0
    with pytest.raises(CameraLost, match="there are no more images"):
        live.look(state, bodies)
    env.close()


def test_a_live_picture_is_cut_to_what_the_policy_sees() -> None:
    env: Any = gym.make(ENV, obs_mode="rgbd")
    observation, _ = env.reset(seed=0)
    inner = env.unwrapped
    [camera] = inner.cameras
    wide = Camera("wide", camera.pose, fov=70.0)
    [image] = inner.render_images((wide,), (480, 640))
    focal = 240 / np.tan(np.radians(35))
    frame = Frame(image.rgb, image.depth[..., 0], Intrinsics(focal, focal, 320.0, 240.0))
    rgb, depth = crop_resize(frame, camera.fov, (96, 96))
    assert rgb.shape == observation["pixels"].shape
    assert (rgb.dtype, depth.dtype) == (np.uint8, np.float32)
    assert np.abs(rgb.astype(int) - observation["pixels"]).mean() < 4
    near = np.abs(depth - observation["depth"]) < 0.01
    assert near.mean() > 0.97
    env.close()
