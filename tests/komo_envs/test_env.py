"""The env as a user meets it: its spaces, options, errors, limits, rewards and pictures."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from common import digest, random_rollout, virtual_display, wait_for
from conftest import RunPython
from gymnasium.utils.env_checker import check_env

from experts import make_expert
from komo_envs.tasks import Task
from komo_envs.tasks.push import Push
from komo_envs.worlds.physx import PhysxWorld
from komo_envs.worlds.rai import SimulationError

TASKS = ("KomoPush-v0", "KomoShelf-v0")
IDS = [
    f"Komo{task}{variant}-v0" for task in ("Push", "Shelf") for variant in ("", "Pixels", "Hard")
]
MODES = list(itertools.product(("state", "rgb", "depth", "rgbd"), ("joint", "ee", "ee_delta")))


@pytest.mark.parametrize(("obs_mode", "control_mode"), MODES)
def test_every_mode_passes_gymnasiums_checker(obs_mode: str, control_mode: str) -> None:
    """Each pair of modes, with both tasks and both rewards in turn."""
    turn = MODES.index((obs_mode, control_mode))
    env_id, reward_mode = TASKS[turn % 2], ("sparse", "dense")[turn // 2 % 2]
    env = gym.make(env_id, obs_mode=obs_mode, control_mode=control_mode, reward_mode=reward_mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A robot's units are not [-1, 1], and gymnasium recommends that they were.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "display"), [*((env_id, "dummy") for env_id in IDS), (IDS[0], None)]
)
def test_every_id_renders_in_every_mode(
    env_id: str, display: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if display:  # SDL's own, which shows nothing; a real window has a test of its own, below
        monkeypatch.setenv("SDL_VIDEODRIVER", display)
    env = gym.make(env_id, render_mode="rgb_array")
    assert ("human" in env.unwrapped.metadata["render_modes"]) == bool(display)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("env_id", TASKS)
def test_stable_baselines_accepts(env_id: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gym.make(env_id, control_mode="ee_delta")
    sb3.check_env(env.unwrapped)
    env.close()


def test_several_cameras_and_sizes() -> None:
    env = gym.make(
        "KomoPush-v0",
        obs_mode="rgbd",
        cameras=("wrist", "front"),
        image_size=(48, 64),
        render_mode="rgb_array",
        render_size=(120, 200),
    )
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert list(observation["pixels"]) == ["wrist", "front"]
    assert observation["pixels"]["wrist"].shape == (48, 64, 3)
    assert observation["depth"]["front"].shape == (48, 64, 1)
    assert not np.array_equal(observation["pixels"]["wrist"], observation["pixels"]["front"])
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (120, 200, 3)
    env.close()


def test_gymnasiums_recorder_films_an_episode(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gym.make("KomoPush-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # moviepy's own
        env = gym.wrappers.RecordVideo(env, str(tmp_path))
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
    [film] = tmp_path.iterdir()
    assert film.stat().st_size > 1000


def test_the_camera_sees_puck_and_target() -> None:
    env = gym.make("KomoPush-v0", obs_mode="rgb")
    for seed in range(20):
        pixels = env.reset(seed=seed)[0]["pixels"].astype(int)
        red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        assert ((red > 2 * green) & (red > 2 * blue) & (red > 60)).sum() >= 12, "puck"
        assert ((green > 1.5 * red) & (green > 1.3 * blue) & (green > 60)).sum() >= 12, "target"
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_a_scene_can_be_set_up_again(env_id: str) -> None:
    env = gym.make(env_id)
    for seed in range(11, 21):
        observation, info = env.reset(seed=seed)
        scene = json.loads(json.dumps(info["scene"]))
        again, info_again = env.reset(options={"scene": scene})
        assert digest(again) == digest(observation)
        assert info_again["scene"] == info["scene"] == scene
    # Recorders look for dtype and shape.
    assert all(info[name].dtype == float for name in ("distance", "tracking_error", "latency"))
    assert info["is_success"].dtype == bool
    assert {value.dtype for value in info["reward_terms"].values()} == {np.dtype(float)}
    arrays = json.loads(json.dumps(info["scene"]), object_hook=as_arrays)
    again, _ = env.reset(options={"scene": arrays})
    assert digest(again) == digest(observation)
    env.close()


def as_arrays(scene: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, dict) else np.array(value) for name, value in scene.items()
    }


def test_scenes_are_as_documented() -> None:
    env = gym.make("KomoPush-v0")
    distances = []
    for seed in range(300):
        scene = env.reset(seed=seed)[1]["scene"]
        for x, y in scene.values():
            assert 0.40 <= np.hypot(x, y + 0.2) <= 0.66
            assert abs(np.arctan2(x, y + 0.2)) <= 0.8
        distances.append(np.hypot(*np.subtract(scene["puck"], scene["target"])))
    assert 0.08 <= min(distances) < 0.10
    assert 0.38 < max(distances) <= 0.40
    env.close()

    fixed = gym.make("KomoPushFixed-v0")
    scenes = [fixed.reset(seed=seed)[1]["scene"] for seed in range(20)]
    assert {tuple(scene["target"]) for scene in scenes} == {(0.3, 0.15)}
    with pytest.raises(ValueError, match="fixed at"):
        fixed.reset(options={"scene": {"puck": [0.0, 0.3], "target": [-0.2, 0.25]}})
    assert len({tuple(scene["puck"]) for scene in scenes}) == 20
    fixed.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs_mode": "rbg"}, "obs_mode: 'rbg'"),
        ({"obs_mode": ["rgb"]}, r"obs_mode: \['rgb'\]"),
        ({"control_mode": "torque"}, "control_mode: 'torque'"),
        ({"reward_mode": None}, "reward_mode: None"),
        ({"cameras": ("top",)}, "cameras: 'top'"),
        ({"cameras": "front"}, "cameras: 'front'"),
        ({"cameras": ("front", "front")}, "cameras: "),
        ({"cameras": 5}, "cameras: 5"),
        ({"shadows": "no"}, "shadows: 'no'"),
        ({"image_size": 0}, "image_size: 0"),
        ({"image_size": (96, 96, 3)}, "image_size: "),
        ({"image_size": 96.5}, "image_size: 96.5"),
        ({"image_size": "96"}, "image_size: '96'"),
        ({"render_mode": "ansi"}, "render_mode: 'ansi'"),
        ({"render_size": (480, -1)}, "render_size: "),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("KomoPush-v0", disable_env_checker=True, **arguments)


@pytest.mark.parametrize("env_id", TASKS)
def test_an_unknown_argument_is_named_with_those_there_are(env_id: str) -> None:
    # TorchRL looks for Python's words, and tries again without the argument.
    words = "got an unexpected keyword argument 'frameskip'; options of .*success_radius"
    with pytest.raises(TypeError, match=words):
        gym.make(env_id, frameskip=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": {}}, "options: unknown key 'scenes'"),
        ({"lerobot_new_rollout": True, "Scene": {}}, "options: unknown key 'Scene'"),
        ("scene", "options: expected a dict"),
        ({"scene": {"puck": [0.0, 0.3]}}, "scene: expected the keys"),
        ({"scene": {"puck": [0.0, 0.3], "target": [0.1, 0.3], "goal": 1}}, "scene: expected"),
        ({"scene": [0.0, 0.3]}, "scene: expected"),
        ({"scene": {"puck": [0.0, 0.3], "target": [0.1, "a"]}}, "target"),
        ({"scene": {"puck": [0.0, np.nan], "target": [0.1, 0.3]}}, "puck.*finite"),
        ({"scene": {"puck": [0.0, 0.3, 0.7], "target": [0.1, 0.3]}}, "puck.*expected 2 finite"),
        ({"scene": {"puck": [0.0, 0.9], "target": [0.1, 0.3]}}, "puck.*out of reach"),
        ({"scene": {"puck": [0.0, 0.3], "target": [0.05, 0.3]}}, "overlap"),
    ],
)
def test_bad_options_are_named_and_do_no_harm(options: dict[str, Any], message: str) -> None:
    env = gym.make("KomoPush-v0")
    env.reset(seed=0)
    expected, *_ = env.step(env.action_space.low)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    observation, *_ = env.step(env.action_space.low)
    assert digest(observation) == digest(expected)
    env.close()


def test_an_option_of_another_library_draws_one_warning() -> None:
    env = gym.make("KomoPush-v0")
    expected, info = env.reset(seed=0)
    options = {"lerobot_new_rollout": True, "scene": info["scene"]}
    with pytest.warns(UserWarning, match="lerobot_new_rollout"):
        env.reset(options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation, _ = env.reset(options=options)
    assert digest(observation) == digest(expected)
    env.close()


@pytest.mark.parametrize(
    "action",
    [
        np.array([np.nan, 0.3, 0.7]),
        np.array([0.0, np.inf, 0.7]),
        np.zeros(4),
        np.zeros((1, 3)),
        np.array(["0", "0", "0"]),
        np.zeros(3, dtype=complex),
        np.zeros(3, dtype=bool),
        np.array([None] * 3),
        np.array([0.0, 0.3, np.longdouble("1e400")]),
        None,
    ],
    ids=repr,
)
def test_bad_actions_move_nothing(action: Any) -> None:
    env = gym.make("KomoPush-v0", disable_env_checker=True)
    env.reset(seed=0)
    expected, *_ = env.step(env.action_space.low)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action: expected"):
        env.step(action)
    observation, *_ = env.step(env.action_space.low)
    assert digest(observation) == digest(expected)
    env.close()


@pytest.mark.parametrize("control_mode", ["joint", "ee", "ee_delta"])
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e300])
def test_any_finite_action_is_safe(control_mode: str, scale: float) -> None:
    env = gym.make("KomoPush-v0", control_mode=control_mode, max_episode_steps=400)
    rng = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    previous = env.reset(seed=3)[0]["observation"]
    for step in range(400):
        if step % 5 == 0:  # hold some actions, so that limits are reached
            action = scale * rng.uniform(low, high)
        observation, *_ = env.step(action)
        assert observation in env.observation_space
        vector = observation["observation"]
        q, command, tip = vector[:7], vector[7:14], vector[14:17]
        assert np.abs(command - previous[7:14]).max() <= 0.1 + 1e-5
        assert np.abs(vector[17:20] - previous[17:20]).max() <= 0.055
        assert np.abs(q - command).max() < 0.15
        assert np.abs(vector[20:27]).max() < 1.6
        assert 0.65 < tip[2] < 0.97
        assert np.abs(tip[0]) < 0.73
        assert np.hypot(tip[0], tip[1] + 0.2) > 0.26
        assert np.abs(vector[33:36]).max() < 2.0, "the puck is never shot away"
        previous = vector
    env.close()


@pytest.mark.parametrize("reward_mode", ["sparse", "dense"])
def test_compute_reward_equals_steps_alone_and_in_batches(reward_mode: str) -> None:
    env = gym.make("KomoPush-v0", reward_mode=reward_mode, control_mode="ee_delta")
    env.reset(seed=0, options={"scene": {"puck": [0.0, 0.30], "target": [0.0, 0.385]}})
    achieved, desired, infos, rewards = [], [], [], []
    for _ in range(40):
        observation, reward, _, _, info = env.step(np.array([0.0, 0.3, -0.2]))
        achieved.append(observation["achieved_goal"])
        desired.append(observation["desired_goal"])
        infos.append(info)
        rewards.append(reward)
        unwrapped: Any = env.unwrapped
        assert unwrapped.compute_reward(achieved[-1], desired[-1], info) == reward
    batch = unwrapped.compute_reward(np.array(achieved), np.array(desired), infos)
    assert np.array_equal(batch, rewards)
    # Relabelled with what was achieved, every state at rest is a success.
    relabelled = unwrapped.compute_reward(np.array(achieved), np.array(achieved), infos)
    resting = np.array(achieved)[:, 2] == 1
    if reward_mode == "sparse":
        assert set(np.unique(rewards)) <= {-1.0, 0.0}
        assert np.array_equal(relabelled == 0, resting)
    else:
        assert rewards[-1] == pytest.approx(sum(infos[-1]["reward_terms"].values()))
    env.close()


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("reward_mode", ["sparse", "dense"])
def test_compute_reward_equals_steps_in_every_env(env_id: str, reward_mode: str) -> None:
    env = gym.make(env_id, obs_mode="state", reward_mode=reward_mode, control_mode="ee_delta")
    expert = make_expert(env_id)
    expert.attach(env)
    observation, _ = env.reset(seed=0)
    steps = []
    while not (steps and steps[-1][2]):
        steps.append(env.step(expert.predict(observation)[0]))
        observation = steps[-1][0]
    assert [step[4]["is_success"] for step in steps[-6:]] == [False] + [True] * 5
    keys = ("achieved_goal", "desired_goal")
    goals = [np.array([step[0][key] for step in steps]) for key in keys]
    unwrapped: Any = env.unwrapped
    rewards = unwrapped.compute_reward(*goals, [step[4] for step in steps])
    assert rewards == pytest.approx([step[1] for step in steps], abs=1e-12)
    relabelled = unwrapped.compute_reward(goals[0], goals[0], [step[4] for step in steps])
    if reward_mode == "sparse":
        assert [step[1] for step in steps[-6:]] == [-1.0] + [0.0] * 5
        assert np.array_equal(relabelled == 0, goals[0][:, 2] == 1)
        assert 0 < np.sum(relabelled == 0) < len(steps)
    else:
        for _, reward, _, _, info in steps:
            assert reward == pytest.approx(sum(info["reward_terms"].values()))
            # What earned something would be done for ever, in place of ending with success.
            assert max(info["reward_terms"].values()) <= 0
        assert steps[-1][1] > steps[0][1] + 1
    env.close()


@pytest.mark.parametrize("reward_mode", ["sparse", "dense"])
def test_hindsight_relabelling_of_stable_baselines_works(reward_mode: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("KomoPush-v0", reward_mode=reward_mode, control_mode="ee_delta")

    def learn(copy_info_dict: bool) -> None:
        model = sb3.SAC(
            "MultiInputPolicy",
            env,
            replay_buffer_class=sb3.HerReplayBuffer,
            replay_buffer_kwargs={"copy_info_dict": copy_info_dict},
            learning_starts=160,
            policy_kwargs={"net_arch": [16]},
        )
        model.learn(170)

    learn(copy_info_dict=True)
    if reward_mode == "sparse":
        learn(copy_info_dict=False)
    else:
        with pytest.raises(ValueError, match="copy_info_dict=True"):
            learn(copy_info_dict=False)
    env.close()


def test_pushing_by_hand_succeeds_and_ends_after_half_a_second() -> None:
    env = gym.make("KomoPush-v0")
    env.reset(seed=0, options={"scene": {"puck": [0.0, 0.30], "target": [0.0, 0.385]}})
    way = [(0.0, 0.21, 0.72), (0.0, 0.21, 0.66)]
    way += [(0.0, y, 0.66) for y in np.arange(0.23, 0.335, 0.012)]
    successes = []
    for tip in [p for p in way for _ in range(4 if p in way[:2] else 1)] + [way[-1]] * 10:
        _, reward, terminated, _, info = env.step(np.array(tip, dtype=np.float32))
        successes.append(info["is_success"])
        assert reward == (0.0 if info["is_success"] else -1.0)
        if terminated:
            break
    assert terminated
    assert info["distance"] < 0.02
    assert successes[-5:] == [True] * 5
    assert sum(successes) == 5
    env.close()


def test_dense_rewards_draw_the_tip_behind_the_puck() -> None:
    env = gym.make("KomoPush-v0", reward_mode="dense")
    env.reset(seed=0, options={"scene": {"puck": [0.0, 0.32], "target": [0.0, 0.42]}})
    ways = {"behind": [(0.0, 0.25, 0.72), (0.0, 0.26, 0.66)]}
    ways["over"] = [(0.0, 0.26, 0.72), (0.0, 0.32, 0.72)]
    ways["before"] = [(0.0, 0.39, 0.72), (0.0, 0.385, 0.66)]
    reached, rewards = {}, {}
    for place, way in ways.items():
        for tip in [tip for tip in way for _ in range(4)]:
            _, rewards[place], *_, info = env.step(np.array(tip, dtype=np.float32))
        reached[place] = info["reward_terms"]["reach"]
        assert abs(info["distance"] - 0.10) < 0.005, "the puck is where it was"
    assert reached["behind"] > -0.03
    assert reached["before"] < reached["over"] < reached["behind"] - 0.1
    assert rewards["behind"] == max(rewards.values())
    env.close()


def test_failed_checks_in_cpp_are_one_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    env = gym.make("KomoPush-v0")
    env.reset(seed=0)
    world: Any = env.unwrapped.world  # type: ignore[attr-defined]
    with pytest.raises(SimulationError, match="the simulator refused"):
        PhysxWorld.reset(world, np.zeros(3), env.unwrapped.bodies)  # type: ignore[attr-defined]
    assert random_rollout(env, 5, 5) == random_rollout(env, 5, 5), "usable after a reset"
    env.close()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_or_written(run_python: RunPython) -> None:
    script = """
