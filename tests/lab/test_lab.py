"""A laboratory: an operator, policies that act there, a rehearsal of it all without the robot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from common import write_json
from conftest import PROJECT, Command
from numpy.typing import NDArray

import komo_envs  # noqa: F401 - registers the ids
from benchmark.blind import order
from experts.dataset.format import DemoFile
from komo_envs.lab import Lab, LabCamera
from komo_envs.lab.cameras import CameraLost, Frame, Intrinsics, Recorded, record
from komo_envs.poses import look_at
from komo_envs.worlds.rai import RobotStopped, SimulationError
from policies import train

pytest.importorskip("cv2")
ENV = "KomoPush-v0"
DARK = Frame(
    np.zeros((48, 64, 3), np.uint8),
    np.zeros((48, 64), np.float32),
    Intrinsics(40.0, 40.0, 32.0, 24.0),
)
REHEARSAL: dict[str, Any] = {"robot": "rehearsal", "cameras": {"front": {"source": "rendered"}}}
SEEN = {"markers": {"puck": {"id": 40, "size": 0.04, "pose": [0, 0, 0.015, 1, 0, 0, 0]}}}


@pytest.fixture(scope="module", autouse=True)
def no_display() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)
        yield


class Quiet:
    """An operator who does as told, and calls everything a success."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.layouts: list[NDArray[np.uint8]] = []
        self.kept: list[str] = []

    def confirm(self, motion: str) -> None:
        self.heard.append(motion)

    def lay_out(self, picture: NDArray[np.uint8]) -> None:
        self.layouts.append(picture)

    def outcome(self) -> bool:
        return True

    def keep(self, moment: str, picture: NDArray[np.uint8]) -> None:
        self.kept.append(moment)


def make(lab: dict[str, Any], tmp_path: Path, operator: Quiet, **options: Any) -> Any:
    file = write_json(tmp_path / "lab.json", lab)
    options = {"obs_mode": "rgb", "control_mode": "joint", "image_size": 48, **options}
    return gym.make(
        ENV, backend="real", lab=file, operator=operator, disable_env_checker=True, **options
    )


def test_a_rehearsal_is_as_the_real_thing_will_be(tmp_path: Path) -> None:
    operator = Quiet()
    env = make(REHEARSAL, tmp_path, operator)
    _, info = env.reset(seed=0)
    [heard] = operator.heard
    assert "The arm is about to go to its home position, by the way that it came" in heard
    assert heard.startswith("puck: no marker. You will be asked how an episode ended.")
    assert operator.layouts[0].shape == (480, 640, 3)
    assert info["latency"] == 0.0
    assert not info["is_success"]
    assert np.isnan(info["distance"]), "nobody knows where the puck is"
    home = env.unwrapped.controller.command
    for _ in range(4):
        observation, *_ = env.step(home + np.array([0.4, 0, 0, 0, 0, 0, 0]))
    assert env.observation_space.contains(observation)
    assert env.unwrapped.world.query_outcome() is True
    env.reset(seed=1)
    assert operator.heard[1:] == ["The arm is about to go home, by the way that it came."]
    assert np.abs(env.unwrapped.state.q - home).max() < 0.01, "it has gone back"
    with pytest.raises(RobotStopped):
        env.unwrapped.world.step(home + 1)
    with pytest.raises(SimulationError):  # it stands until the next reset
        env.step(home)
    env.reset(seed=1)
    assert len(operator.heard) == 3
    env.close()

    blind = make(REHEARSAL, tmp_path, operator, obs_mode="state")
    with pytest.raises(ValueError, match="obs_mode='state': the lab does not see puck"):
        blind.reset(seed=0)
    seeing = make(REHEARSAL | SEEN, tmp_path, operator, obs_mode="state")
    observation, info = seeing.reset(seed=0)
    assert info["distance"] > 0
    assert seeing.unwrapped.world.query_outcome() is None
    seeing.close()


def test_an_interrupt_stops_it_on_its_way_home(tmp_path: Path) -> None:
    env = make(REHEARSAL, tmp_path, Quiet())
    env.reset(seed=0)
    home = env.unwrapped.controller.command
    for number in range(40):
        env.step(home + np.array([0.02 * number, 0, 0, 0, 0, 0, 0]))
    process = env.unwrapped.world.robot.process
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            env.reset(seed=1)
    finally:
        timer.cancel()
    assert time.monotonic() - started < 3, "the way home takes four seconds"
    assert process.returncode == 0, "it has ended by itself, and held the arm"
    env.close()


