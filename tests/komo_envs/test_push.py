"""The harder push: what its scenes draw, what they refuse, and that a straight push will not do."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from experts.komo.route import LEFT, RIGHT, Route, find_routes
from experts.push import PushExpert
from komo_envs.entities import Array
from komo_envs.env import KomoEnv
from komo_envs.tasks.push import (
    BASE,
    BLOCKED,
    CLEARANCE,
    PUCK,
    STICK_RADIUS,
    TABLE_TOP,
    Push,
)

HARD: dict[str, Any] = {
    "puck_radius": (0.03, 0.05),
    "puck_mass": (0.05, 1.0),
    "puck_friction": (0.2, 1.0),
    "obstacles": (1, 3),
}
SYMMETRIC = {
    "puck": [-0.16, 0.32],
    "target": [0.16, 0.32],
    "puck_radius": 0.04,
    "puck_mass": 0.2,
    "puck_friction": 1.0,
    "obstacles": [[0.0, 0.32, 0.03]],
}


def scenes(task: Push, count: int) -> list[dict[str, Any]]:
    return [task.sample_scene(np.random.default_rng(seed)) for seed in range(count)]


def test_draws_everything_in_its_range() -> None:
    drawn = scenes(Push(**HARD), 300)
    for name in ("puck_radius", "puck_mass", "puck_friction"):
        low, high = HARD[name]
        values = [scene[name] for scene in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    counts = np.bincount([len(scene["obstacles"]) for scene in drawn])
    assert counts[0] == 0
    assert np.all(counts[1:] > 60)


def test_an_obstacle_blocks_the_straight_way_and_none_the_others() -> None:
    for scene in scenes(Push(**HARD), 200):
        puck, target = np.array(scene["puck"]), np.array(scene["target"])
        obstacles, radius = np.array(scene["obstacles"]), scene["puck_radius"]
        way = (target - puck) / np.linalg.norm(target - puck)
        offsets = obstacles[:, :2] - puck
        aside = np.abs(way[0] * offsets[:, 1] - way[1] * offsets[:, 0])
        assert np.any(aside <= BLOCKED * (obstacles[:, 2] + radius) + 1e-9)
        for end in (puck, target):
            gaps = np.linalg.norm(obstacles[:, :2] - end, axis=1) - obstacles[:, 2] - radius
            assert gaps.min() >= CLEARANCE - 1e-9
        # Puck and stick reach the target: there is a way for them.
        circles = obstacles + np.array([0, 0, radius + 0.014])
        stick = obstacles + np.array([0, 0, STICK_RADIUS + 0.003])
        tail = radius + STICK_RADIUS
        assert find_routes(puck, target, circles, BASE, (0.34, 0.68), tail, stick)


def test_scenes_are_accepted_as_they_are_drawn_through_json() -> None:
    task = Push(**HARD)
    for scene in scenes(task, 100):
        assert task.check_scene(json.loads(json.dumps(scene))) == scene


def test_each_option_draws_its_own_alone() -> None:
    plain = Push().sample_scene(np.random.default_rng(0))
    assert set(plain) == {"puck", "target"}
    for name, value in HARD.items():
        task = Push(**{name: value})
        scene = task.sample_scene(np.random.default_rng(0))
        assert set(scene) == {"puck", "target", name}
        env = gym.make("KomoPush-v0", **{name: value})
        observation, info = env.reset(seed=0)
        assert observation in env.observation_space
        assert set(info["scene"]) == {"puck", "target", name}
        env.close()


@pytest.mark.parametrize(
    "options",
    [
        {"puck_radius": (0.05, 0.03)},
        {"puck_mass": (0.0, 1.0)},
        {"puck_friction": 0.5},
        {"puck_friction": (np.nan, 1.0)},
        {"obstacles": (0, 2)},
        {"obstacles": (1, 4)},
        {"obstacles": (1.0, 2.0)},
        {"success_radius": -0.01},
        {"success_radius": None},
        {"fixed_target": (3.0, 0.3)},
        {"fixed_target": "here"},
        {"start_box": ((0.0, np.nan), (0.1, 0.3))},
    ],
)
def test_bad_ranges_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Push(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"puck_radius": 0.06}, "puck_radius.*0.06.*0.03 to 0.05"),
        ({"puck_radius": np.nan}, "puck_radius.*finite"),
        ({"puck_mass": [0.2, 0.3]}, "puck_mass.*1 finite number"),
        ({"puck_friction": "smooth"}, "puck_friction.*smooth"),
        ({"obstacles": []}, "obstacles.*1 to 3"),
        ({"obstacles": None}, "obstacles.*1 to 3"),
        ({"obstacles": [[0.0, 0.32, 0.03]] * 4}, "obstacles.*1 to 3"),
        ({"obstacles": [[0.0, 0.32]]}, "obstacles.*3 finite numbers"),
        ({"obstacles": [[0.0, np.inf, 0.03]]}, "obstacles.*3 finite numbers"),
        ({"obstacles": [[0.0, 0.32, 0.05]]}, "obstacles.*radius 0.05.*0.02 to 0.035"),
        ({"obstacles": [[-0.10, 0.32, 0.03]]}, "obstacles.* m from puck; expected"),
        ({"obstacles": [[0.10, 0.32, 0.03]]}, "obstacles.* m from target; expected"),
        ({"obstacles": [[0.0, 0.32, 0.03], [0.02, 0.32, 0.02]]}, "number 1 .* m from number 0"),
        ({"obstacles": [[0.0, 0.38, 0.03]]}, "none stands in the straight way"),
        ({"obstacles": [[0.0, 0.52, 0.03]]}, "not in the circle"),
    ],
)
def test_bad_scenes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Push(**HARD).check_scene({**SYMMETRIC, **changes})


def test_bodies_and_state_show_what_was_drawn() -> None:
    env = gym.make("KomoPushHard-v0")
    scene = {**SYMMETRIC, "puck_radius": 0.045, "puck_mass": 0.7, "puck_friction": 0.4}
    observation, info = env.reset(options={"scene": scene})
    unwrapped: Any = env.unwrapped
    puck, obstacle = unwrapped.bodies[PUCK], unwrapped.bodies[-1]
    assert (puck.size, puck.mass, puck.friction) == ((0.03, 0.045), 0.7, 0.4)
    assert obstacle.size == (0.03, 0.03)
    assert obstacle.mass is None
    assert info["scene"] == scene
    state = observation["observation"][-12:]
    assert state == pytest.approx([0.045, 0.7, 0.4, 0.0, 0.32, 0.03, *[0] * 6], abs=1e-6)
    assert observation in env.observation_space
    env.close()


def test_the_puck_stops_at_an_obstacle_and_the_stick_passes_over_it() -> None:
    env = gym.make("KomoPushHard-v0")
    env.reset(options={"scene": SYMMETRIC})
    push(env, [-0.25, 0.32, 0.75], [-0.25, 0.32, 0.665], [0.0, 0.32, 0.665])
    state: Any = env.unwrapped.state  # type: ignore[attr-defined]
    assert state.body_poses[PUCK, 0] == pytest.approx(-0.07, abs=0.004), "they touch"
    assert state.body_poses[PUCK, 2] == pytest.approx(TABLE_TOP + 0.015, abs=0.002)
    push(env, [-0.13, 0.32, 0.71], [0.1, 0.32, 0.71])
    state = env.unwrapped.state  # type: ignore[attr-defined]
    assert state.body_poses[PUCK, 0] == pytest.approx(-0.07, abs=0.006)
    env.close()


def push(env: gym.Env[Any, Any], *tips: list[float]) -> None:
    """Send the tip from place to place, and wait for it there."""
    for tip in tips:
        for _ in range(25):
            env.step(np.array(tip, dtype=np.float32))


class StraightPush(PushExpert):
    """The expert, blind to obstacles."""

    def _route_of(self, env: KomoEnv) -> Route:
        return Route([env.state.body_poses[PUCK, :2], env.scene["target"]])


def play(expert: PushExpert, seed: int, scene: dict[str, Any] | None = None) -> list[Any]:
    """Success, the puck's way (T, 2), and the least gap between puck and obstacles, m."""
    env = gym.make("KomoPushHard-v0")
    expert.attach(env)
    expert.set_random_seed(seed)
    unwrapped: Any = env.unwrapped
    observation, info = env.reset(seed=seed, options=scene and {"scene": scene})
    places, done = [], False
    while not done:
        action, _ = expert.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        places.append(unwrapped.state.body_poses[PUCK, :2])
        done = terminated or truncated
    env.close()
    obstacles = np.array(info["scene"]["obstacles"])
    gaps = np.linalg.norm(np.array(places)[:, None] - obstacles[:, :2], axis=2) - obstacles[:, 2]
    least = gaps.min() - info["scene"]["puck_radius"]
    return [info["is_success"], np.array(places), least]