import gymnasium as gym, numpy as np, komo_envs
from experts import make_expert
expert = make_expert("KomoPush-v0")
env = gym.make("KomoPush-v0", obs_mode="rgbd", disable_env_checker=True)
expert.attach(env)
for episode in range(30):
    observation, _ = env.reset(seed=episode)
    for step in range(4):
        observation, *_ = env.step(env.action_space.sample() if episode % 2 else
                                   expert.predict(observation)[0])
    if episode % 10 == 0:
        env.close()
"""
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((Path(str(done.args[1])).parent / "cwd").iterdir()) == []


@pytest.mark.parametrize("closed", ["1", "2", "0, 1, 2"])
def test_closed_standard_streams_do_no_harm(
    closed: str, run_python: RunPython, tmp_path: Path
) -> None:
    script = f"""
import os, subprocess, sys
if len(sys.argv) == 1:
    def close():
        for descriptor in ({closed},):
            os.close(descriptor)
    sys.exit(subprocess.call([sys.executable, __file__, "child"], preexec_fn=close))
import gymnasium as gym, komo_envs
env = gym.make("KomoPush-v0", obs_mode="rgb")
env.reset(seed=0)
env.step(env.action_space.sample())
open({str(tmp_path / "fine")!r}, "w").close()
"""
    assert run_python(script).returncode == 0
    assert (tmp_path / "fine").exists()


def test_memory_does_not_grow(run_python: RunPython) -> None:
    script = """
