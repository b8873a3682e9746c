"""The shelf: its scenes, when it is solved, what its cameras see, and how its expert works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from common import digest
from gymnasium.utils import seeding

from experts import make_expert
from experts.base import Expert
from experts.shelf import COMMITMENT
from komo_envs.env import KomoEnv, unwrap
from komo_envs.tasks.shelf import CUBOID, FLOOR, OPENING, SHELF, Shelf, cuboid_size, gaps
from komo_envs.worlds.panda import COLLISION_FRAMES, load_panda
from komo_envs.worlds.rai import ry

VALIDATION_SEEDS = range(1_000_000, 1_000_020)
CUBOID_AT = {"cuboid": [0.0, 0.66, 0.1]}


class Clearance:
    """Least distances (m) of the arm's and the hook's collision shapes from the shelf."""

    def __init__(self, env: KomoEnv) -> None:
        self._env = env
        self._config = load_panda(env.bodies, meshes=False)
        self._shelf = [body.name for body in SHELF if body.solid]
        self.arm = self.hook = np.inf

    def measure(self) -> None:
        self._config.setJointState(self._env.state.q)
        for part in self._shelf:
            for shape in COLLISION_FRAMES:
                self.arm = min(self.arm, self._distance(shape, part))
            for shape in ("shaft", "finger"):
                self.hook = min(self.hook, self._distance(shape, part))

    def _distance(self, shape: str, part: str) -> float:
        return -float(self._config.eval(ry.FS.negDistance, [shape, part])[0][0])


def run_episode(
    env: gym.Env[Any, Any],
    expert: Expert,
    seed: int,
    kicks: range = range(0),
    waits: range = range(0),
) -> tuple[bool, list[Any], list[Any]]:
    """Success, commands and actions; during kicks the arm moves at random, in waits not at all."""
    rng = np.random.default_rng(seed)
    expert.set_random_seed(seed)
    observation, info = env.reset(seed=seed)
    controller = unwrap(env).controller
    commands, actions = [controller.command], []
    for step in range(150):
        action, _ = expert.predict(observation)
        if step in kicks:
            action = controller.ee_command + rng.uniform(-1, 1, 4) * [0.03, 0.03, 0.03, 0.3]
        if step in waits:
            action = controller.encode(controller.command)
        actions.append(action)
        observation, _, terminated, truncated, info = env.step(action)
        commands.append(controller.command)
        if terminated or truncated:
            break
    return info["is_success"], commands, actions


def test_scenes_are_as_documented() -> None:
    task = Shelf()
    scenes = [task.sample_scene(seeding.np_random(seed)[0]) for seed in range(300)]
    cuboids = np.array([scene["cuboid"] for scene in scenes])
    x, y, yaw = cuboids.T
    assert 0.06 < np.abs(x).max() < 0.08
    assert y.min() > OPENING + 0.05
    assert y.max() < OPENING + 0.15
    assert 0.33 < np.abs(yaw).max() <= 0.35

    fixed = gym.make("KomoShelfFixed-v0")
    assert {fixed.reset(seed=seed)[1]["scene"]["cuboid"][2] for seed in range(20)} == {0.0}
    fixed.close()

    hard = gym.make("KomoShelfHard-v0")
    counts = set()
    for seed in range(40):
        scene = hard.reset(seed=seed)[1]["scene"]
        counts.add(len(scene["neighbours"]))
        assert 0.04 <= scene["cuboid_width"] <= 0.08
        assert 0.1 <= scene["cuboid_mass"] <= 1.0
        assert 0.2 <= scene["cuboid_friction"] <= 0.7
        free = gaps(scene["cuboid"], cuboid_size(scene), scene["neighbours"])
        assert max(free) >= 0.018
        before = unwrap(hard).state.body_poses
        for _ in range(3):
            hard.step(unwrap(hard).controller.command.astype(np.float32))
        assert np.abs(unwrap(hard).state.body_poses - before)[CUBOID:].max() < 1e-3, "it all stands"
    assert counts == {1, 2}
    hard.close()


@pytest.mark.parametrize(
    ("env_id", "change", "message"),
    [
        ("KomoShelf-v0", {"puck": [0, 0]}, "scene: expected the keys 'cuboid'"),
        ("KomoShelf-v0", {"cuboid": [0.0, 0.66]}, "cuboid.*expected 3 finite numbers"),
        ("KomoShelf-v0", {"cuboid": [0.0, np.nan, 0.0]}, "cuboid.*finite"),
        ("KomoShelf-v0", {"cuboid": [0.0, 0.66, 0.5]}, "cuboid.*0.5 is out of range.*0.35"),
        ("KomoShelf-v0", {"cuboid": [0.0, 0.58, 0.0]}, "behind the opening"),
        ("KomoShelf-v0", {"cuboid": [0.0, 0.75, 0.0]}, "hook's finger"),
        ("KomoShelf-v0", {"cuboid_width": 0.06}, "expected the keys"),
        (
            "KomoShelfHard-v0",
            {"cuboid_mass": 20.0},
            "mass.*20.0 is out of range; expected 0.1 to 1.0",
        ),
        ("KomoShelfHard-v0", {"cuboid_depth": "a"}, "cuboid_depth.*expected 1 finite number"),
        ("KomoShelfHard-v0", {"neighbours": []}, "neighbours.*expected 1 to 2"),
        ("KomoShelfHard-v0", {"neighbours": [[0.0] * 5]}, "neighbours.0.*expected 6 finite"),
        (
            "KomoShelfHard-v0",
            {"neighbours": [[0.0, 0.66, 0.0, 0.04, 0.05, 0.1]]},
            "in the cuboid's way",
        ),
    ],
)
def test_bad_scenes_are_named_and_do_no_harm(
    env_id: str, change: dict[str, Any], message: str
) -> None:
    env = gym.make(env_id)
    scene = env.reset(seed=0)[1]["scene"]
    expected, *_ = env.step(env.action_space.low)  # type: ignore[attr-defined]
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"scene": {**scene, **change}})
    observation, *_ = env.step(env.action_space.low)  # type: ignore[attr-defined]
    assert digest(observation) == digest(expected)
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"yaw": (0.5, -0.5)}, "yaw: "),
        ({"yaw": None}, "yaw: None; expected two numbers"),
        ({"lateral_range": 0.2}, "lateral_range: "),
        ({"min_clearance": 0.01}, "min_clearance: "),
        ({"min_clearance": np.nan}, "min_clearance: "),
        ({"min_clearance": "wide"}, "min_clearance: 'wide'; expected a number"),
        ({"cuboid_width": 0.1}, "cuboid_width: 0.1; expected None, or two numbers in order"),
        ({"cuboid_height": (0.12, 0.3)}, "cuboid_height: "),
        ({"cuboid_mass": (0.0, 1.0)}, "cuboid_mass: "),
        ({"cuboid_friction": ("a", "b")}, "cuboid_friction: "),
        ({"neighbours": (1, 3)}, "neighbours: "),
        ({"neighbours": (1.5, 2.0)}, "neighbours: .*two whole numbers"),
        ({"success_radius": -1.0}, "success_radius: "),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("KomoShelf-v0", **options)


def test_what_success_asks_for() -> None:
    env = gym.make("KomoShelfHard-v0")
    scene = env.reset(seed=0)[1]["scene"]
    task, state = unwrap(env).task, unwrap(env).state
    height = FLOOR + scene["cuboid_height"] / 2

    def succeeds(pose: list[float], speed: float = 0.0, **neighbour: float) -> bool:
        poses, velocities = state.body_poses.copy(), state.body_velocities.copy()
        poses[CUBOID] = pose
        velocities[CUBOID, 0] = speed
        if neighbour:
            poses[CUBOID + 1, 1] = neighbour.get("y", poses[CUBOID + 1, 1])
            tilt = neighbour.get("tilt", 0.0)
            poses[CUBOID + 1, 3:] = [np.cos(tilt / 2), np.sin(tilt / 2), 0.0, 0.0]
        now = replace(state, body_poses=poses, body_velocities=velocities)
        goals = task.achieved_goal(scene, now), task.desired_goal(scene)
        return bool(task.evaluate(*goals).success)

    upright = [1.0, 0.0, 0.0, 0.0]
    tilted = [np.cos(np.deg2rad(5.5)), np.sin(np.deg2rad(5.5)), 0.0, 0.0]
    assert succeeds([0.0, 0.5399, height, *upright])
    assert not succeeds([0.0, 0.5401, height, *upright]), "not far enough out"
    assert not succeeds([0.0, 0.53, height, *tilted]), "tilted by 11 degrees"
    assert not succeeds([0.0, 0.53, height - 0.02, *upright]), "off the lip"
    assert not succeeds([0.0, 0.53, height, *upright], speed=0.02), "moving"
    assert not succeeds([0.0, 0.53, height, *upright], y=0.55), "a neighbour is out"
    assert not succeeds([0.0, 0.53, height, *upright], tilt=0.3), "a neighbour has fallen"
    env.close()


@pytest.mark.parametrize("control_mode", ["joint", "ee", "ee_delta"])
def test_no_finite_action_brings_the_arm_to_touch_the_shelf(control_mode: str) -> None:
    env = gym.make("KomoShelf-v0", control_mode=control_mode, max_episode_steps=400)
    rng = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    previous = env.reset(seed=3)[0]["observation"]
    clearance = Clearance(unwrap(env))
    moved = 0
    for step in range(400):
        if step % 5 == 0:
            action = 10.0 ** rng.integers(0, 30) * rng.uniform(low, high)
        observation, *_ = env.step(action)
        assert observation in env.observation_space
        vector = observation["observation"]
        assert np.abs(vector[7:14] - previous[7:14]).max() <= 0.1 + 1e-5
        assert np.all(np.abs(vector[18:22] - previous[18:22]) <= np.array([0.055] * 3 + [0.11]))
        assert np.abs(vector[:7] - vector[7:14]).max() < 0.5, "also where the cuboid is in the way"
        moved += bool(np.abs(vector[7:14] - previous[7:14]).max() > 1e-3)
        clearance.measure()
        previous = vector
    assert clearance.arm > -1e-4
    assert clearance.hook > -2e-3, "the hook may press on it"
    assert moved > 60
    env.close()


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_camera_sees_into_both_lanes(side: float) -> None:
    env = gym.make("KomoShelf-v0")
    unwrapped = unwrap(env)
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    names = [body.name for body in SHELF]
    cuboid, shaft, finger = 2 + CUBOID, 2 + len(names) + 1, 2 + len(names) + 2
    observation, _ = env.reset(options={"scene": {"cuboid": [0.0, 0.67, 0.2 * side]}})
    terminated, seen = False, {"enter": 0, "hook": 0}
    while not terminated:
        observation, _, terminated, *_ = env.step(expert.predict(observation)[0])
        [image] = unwrapped.render_images(unwrapped.task.cameras[:1], (96, 96))
        count = np.bincount(image.segmentation.ravel(), minlength=256)
        assert count[cuboid] >= 300
        _, y, _, roll = unwrapped.controller.ee_command
        if y > OPENING:
            assert count[shaft] >= 20
            phase = "enter" if abs(roll) < 0.1 else "hook"
            seen[phase] = max(seen[phase], count[finger])
    assert seen["enter"] >= 30
    assert seen["hook"] >= 6, "until it is behind the cuboid"
    env.close()


@pytest.mark.parametrize(("turn", "control_mode"), [*enumerate(["joint", "ee", "ee_delta"])])
@pytest.mark.parametrize("env_id", ["KomoShelf-v0", "KomoShelfFixed-v0", "KomoShelfHard-v0"])
def test_the_expert_solves_every_scene(env_id: str, turn: int, control_mode: str) -> None:
    env = gym.make(env_id, control_mode=control_mode)
    expert = make_expert(env_id)
    expert.attach(env)
    for seed in VALIDATION_SEEDS[turn::3]:
        success, commands, actions = run_episode(env, expert, seed)
        assert success, seed
        assert all(action in env.action_space for action in actions)
        # It pauses nowhere before it is done.
        still = np.abs(np.diff(commands, axis=0)).max(axis=1) < 1e-3
        assert not still[:-7].any(), seed
    env.close()


@pytest.mark.parametrize("env_id", ["KomoShelf-v0", "KomoShelfHard-v0"])
def test_arm_and_hand_never_touch_the_shelf(env_id: str) -> None:
    env = gym.make(env_id)
    expert = make_expert(env_id)
    expert.attach(env)
    for seed in VALIDATION_SEEDS:
        observation, _ = env.reset(seed=seed)
        clearance, terminated = Clearance(unwrap(env)), False
        while not terminated:
            observation, _, terminated, *_ = env.step(expert.predict(observation)[0])
            clearance.measure()
        assert clearance.arm > 0.002, seed
        assert clearance.hook > 0.001, seed
    env.close()


def test_it_hooks_where_the_pull_straightens_or_on_a_side_that_is_drawn() -> None:
    env = gym.make("KomoShelf-v0")
    for sample_side in (False, True):
        expert = make_expert("KomoShelf-v0", sample_side=sample_side)
        expert.attach(env)
        right_side = []
        for seed in VALIDATION_SEEDS:
            success, commands, _ = run_episode(env, expert, seed)
            assert success, seed
            roll = unwrap(env).controller.coordinates(commands[-1])[3]
            right_side.append(roll < 0)
            scene = unwrap(env).scene["cuboid"]
            if not sample_side and min(gaps(scene, cuboid_size({}), [])) > 0.02:
                # The hook begins in the middle; where the yaw is small, it goes past the near side.
                assert right_side[-1] == (scene[2] >= COMMITMENT * scene[0]), seed
        assert 4 <= sum(right_side) <= 16
    env.close()


def test_recovers_from_disturbances() -> None:
    env = gym.make("KomoShelf-v0", control_mode="ee")
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    successes = [
        run_episode(env, expert, seed, kicks=range(14, 20))[0] for seed in VALIDATION_SEEDS
    ]
    assert sum(successes) >= 19, "a kick may topple the cuboid"
    env.close()


def test_takes_over_from_wherever_the_arm_is() -> None:
    env = gym.make("KomoShelf-v0", max_episode_steps=200)
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    successes = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(5):
            action = rng.uniform(env.action_space.low, env.action_space.high)  # type: ignore[attr-defined]
            for _ in range(5):
                observation, *_ = env.step(action)
        terminated = truncated = False
        while not (terminated or truncated):
            observation, _, terminated, truncated, _ = env.step(expert.predict(observation)[0])
        successes += terminated
    assert successes >= 9, "one may begin where no plan is safe"
    env.close()


def test_what_it_plans_is_what_it_does() -> None:
    env = gym.make("KomoShelf-v0")
    expert = make_expert("KomoShelf-v0", sample_side=True)
    expert.attach(env)
    expert.set_random_seed(0)
    sides = set()
    for _ in range(8):
        observation, _ = env.reset(options={"scene": CUBOID_AT})
        side = np.sign(expert.plan(env).waypoints["enter"][0])
        for _ in range(6):  # asking moves nothing, and draws no other side
            expert.predict(observation)
        assert np.sign(expert.plan(env).waypoints["enter"][0]) == side
        for _ in range(15):
            observation, *_ = env.step(expert.predict(observation)[0])
        assert np.sign(unwrap(env).controller.ee_command[0]) == side
        sides.add(side)
    assert sides == {-1.0, 1.0}
    env.close()


def test_follows_geometry_and_no_clock() -> None:
    env = gym.make("KomoShelf-v0")
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    success, straight, _ = run_episode(env, expert, 1_000_000)
    waited_success, waited, _ = run_episode(env, expert, 1_000_000, waits=range(10, 25))
    assert success
    assert waited_success
    # But for the wait it is the same way, wherever it was interrupted.
    resumed = np.array(waited[:11] + waited[26:])
    assert len(resumed) == len(straight)
    assert np.abs(resumed - np.array(straight)).max() < 0.02
    env.close()


def test_explains_its_plan() -> None:
    env = gym.make("KomoShelf-v0")
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    env.reset(options={"scene": CUBOID_AT})
    plan = expert.plan(env)
    assert plan.feasible
    assert plan.phases == ("approach", "enter", "hook", "pull")
    x, y, z = plan.waypoints["enter"]
    assert 0.03 < x < 0.06
    assert y > 0.71
    assert z == pytest.approx(FLOOR + 0.05, abs=1e-3)
    assert "finger across" in str(plan)
    env.close()


def test_names_a_cuboid_that_has_fallen() -> None:
    env = gym.make("KomoShelf-v0", control_mode="ee")
    expert = make_expert("KomoShelf-v0")
    expert.attach(env)
    observation, _ = env.reset(options={"scene": CUBOID_AT})
    for target in [(0.0, 0.45, 1.49, 0.0)] * 5 + [(0.0, 0.75, 1.49, 0.0)] * 12:
        observation, *_ = env.step(np.array(target, dtype=np.float32))
    action, _ = expert.predict(observation)
    assert expert.failure == "the cuboid has fallen over"
    assert action == pytest.approx(unwrap(env).controller.ee_command, abs=1e-5), "it stays"
    env.close()