def test_the_expert_goes_round_and_touches_no_obstacle() -> None:
    expert = PushExpert()
    for seed in range(1_000_000, 1_000_015):
        success, _, gap = play(expert, seed)
        assert success, seed
        assert gap > 0.002, seed


def test_a_straight_push_fails() -> None:
    expert = StraightPush()
    assert sum(play(expert, seed)[0] for seed in range(1_000_000, 1_000_006)) == 0


def passed_left(places: Array) -> bool:
    """Whether the puck has gone by on the left in the symmetric scene: at greater y."""
    return bool(places[np.argmin(np.abs(places[:, 0])), 1] > 0.32)


def test_equal_sides_are_passed_on_the_left_or_drawn() -> None:
    assert passed_left(play(PushExpert(), 0, SYMMETRIC)[1])
    drawn = [play(PushExpert(sample_side=True), seed, SYMMETRIC) for seed in range(6)]
    assert all(success for success, *_ in drawn)
    assert {passed_left(places) for _, places, _ in drawn} == {True, False}
    again = play(PushExpert(sample_side=True), 0, SYMMETRIC)
    assert np.array_equal(again[1], drawn[0][1])


def routes(start: list[float], target: list[float], circles: list[list[float]]) -> dict[int, Route]:
    table = np.array(circles).reshape(-1, 3)
    return find_routes(np.array(start), np.array(target), table, BASE, (0.3, 0.9), 0.05, table)