def test_a_dry_run_moves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = make(REHEARSAL | SEEN, tmp_path, Quiet(), dry_run=True)
    env.reset(seed=0)
    home = env.unwrapped.controller.command
    for _ in range(5):
        env.step(home + 0.3)
    assert np.abs(env.unwrapped.state.q - home).max() < 1e-3
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert said[0].startswith("would be sent to [")
    env.close()


def test_a_lost_camera_stops_it(tmp_path: Path) -> None:
    for number in range(4):  # to read the intrinsics, for the overlay, for the reset and a step
        record(DARK, tmp_path / "pictures", number)
    lab = {**REHEARSAL, "cameras": {"front": {"source": f"recorded:{tmp_path / 'pictures'}"}}}
    operator = Quiet()
    env = make(lab, tmp_path, operator)
    env.reset(seed=0)
    home = env.unwrapped.controller.command
    env.step(home)
    with pytest.raises(CameraLost):
        env.step(home)
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(home)
    env.unwrapped.world.save_images()
    assert operator.kept == ["start", "end"]
    env.close()


def run(answers: str, *arguments: object, module: str = "run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmark.{module}", *map(str, arguments)],
        input=answers,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=os.environ,
        check=False,
    )


def test_policies_are_scored_in_a_lab(tmp_path: Path) -> None:
    seeing = write_json(tmp_path / "seeing.json", REHEARSAL | SEEN)
    common = ("--env", ENV, "--backend", "real", "--no-report")
    out = tmp_path / "expert"
    words = ("--policy", "expert", "--episodes", 2, "--lab", seeing, "--out", out)
    done = run("\n" * 4, *common, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert (result["backend"], result["workers"]) == ("real", 1)
    assert result["episode_seconds"] is None, "nobody but the operator ends an episode"
    assert "Markers say where things are" in done.stdout
    assert result["lab"]["markers"]["puck"]["id"] == 40
    assert result["tasks"][ENV]["successes"] == 2
    assert len(list((out / "layouts").glob("layout-0*.png"))) == 2
    # Who is not seen is judged by the operator.
    blind = write_json(tmp_path / "blind.json", REHEARSAL)
    out = tmp_path / "blind"
    mine = ("--policy", "examples/my_policy.py:MyPolicy", "--trust-code", "--episodes", 1)
    done = run("\n\nmaybe\ny\n", *common, *mine, "--lab", blind, "--out", out)
    assert done.returncode == 0, done.stderr
    [episode] = json.loads((out / "result.json").read_text())["episodes"]
    assert (episode["success_at_end"], episode["distance"], episode["steps"]) == (True, None, 150)
    assert "Please say y or n." in done.stdout
    # A camera that is lost is no failure of the policy's.
    cameras = {"front": {"source": f"recorded:{tmp_path / 'few'}", "fov": 40}}
    few = write_json(tmp_path / "few.json", REHEARSAL | {"cameras": cameras})
    for number in range(5):
        record(DARK, tmp_path / "few", number)
    out = tmp_path / "lost"
    done = run("\n" * 4, *common, *mine, "--lab", few, "--out", out)
    assert done.returncode == 1
    assert "there are no more images; 0 finished episodes are kept" in done.stderr
    # Nobody there to ask: nothing moves.
    done = run("", *common, *mine, "--lab", blind, "--out", tmp_path / "nobody")
    assert done.returncode == 1
    assert "the operator is asked at the terminal, and there is none" in done.stderr


def test_a_lab_is_given_as_it_is_or_by_its_fields_or_by_their_file(tmp_path: Path) -> None:
    eye = look_at((0.9, 0.5, 1.3), (0.0, 0.3, 0.6))
    fields = REHEARSAL | {"cameras": {"front": {"source": "rendered", "pose": [*eye]}}}
    itself = Lab(robot="rehearsal", cameras={"front": LabCamera(source="rendered", pose=eye)})
    for lab in (itself, fields, write_json(tmp_path / "lab.json", fields)):
        env: Any = gym.make(ENV, lab=lab).unwrapped
        assert env.lab == itself
        assert env.cameras[0].pose == eye
    for wrong, why in (
        (3, "lab: 3: expected a Lab, its fields, or the file with them"),
        ({**fields, "address": {1}}, "lab: expected plain numbers, texts, lists and dicts"),
        ({**fields, "robot": "arm"}, "lab: robot: Input should be 'franka' or 'rehearsal'"),
    ):
        with pytest.raises(ValueError, match=why):
            gym.make(ENV, lab=wrong)


def test_a_student_learns_in_simulation_to_see_through_a_labs_cameras(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    eye = [*look_at((0.9, 0.5, 1.3), (0.0, 0.3, 0.6))]
    moved = {"source": "realsense:123", "pose": eye, "fov": 42}
    lab = write_json(tmp_path / "lab.json", REHEARSAL | SEEN | {"cameras": {"front": moved}})
    there, small = ("--lab", lab), ("--image-size", 48, "--episodes", 1)
    files = {name: tmp_path / f"{name}.h5" for name in ("plain", "lab", "drawn", "taken")}
    for name, words in {"plain": (), "lab": there}.items():
        done = command("experts.collect", "--env", ENV, *small, *words, "--out", files[name])
        assert done.returncode == 0, done.stderr
    done = command("experts.render", files["plain"], *there, "--out", files["drawn"])
    assert done.returncode == 0, done.stderr
    plain, seen, drawn = (DemoFile(files[name])[0] for name in ("plain", "lab", "drawn"))
    assert np.array_equal(plain.executed, seen.executed), "the expert sees no pictures"
    assert (plain.obs["pixels"] != seen.obs["pixels"]).mean() > 0.5
    assert np.array_equal(drawn.obs["pixels"], seen.obs["pixels"])
    env: Any = gym.make(ENV, obs_mode="rgb", lab=lab, image_size=48)
    assert np.array_equal(env.reset(seed=0)[0]["pixels"], seen.obs["pixels"][0])
    env.close()
    both = ("--demos", files["lab"], files["plain"], "--out", tmp_path / "student")
    done = command("policies.train", *both)
    assert done.returncode == 2
    assert "plain.h5: was rendered with {}; expected the same as" in done.stderr
    poses = []

    def watch(policy: Any, env: Any, seeds: Any) -> list[bool]:
        poses.append([*env.unwrapped.cameras[0].pose])
        return [True]

    monkeypatch.setattr(train, "successes", watch)
    words = {"demos": (files["lab"],), "steps": 10, "out": tmp_path / "student"}
    [job] = train.prepare(train.Arguments(**words))
    train.train(job, lambda *_, **__: None)
    assert poses == 3 * [eye]
    student = ("--policy", job.folder)
    words = (*student, *there, "--episodes", 1, "--first-seed", 9, "--out", files["taken"])
    done = command("policies.collect", *words)
    assert done.returncode == 0, done.stderr
    with DemoFile(files["lab"]) as one, DemoFile(files["taken"]) as other:
        assert one.env_args == other.env_args
        assert f"--lab {lab}" in other.path.with_suffix(".md").read_text()
    once = ("--env", ENV, "--episodes", 1, "--no-report", "--out", tmp_path / "out")
    done = command("benchmark.run", *student, *there, *once)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["lab"]["cameras"]["front"]["pose"] == eye
    # Of a stranger's laboratory, a file tells where its cameras are, and nothing that would be
    # opened.
    with DemoFile(files["lab"]) as file:
        head = file.env_args
    drawn = {"robot": "rehearsal", "cameras": {"front": {"source": "rendered"}}}
    named = write_json(tmp_path / "named.json", drawn)
    for strange in (str(named), drawn | {"cameras": {"front": {"source": "recorded:/etc"}}}):
        head["env_kwargs"]["lab"] = strange
        with h5py.File(files["lab"], "r+") as raw:
            raw["data"].attrs["env_args"] = json.dumps(head)
        with pytest.raises(ValueError, match="expected where cameras are, and no more"):
            DemoFile(files["lab"])


def test_two_policies_take_turns_and_nobody_is_told_which_acts(tmp_path: Path) -> None:
    turns = [*order(range(2000000, 2000050), 7)]
    assert turns != [*order(range(2000000, 2000050), 8)]
    assert sorted(turns) == [(which, seed) for which in (0, 1) for seed in range(2000000, 2000050)]
    assert 10 < sum(which for which, _ in turns[::2]) < 40, "either is the first"
    lab = write_json(tmp_path / "lab.json", REHEARSAL | SEEN)
    words = ("zero", "expert", "--env", ENV, "--lab", lab, "--out", tmp_path / "out")
    done = run("\n" * 4, *words, "--episodes", 1, module="blind")
    assert done.returncode == 0, done.stderr
    before, told, after = done.stdout.partition("Episode 2 of 2.")
    assert told
    assert "zero" not in before + done.stderr
    assert "expert" not in before + done.stderr
    assert f"On {ENV}, B solves 100.0 points more than A" in after
    results = [json.loads((tmp_path / "out" / name / "result.json").read_text()) for name in "ab"]
    assert [result["policy"]["name"] for result in results] == ["zero", "expert"]
    assert [result["tasks"][ENV]["successes"] for result in results] == [0, 1]
    assert results[0]["episodes"][0]["scene"] == results[1]["episodes"][0]["scene"]
    # All is there: nobody is asked anything.
    again = run("", *words, "--episodes", 1, module="blind")
    assert again.returncode == 0, again.stderr
    mine = ("examples/my_policy.py:MyPolicy", "--trust-code", *words[2:-1], tmp_path / "other")
    done = run("", "zero", *mine, "--episodes", 1, module="blind")
    assert done.returncode == 2
    assert not (tmp_path / "other").exists()
    assert "expected the same, for the robot would be let go of between them" in done.stderr
    done = run("", "zero", *words[:1], *words[2:], module="blind")
    assert done.returncode == 2
    assert done.stderr == "benchmark.blind: zero zero: expected two policies\n"


@pytest.mark.parametrize(
    ("lab", "why"),
    [
        (None, "backend='real': expected lab"),
        ({}, "robot: Field required"),
        ({"robot": "panda"}, "robot: Input should be 'franka' or 'rehearsal', got 'panda'"),
        ({"robot": "rehearsal", "cameras": {"top": {"source": "rendered"}}}, "cameras.top"),
        (
            {"robot": "rehearsal", "cameras": {"front": {"source": "webcam"}}},
            "cameras.front.source",
        ),
        (
            {
                **REHEARSAL,
                "markers": {"puck": {"id": 40, "size": 4, "pose": [0, 0, 0, 1, 0, 0, 0]}},
            },
            "markers.puck.size: Input should be less than 0.5, got 4",
        ),
        (
            {"robot": "franka", "cameras": {"front": {"source": "rendered", "pose": [0] * 7}}},
            "expected x, y, z and a unit quaternion",
        ),
    ],
)
def test_a_lab_that_is_wrong_is_one_line(
    tmp_path: Path, lab: dict[str, Any] | None, why: str
) -> None:
    words = ("--policy", "zero", "--env", ENV, "--backend", "real", "--episodes", 1)
    given = () if lab is None else ("--lab", write_json(tmp_path / "lab.json", lab))
    done = run("", *words, *given, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    record(DARK, pictures, 0)
    camera = {"source": f"recorded:{pictures}"}
    env = make({"robot": "franka", "cameras": {"front": camera}}, tmp_path, Quiet())
    with pytest.raises(ValueError, match=r"front\.pose: expected where it is, which python"):
        env.reset(seed=0)
    env.close()
    camera |= {"pose": look_at((0.0, 1.0, 1.4), (0.0, 0.2, 0.65))}
    env = make({"robot": "franka", "cameras": {"front": camera}}, tmp_path, Quiet())
    with pytest.raises(SimulationError, match="robotic's wheel has no driver of the robot itself"):
        env.reset(seed=0)
    env.close()
    for source, error in (("realsense:none", (ImportError, OSError)), ("recorded:none", OSError)):
        lab = {"robot": "rehearsal", "cameras": {"front": {"source": source}}}
        env = make(lab, tmp_path, Quiet())
        for _ in range(2):  # the second time is no other
            with pytest.raises(error, match=source):
                env.reset(seed=0)
        env.close()
    narrow = {"front": {"source": f"recorded:{pictures}", "fov": 80.0}}
    env = make({"robot": "rehearsal", "cameras": narrow}, tmp_path, Quiet())
    with pytest.raises(ValueError, match="80 degrees are wanted, and the camera sees 61"):
        env.reset(seed=0)
    env.close()
    with pytest.raises(OSError, match="there are no images"):
        Recorded(tmp_path / "nothing")


def test_an_expert_demonstrates_in_a_lab(tmp_path: Path) -> None:
    lab = write_json(tmp_path / "lab.json", REHEARSAL | SEEN)
    out = tmp_path / "lab.h5"
    small = ("--env", ENV, "--episodes", 2, "--image-size", 48, "--out", out)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experts.collect",
            "--backend",
            "real",
            "--lab",
            lab,
            *map(str, small),
        ],
        input="\n" * 6,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Lay the scene out as in" in done.stdout
    with DemoFile(out) as file:
        assert (file.backend, len(file)) == ("real", 2)
        assert all(demo.success for demo in file)
