"""Demonstrations: collected whatever happens, replayed bit for bit, and rerendered."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
from common import remount, small_disk, wait_for, workers_of
from conftest import PROJECT, Command

from experts import make_expert
from experts.dataset.card import command as command_of
from experts.dataset.format import VERSION, DemoFile, flatten, unpack_state
from experts.dataset.recorder import Recipe, Recorder
from experts.komo.route import LEFT, RIGHT
from komo_envs.control import CONTROL_MODES

SMALL = ("--image-size", "16")


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experts.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def collect(out: Path, *arguments: object, env: str = "KomoPush-v0", episodes: int = 8) -> str:
    done = run("collect", "--env", env, "--episodes", episodes, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight demonstrations of push, collected undisturbed by one worker."""
    file = tmp_path_factory.mktemp("push") / "push.h5"
    said = collect(file, *SMALL, "--workers", 1)
    assert "8 demonstrations of KomoPush-v0, 8 succeed" in said
    return file


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations of the hard shelf, from two cameras, disturbed and diverse."""
    file = tmp_path_factory.mktemp("shelf") / "shelf.h5"
    options = ("--cameras", "front", "wrist", "--noise", "0.001", "--diverse", "--first-seed", 40)
    collect(file, *SMALL, *options, env="KomoShelfHard-v0", episodes=3)
    return file


def test_a_demonstration_is_what_the_env_gave(push: Path) -> None:
    with DemoFile(push) as file:
        assert [demo.seed for demo in file] == list(range(8))
        demo = file[3]
        env = file.make_env()
    inner: Any = env.unwrapped
    observation, info = env.reset(seed=3)
    assert info["scene"] == demo.scene
    for step in range(len(demo)):
        observed = {**flatten(observation), **flatten(inner.observe("state"))}
        assert set(observed) == set(demo.obs)
        assert all(np.array_equal(demo.obs[name][step], observed[name]) for name in observed)
        assert all(demo.obs[name].dtype == observed[name].dtype for name in observed)
        in_metres = demo.obs["depth"][step] / 1000
        assert np.abs(in_metres - observation["depth"]).max() <= 0.0005 + 1e-6
        assert np.array_equal(unpack_state(demo.states[step]).body_poses, inner.state.body_poses)
        observation, reward, terminated, _, info = env.step(demo.executed[step])
        assert reward == demo.rewards[step]
        assert info["is_success"] == demo.successes[step]
        terms = {name: values[step] for name, values in demo.reward_terms.items()}
        assert info["reward_terms"] == terms
    assert terminated
    assert demo.terminated
    assert demo.success
    assert demo.actions["ee"].shape == (len(demo), 3)
    assert demo.actions["joint"].shape == (len(demo), 7)
    assert np.array_equal(demo.executed, demo.actions["ee"]), "the expert was not disturbed"
    env.close()


def test_the_layout_is_robomimics(push: Path) -> None:
    with h5py.File(push) as file:
        data, demo = file["data"], file["data/demo_0"]
        arguments = json.loads(data.attrs["env_args"])
        assert arguments["env_name"] == "KomoPush-v0"
        steps = [data[f"demo_{i}"].attrs["num_samples"] for i in range(len(data))]
        assert data.attrs["total"] == sum(steps)
        for name in ("actions", "rewards", "dones", "states", "obs/pixels", "obs/agent_pos"):
            assert len(demo[name]) == steps[0]
        assert demo["actions"] == demo["action_dict/ee"], "the same data, and no copy"
        assert demo["obs/pixels"].dtype == np.uint8
        assert demo["obs/depth"].dtype == np.uint16
        assert demo["dones"][:].tolist() == [False] * (steps[0] - 1) + [True]
        assert file["mask/successful"][:].tolist() == [f"demo_{i}".encode() for i in range(8)]


def test_killed_at_any_moment_it_ends_with_the_same_file(push: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "push.h5", tmp_path / "push.h5.parts"
    arguments = ("--env", "KomoPush-v0", "--episodes", 8, *SMALL, "--out", out)
    command = [sys.executable, "-m", "experts.collect", *map(str, arguments), "--workers", "2"]
    for count, victim in ((1, "run"), (3, "run"), (5, "worker")):
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        # The run before may have done so many already, so that no worker is up yet.
        wait_for(
            lambda count=count, run=process.pid: (
                len(list(parts.glob("[0-9]*.h5"))) >= count and workers_of(run)
            )
        )
        assert not out.exists()
        os.kill(process.pid if victim == "run" else workers_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode == 0) == (victim == "worker"), errors
        if count == 1:  # a part that a power cut has cut, and one that was being written
            next(parts.glob("[0-9]*.h5")).write_bytes(b"half")
            (parts / ".7.h5.1.h5").write_bytes(b"half")
    assert sha256(out) == sha256(push)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "push.h5",
        "push.md",
        "push.mp4",
        "push.png",
    ]


def test_interrupted_it_says_how_to_go_on(tmp_path: Path, push: Path) -> None:
    out, parts = tmp_path / "push.h5", tmp_path / "push.h5.parts"
    arguments = ("--env", "KomoPush-v0", "--episodes", 8, *SMALL, "--out", out)
    command = [sys.executable, "-m", "experts.collect", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(parts.glob("[0-9]*.h5"))) >= 2)
    for worker in workers_of(process.pid):  # so that it does not end meanwhile
        os.kill(worker, signal.SIGSTOP)
    busy = run("collect", *arguments)
    assert busy.returncode == 2
    assert "another run is writing there" in busy.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "demonstrations are kept, and the same command goes on" in errors.splitlines()[-1]
    kept = len(list(parts.glob("[0-9]*.h5")))
    other = run("collect", *arguments[:-2], "--noise", "0.002", "--out", out)
    assert other.returncode == 2
    assert "holds demonstrations with other recipe: {'noise': 0.0} there" in other.stderr
    assert len(list(parts.glob("[0-9]*.h5"))) == kept, "nothing is damaged"
    collect(out, *SMALL)
    assert sha256(out) == sha256(push)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path, push: Path) -> None:
    arguments = ("--env", "KomoPush-v0", "--episodes", 8, *SMALL, "--workers", 1)
    with small_disk(tmp_path / "disk", "256k") as disk:
        out = disk / "push.h5"
        done = run("collect", *arguments, "--out", out)
        assert done.returncode == 1
        said = done.stderr.splitlines()[-1]
        assert said.startswith("experts.collect: stopped: seed ")
        assert "No space left on device" in said
        assert "Traceback" not in done.stderr
        assert not out.exists()
        kept = list((disk / "push.h5.parts").glob("[0-9]*.h5"))
        assert kept
        for part in kept:
            with h5py.File(part) as file:
                assert file["demo"].attrs["num_samples"] > 10
        remount(disk, "size=64m")
        done = run("collect", *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        assert sha256(out) == sha256(push)


def test_a_finished_file_is_left_as_it_is(push: Path) -> None:
    before = sha256(push)
    assert "8 demonstrations" in collect(push, *SMALL)
    arguments = ("--env", "KomoPush-v0", *SMALL, "--out", push)
    for changed, reason in [
        (("--episodes", 9), "other recipe: {'seeds': [0, 8]} there, {'seeds': [0, 9]} here"),
        (("--episodes", 8, "--control-mode", "joint"), "other env_args"),
    ]:
        done = run("collect", *arguments, *changed)
        assert done.returncode == 2
        assert reason in done.stderr
    other = run("collect", "--env", "KomoShelf-v0", "--episodes", 8, *SMALL, "--out", push)
    assert other.returncode == 2
    assert "holds demonstrations with other env_args: {'env_name': 'KomoPush-v0'" in other.stderr
    assert sha256(push) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--env", "KomoLift-v0"), "--env KomoLift-v0: no such environment"),
        (("--env", "KomoPush-v0", "--out", "x.hdf5"), "--out x.hdf5: expected a name that ends in"),
        (("--env", "KomoPush-v0", "--out", "."), "--out .: expected a name that ends in .h5"),
        (("--env", "KomoPush-v0", "--out", "/proc/x.h5"), "--out /proc/x.h5: cannot be written to"),
        (("--env", "KomoPush-v0", "--episodes", "0"), "--episodes 0: expected 1 or more"),
        (("--env", "KomoPush-v0", "--noise", "nan"), "--noise nan: expected 0 to 0.05, in m"),
        (("--env", "KomoPush-v0", "--noise", "-1"), "--noise -1.0: expected 0 to 0.05, in m"),
        (("--env", "KomoPush-v0", "--first-seed", "999999"), "expected seeds from 0 to 999999"),
        (("--env", "KomoPush-v0", "--first-seed", "1000000"), "those of training"),
        (("--env", "KomoPush-v0", "--cameras", "side"), "cameras: 'side' is unknown"),
        (("--env", "KomoPush-v0", "--control-mode", "x"), "control_mode: 'x' is unknown"),
        (("--env", "KomoPush-v0", "--image-size", "1"), "image_size: 1; expected"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, command: Command
) -> None:
    out = () if "--out" in arguments else ("--out", tmp_path / "x.h5")
    episodes = () if "--episodes" in arguments else ("--episodes", 2)
    done = command("experts.collect", *arguments, *episodes, *out)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_nobodys_files_are_lost(tmp_path: Path, push: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    small = ("--env", "KomoPush-v0", "--episodes", 1, *SMALL)
    for module, arguments in (("collect", small), ("render", (push,))):
        done = run(module, *arguments, "--out", tmp_path / "notes.h5")
        assert done.returncode == 2
        assert f"{notes} is there already" in done.stderr
    folder = tmp_path / "other.h5.parts"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    done = run("collect", *small, "--out", tmp_path / "other.h5")
    assert done.returncode == 2
    assert f"{folder} is there, and not ours" in done.stderr
    assert notes.read_text() == (folder / "mine.txt").read_text() == "mine"
    setup = tmp_path / "cut.h5.parts" / "setup.json"
    setup.parent.mkdir()
    setup.write_text("")
    done = run("collect", *small, "--out", tmp_path / "cut.h5")
    assert done.returncode == 2
    assert f"{setup} is damaged" in done.stderr


def elsewhere(kind: str, group: h5py.Group, secret: Path) -> None:
    """Let the rewards of a demonstration be something of another file, or none."""
    if kind == "raw":
        group.create_dataset("rewards", (4,), "u1", external=[(str(secret), 0, 4)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "secret", (4,))
        group.create_virtual_dataset("rewards", layout)
    elif kind == "external":
        group["rewards"] = h5py.ExternalLink(str(secret), "secret")
    elif kind == "soft":
        group["rewards"] = h5py.SoftLink("/data/demo_1/rewards")
    else:
        group["rewards"] = group.parent


@pytest.mark.parametrize("kind", ["raw", "virtual", "external", "soft", "circle"])
def test_a_file_leads_nowhere_else(kind: str, push: Path, tmp_path: Path) -> None:
    secret, file = tmp_path / "secret.h5", tmp_path / "push.h5"
    with h5py.File(secret, "w") as other:
        other["secret"] = np.arange(4, dtype="u1")
    shutil.copy(push, file)
    with h5py.File(file, "a") as changed:
        del changed["data/demo_0/rewards"]
        elsewhere(kind, changed["data/demo_0"], secret)
    with DemoFile(file) as opened:
        with pytest.raises(ValueError, match=re.escape(f"{file}: is damaged")):
            opened[0]
        assert len(opened[1])


def test_a_file_that_another_process_writes_is_said_to_be_that(push: Path, tmp_path: Path) -> None:
    file = tmp_path / "push.h5"
    shutil.copy(push, file)
    with file.open("r+b") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)  # as HDF5 does where it writes
        with pytest.raises(ValueError, match="another process has it open for writing"):
            DemoFile(file)
    with DemoFile(file) as opened:
        assert len(opened) == 8


def test_a_card_and_images_lie_beside_it(
    push: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = push.with_suffix(".md").read_text()
    assert "8 demonstrations of `KomoPush-v0` (suite " in card
    assert "8 of which end in success: 100.0% [67.6, 100.0]" in card
    assert "All are in `mask/successful`." in card
    assert "--episodes 8 --control-mode ee --image-size 16 --cameras front`" in card
    assert f"--out {push.name} " in card, "no names of users or hosts"
    monkeypatch.chdir(push.parent.parent)
    near = Path(push.parent.name, push.name)
    with DemoFile(near) as file:
        assert f"--out {near} " in command_of(file)
    assert imageio.imread(push.with_suffix(".png")).shape == (6 * 16, 8 * 16, 3)
    assert imageio.imread(push.with_suffix(".mp4")).shape[1:] == (2 * 2 * 16, 4 * 2 * 16, 3)
    card = shelf.with_suffix(".md").read_text()
    assert "--first-seed 40 --control-mode ee --image-size 16 --cameras front wrist" in card
    assert "--noise 0.001 --diverse`" in card


def test_replayed_it_comes_out_the_same_and_succeeds_in_every_mode(push: Path) -> None:
    done = run("replay", push)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("8 of 8 demonstrations come out the same, bit for bit.\n")
    for mode in CONTROL_MODES:
        assert f"\n{mode:<9}  8 of 8     67.6% to 100.0%  8 of 8 " in done.stdout


def test_one_that_was_collected_in_joint_positions_is_replayed_in_them(tmp_path: Path) -> None:
    out = tmp_path / "joint.h5"
    collect(out, *SMALL, "--control-mode", "joint", episodes=2)
    done = run("replay", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 of 2 demonstrations come out the same, bit for bit.\n")
    assert "\njoint      2 of 2     34.2% to 100.0%  2 of 2 " in done.stdout


def test_a_disturbed_one_is_replayed_too(shelf: Path) -> None:
    done = run("replay", shelf)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3 of 3 demonstrations come out the same, bit for bit.\n")
    with DemoFile(shelf) as file:
        demo = file[0]
        assert set(demo.obs) > {"pixels_front", "pixels_wrist", "depth_front", "depth_wrist"}
        assert np.abs(demo.executed - demo.actions["ee"]).max() > 1e-4
        assert demo.style["via"] is not None


def test_a_difference_is_found(push: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(push.read_bytes())
    with h5py.File(copy, "r+") as file:
        pixels = file["data/demo_2/obs/pixels"]
        pixels[7, 3, 3, 1] = pixels[7, 3, 3, 1] ^ 1
        states = file["data/demo_5/states"]
        states[4, 2] = np.nextafter(states[4, 2], np.inf)
    done = run("replay", copy, "--workers", 1)
    assert done.returncode == 1
    assert "6 of 8 demonstrations come out the same" in done.stdout
    assert "demo_2: pixels at step 7 differs" in done.stdout
    assert "demo_5: states at step 4 differs" in done.stdout


def test_rerendered_from_states_the_images_are_the_same_or_others(
    shelf: Path, tmp_path: Path
) -> None:
    same = tmp_path / "same.h5"
    done = run("render", shelf, "--out", same)
    assert done.returncode == 0, done.stderr
    with DemoFile(shelf) as before, DemoFile(same) as after:
        for old, new in zip(before, after, strict=True):
            assert all(np.array_equal(old.obs[name], new.obs[name]) for name in old.obs)
            assert np.array_equal(old.states, new.states)
            assert old.scene == new.scene

    other = tmp_path / "other.h5"
    done = run("render", shelf, "--out", other, "--image-size", 24, "--cameras", "wrist")
    assert done.returncode == 0, done.stderr
    with DemoFile(shelf) as before, DemoFile(other) as after:
        demo = after[1]
        assert demo.obs["pixels"].shape == (len(demo) + 1, 24, 24, 3)
        assert set(demo.obs) - {"pixels", "depth"} == {
            name for name in before[1].obs if "front" not in name and "wrist" not in name
        }
        env = after.make_env()
    # As if it had been collected so.
    observation, _ = env.reset(options={"scene": demo.scene})
    for step in range(5):
        assert np.array_equal(observation["pixels"], demo.obs["pixels"][step])
        observation, *_ = env.step(demo.executed[step])
    env.close()

    for arguments, reason in [
        (("--out", same), "is there already"),
        (("--out", tmp_path / "x.avi"), "expected a name that ends in .h5 or .mp4"),
        (("--out", tmp_path / "x.mp4", "--image-size", 33), "expected an even number"),
        (("--out", tmp_path / "x.mp4", "--demo", 9), "demonstration 9; there are 3"),
        (("--out", tmp_path / "x.h5", "--demo", 1), "only a video"),
        (("--out", tmp_path / "x.h5", "--cameras", "side"), "cameras: 'side' is unknown"),
        (("--out", tmp_path / "x.mp4", "--cameras", "side"), "expected one of front, wrist"),
    ]:
        done = run("render", shelf, *arguments)
        assert done.returncode == 2, done.stderr
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    video = tmp_path / "video.mp4"
    done = run("render", shelf, "--out", video, "--demo", 1, "--image-size", 64)
    assert done.returncode == 0, done.stderr
    assert imageio.imread(video).shape == (len(demo) + 1, 64, 64, 3)


@pytest.mark.parametrize("module", ["replay", "render"])
def test_what_is_no_file_of_demonstrations_is_named(
    module: str, tmp_path: Path, push: Path
) -> None:
    out = ("--out", tmp_path / "y.h5") if module == "render" else ()
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data/demo_0/actions"] = np.zeros(3)
    for name in ("newer.h5", "hole.h5"):
        (tmp_path / name).write_bytes(push.read_bytes())
    with h5py.File(tmp_path / "newer.h5", "r+") as file:
        file["data"].attrs["version"] = VERSION + 1
    with h5py.File(tmp_path / "hole.h5", "r+") as file:
        del file["data/demo_3"]
    for name, reason in [
        ("none.h5", "there is none"),
        ("text.h5", "is no HDF5 file, or not a whole one"),
        ("other.h5", "is no valid file of demonstrations"),
        ("newer.h5", f"version {VERSION + 1}; expected"),
        ("hole.h5", "expected demo_0 to demo_6, got others"),
    ]:
        done = run(module, tmp_path / name, *out)
        assert done.returncode == 2
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_coverage_is_measured_and_plotted(push: Path, tmp_path: Path) -> None:
    diverse, plot = tmp_path / "diverse.h5", tmp_path / "coverage.png"
    collect(diverse, *SMALL, "--diverse", "--control-mode", "joint")
    done = run("coverage", push, diverse, "--out", plot)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:3]]
    (_, *clean), (_, *sampled) = lines
    assert clean[:3] == sampled[:3] == ["8", "of", "8"]
    assert int(sampled[5]) > int(clean[5]), "cells"
    assert float(sampled[6]) > 2 * float(clean[6]), "cm of lateral deviation"
    assert float(sampled[7]) > 1.1 * float(clean[7]), "null-space posture"
    assert (int(clean[8]), int(sampled[8]) > 3) == (1, True), "modes"
    assert imageio.imread(plot).shape[0] > 500


@pytest.mark.parametrize("env_id", ["KomoPush-v0", "KomoShelfHard-v0"])
@pytest.mark.parametrize("control_mode", ["ee", "joint"])
def test_a_label_is_what_the_expert_goes_on_to_do(env_id: str, control_mode: str) -> None:
    env = gym.make(env_id, control_mode=control_mode)
    expert = make_expert(env_id)
    expert.attach(env)
    env.reset(seed=5)
    rng = np.random.default_rng(0)
    inner: Any = env.unwrapped
    for _ in range(6):  # someone else has led there
        here = inner.controller.ee_command
        there = inner.controller.solve(here + rng.uniform(-0.02, 0.02, len(here)))
        env.step(inner.controller.encode(there))
    before = inner.state.body_poses.copy()
    labels = expert.label(env, steps=12)
    assert labels.shape == (12, *env.action_space.shape)  # type: ignore[misc]
    assert np.array_equal(inner.state.body_poses, before), "nothing has moved"
    for label in labels:
        action, _ = expert.predict(None)
        assert np.array_equal(action, label)
        env.step(action)
    expert.close()
    env.close()


def test_a_sampled_style_is_done() -> None:
    recorder = Recorder(
        Recipe(env="KomoPush-v0", image_size=16, diverse=True, control_mode="joint")
    )
    bends, postures = set(), {}
    for seed in range(14):
        demo = recorder.record(seed)
        assert demo.success, seed
        assert demo.style["side"] is None, "there is nothing to pass by"
        start, goal = demo.obs["achieved_goal"][0, :2], demo.obs["desired_goal"][0, :2]
        along = (goal - start) / np.linalg.norm(goal - start)
        aside = (demo.obs["achieved_goal"][:, :2] - start) @ [-along[1], along[0]]
        extreme = aside[np.argmax(np.abs(aside))]
        bent = np.sign(extreme) if abs(extreme) > 0.1 * np.linalg.norm(goal - start) else 0
        assert bent == demo.style["bend"], seed
        bends.add(demo.style["bend"])
        postures.setdefault(demo.style["posture"], []).append(demo.obs["agent_pos"][:, 2].mean())
    assert bends == {-1, 0, 1}
    left, middle, right = (np.mean(postures[posture]) for posture in (-0.4, 0.0, 0.4))
    assert left < middle - 0.1 < right - 0.2
    recorder.close()

    # A choice without effect is not recorded.
    recorder = Recorder(Recipe(env="KomoShelf-v0", image_size=16, diverse=True))
    styles = [recorder.record(seed).style for seed in range(6)]
    assert {(style["bend"], style["posture"]) for style in styles} == {(0, 0.0)}
    assert {style["side"] for style in styles} >= {LEFT, RIGHT}
    recorder.close()


def test_the_page_shows_how_a_student_is_labelled(
    push: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos/push.h5").write_bytes(push.read_bytes())
    page = (PROJECT / "docs" / "demonstrations.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)  # as a reader would
    names["visit"]("demos/push.h5", tmp_path / "student.h5", episodes=2, first_seed=20)
    with DemoFile(tmp_path / "student.h5") as file:
        assert file.perturbed
        demo = file[1]
        assert (demo.seed, len(file)) == (21, 2)
        assert np.abs(demo.executed - demo.actions["ee"]).max() > 1e-3
        env = gym.make("KomoPush-v0")
        expert = make_expert("KomoPush-v0")
        expert.attach(env)
        env.reset(options={"scene": demo.scene})
        for step in range(12):  # it says what it would do, wherever it is led
            action, _ = expert.predict(None)
            assert np.array_equal(action, demo.actions["ee"][step])
            env.step(demo.executed[step])
        env.close()
    done = run("replay", tmp_path / "student.h5")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_student_goes_and_the_expert_says_what_it_would_do() -> None:
    class Still:
        def predict(self, obs: Any, **_: Any) -> tuple[Any, None]:
            return np.float32([0.1, 0.25, 0.8]), None

    recorder = Recorder(Recipe(env="KomoPush-v0", image_size=16))
    demo = recorder.record(1, student=Still())
    assert len(demo) == 150
    assert not demo.success
    assert np.all(demo.executed == np.float32([0.1, 0.25, 0.8]))
    assert demo.intervention == 150, "it never came to that"
    wanted = demo.actions["ee"][40:]
    assert np.abs(wanted - wanted[0]).max() < 1e-3, "nothing moves, and it wants the same"
    assert np.abs(wanted[0] - [0.1, 0.25, 0.8]).max() > 0.01
    recorder.close()


def test_an_expert_takes_over_and_brings_it_to_its_end() -> None:
    class Still:
        def predict(self, obs: Any, **_: Any) -> tuple[Any, None]:
            return np.float32([0.1, 0.25, 0.8]), None

    recorder = Recorder(Recipe(env="KomoPush-v0", image_size=16))
    demo = recorder.record(1, student=Still(), intervention=20)
    assert demo.success
    assert demo.intervention == 20
    # What is recorded is what was done, by the one and by the other.
    assert np.array_equal(demo.executed, demo.actions["ee"])
    assert np.all(demo.executed[:20] == np.float32([0.1, 0.25, 0.8]))
    recorder.close()