def test_routes_go_round_on_both_sides() -> None:
    start, target = [-0.2, 0.3], [0.2, 0.3]
    both = routes(start, target, [[0.0, 0.3, 0.1]])
    tangent = np.sqrt(0.2**2 - 0.1**2)
    shortest = 2 * tangent + 0.1 * (np.pi - 2 * np.arccos(0.1 / 0.2))
    for side in (LEFT, RIGHT):
        assert shortest < both[side].length < 1.02 * shortest
        assert np.sign(both[side].points[1:-1, 1] - 0.3) == pytest.approx(side)
    assert routes(start, target, [])[LEFT].length == pytest.approx(0.4)
    assert set(routes(start, target, [[0.0, 0.3, 0.1], [0.0, 0.5, 0.12]])) == {LEFT, RIGHT}
    assert set(routes(start, target, [[0.0, 0.60, 0.32]])) == {RIGHT}, "the left is out of reach"


def test_a_route_leaves_room_for_what_pushes() -> None:
    # Something stands right behind: it cannot be left straight ahead.
    [route] = routes([0.0, 0.3], [0.2, 0.3], [[-0.06, 0.3, 0.05]]).values()
    legs = np.diff(route.points, axis=0)
    tails = route.points[:-1] - 0.05 * legs / np.linalg.norm(legs, axis=1)[:, None]
    assert len(legs) > 1
    assert np.linalg.norm(tails - [-0.06, 0.3], axis=1).min() >= 0.05


def test_a_route_knows_distances() -> None:
    route = Route([[0, 0], [1, 0], [1, 2]])
    assert route.length == 3
    assert route.last_bend == 1
    assert route.at(0.5) == pytest.approx([0.5, 0])
    assert route.at(4) == pytest.approx([1, 3])
    assert route.distance(np.array([0.4, -0.3])) == pytest.approx(0.4)
    assert route.distance(np.array([1.2, 1.5])) == pytest.approx(2.5)
    assert route.distance(np.array([1.0, 2.5])) == pytest.approx(3.5), "beyond its end"