import gymnasium as gym, komo_envs
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
env = gym.make("KomoPush-v0", obs_mode="rgb")
for episode in range(600):
    if episode == 100:
        before = resident()
    env.reset(seed=episode)
    env.step(env.action_space.sample())
print(resident() - before)
"""
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15.0


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_human_mode_without_a_display_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="render_mode='human' needs a display"):
        gym.make("KomoPush-v0", render_mode="human")


@pytest.mark.parametrize(
    ("displays", "message"),
    [
        ({"DISPLAY": ":99"}, "no display answers.*DISPLAY=:99"),
        ({"WAYLAND_DISPLAY": "wayland-9"}, "no display answers.*WAYLAND_DISPLAY=wayland-9"),
        ({"DISPLAY": ":99", "SDL_VIDEODRIVER": "x11"}, "x11 not available.*DISPLAY=:99"),
    ],
)
def test_a_display_that_does_not_answer_is_one_clear_error(
    displays: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in displays.items():
        monkeypatch.setenv(name, value)
    env = gym.make("KomoPush-v0", render_mode="human")
    with pytest.raises(RuntimeError, match=message):
        env.reset(seed=0)


def test_each_env_in_human_mode_has_a_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-9")  # where nothing answers

    def shown() -> int:
        """Pixels of the screen that are not black."""
        screen = np.fromfile(tmp_path / "Xvfb_screen0", np.uint8)[-800 * 600 * 4 :]
        return int((screen.reshape(-1, 4)[:, :3].max(axis=1) > 30).sum())

    with virtual_display(tmp_path) as display:
        monkeypatch.setenv("DISPLAY", display)
        assert shown() == 0
        first, second = (
            gym.make("KomoPush-v0", render_mode="human", render_size=size)
            for size in ((480, 640), (100, 120))
        )
        for env in (first, second):
            env.reset(seed=0)
        window: Any = second.unwrapped._viewer  # type: ignore[attr-defined]
        assert window.driver == "x11"
        libraries = Path(f"/proc/{window.pid}/maps").read_text()
        assert "libSDL2" in libraries
        assert "swrast" not in libraries, "no GL driver"
        assert "LLVM" not in libraries
        first.step(first.action_space.sample())
        assert shown() > 600 * 440
        first.close()
        second.step(second.action_space.sample())
        wait_for(lambda: 100 * 110 < shown() <= 100 * 120)
    with pytest.raises(RuntimeError, match=r"process ended during show.*is its display still"):
        second.step(second.action_space.sample())
    with pytest.raises(RuntimeError, match="no display answers"):
        second.reset(seed=0)
    second.close()


@pytest.mark.parametrize(
    ("copied", "env_id", "options"),
    [
        (copy.deepcopy, "KomoPushRandomized-v0", {"obs_mode": "rgb"}),
        (lambda it: pickle.loads(pickle.dumps(it)), "KomoShelfHard-v0", {"cameras": ("wrist",)}),
    ],
    ids=["deepcopy", "pickle"],
)
def test_an_env_can_be_copied_unless_it_runs(
    copied: Callable[[Any], Any], env_id: str, options: dict[str, Any]
) -> None:
    fresh = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id, **options))
    fresh.action_space.seed(5)
    other = copied(fresh)
    assert other.spec == fresh.spec
    assert other.action_space.sample() == pytest.approx(fresh.action_space.sample(), abs=0)
    expected = random_rollout(fresh, 3, 5)
    with pytest.raises(TypeError, match=r"a running env cannot be pickled or copied.*close\(\)"):
        copied(fresh)
    assert random_rollout(other, 3, 5) == expected
    other.close()
    again = copied(other)
    with pytest.raises(RuntimeError, match="call reset first"):
        again.step(again.action_space.sample())
    # The draw of scenes goes on where it was.
    assert again.reset()[1]["scene"] == fresh.reset()[1]["scene"]
    expert = copied(make_expert(env_id))
    expert.attach(again)
    assert np.isfinite(expert.predict(None)[0]).all()
    for env in (fresh, again):
        env.close()


def test_a_simulated_env_imports_nothing_of_a_laboratory(run_python: RunPython) -> None:
    done = run_python(
        "import sys, gymnasium as gym, komo_envs\n"
        "env = gym.make('KomoPush-v0', obs_mode='rgb')\n"
        "env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "env.close()\n"
        "unwanted = ('komo_envs.lab', 'pydantic', 'imageio', 'h5py', 'torch', 'tyro')\n"
        "print(sorted(name for name in sys.modules if name.startswith(unwanted)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_task_that_forgets_a_member_cannot_be_made() -> None:
    members = dict(vars(Push))
    assert Push()
    for name in ("bodies", "evaluate", "observable_mask"):
        rest = {key: value for key, value in members.items() if key != name}
        forgetful = type("Forgetful", (Task,), rest)
        with pytest.raises(TypeError, match=f"abstract.*{name}"):
            forgetful()
    rest = {key: value for key, value in members.items() if key != "home"}
    with pytest.raises(TypeError, match="expected the attributes home"):
        type("Homeless", (Task,), rest)()


def test_a_missing_system_library_is_named_with_the_cure(
    run_python: RunPython, tmp_path: Path
) -> None:
    """A copy of robotic that needs a library that does not exist: the real loader's failure."""
    import robotic

    package = Path(robotic.__file__).parent
    copy = tmp_path / "site" / "robotic"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("rai-robotModels", "include"))
    for library in copy.glob("*.so"):
        content = library.read_bytes()
        library.write_bytes(content.replace(b"liblapack.so.3\0", b"liblapack.so.9\0"))
    done = run_python(
        "import gymnasium as gym, komo_envs; gym.make('KomoPush-v0')",
        PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)]),
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "liblapack.so.9" in last
    assert "./setup.sh" in last
    assert "apt-get install" in last
