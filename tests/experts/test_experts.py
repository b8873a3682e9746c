"""The push expert: it solves its task in every mode, recovers, and says why."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from experts import Expert, make_expert

VALIDATION_SEEDS = range(1_000_000, 1_000_020)


def run_episode(
    env: gym.Env[Any, Any], expert: Expert, seed: int, kicks: range = range(0)
) -> tuple[bool, float, list[Any]]:
    """Success, distance and actions; during ``kicks`` the arm moves at random instead."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    actions = []
    for step in range(150):
        action, _ = expert.predict(observation)
        if step in kicks:
            action = observation["observation"][17:20] + rng.uniform(-0.08, 0.08, 3)
        actions.append(action)
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return info["is_success"], info["distance"], actions


@pytest.mark.parametrize(("turn", "control_mode"), [*enumerate(["joint", "ee", "ee_delta"])])
@pytest.mark.parametrize("env_id", ["KomoPush-v0", "KomoPushFixed-v0"])
def test_solves_every_scene_within_a_centimetre(env_id: str, turn: int, control_mode: str) -> None:
    env = gym.make(env_id, control_mode=control_mode)
    expert = make_expert(env_id)
    expert.attach(env)
    for seed in VALIDATION_SEEDS[turn::3]:
        success, distance, actions = run_episode(env, expert, seed)
        assert success, seed
        assert distance < 0.01, seed
        assert all(action in env.action_space for action in actions)
    env.close()


def test_recovers_from_any_disturbance() -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    plans = []
    for seed in VALIDATION_SEEDS:
        before = len(expert.plan_seconds)
        success, _, _ = run_episode(env, expert, seed, kicks=range(16, 24))
        assert success, seed
        plans.append(len(expert.plan_seconds) - before)
    assert max(plans) > 1, "some kicks make it plan again"
    env.close()


@pytest.mark.parametrize("hold", [range(3, 10), range(14, 20)])
def test_goes_by_where_things_are_and_not_by_time(hold: range) -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    for seed in VALIDATION_SEEDS[:5]:
        observation, _ = env.reset(seed=seed)
        before = len(expert.plan_seconds)
        for step in range(150):
            action, _ = expert.predict(observation)
            if step in hold:  # the arm is held where it is
                action = observation["observation"][17:20]
            if step == hold.stop + 3:
                assert len(expert.plan_seconds) == before + 1, "it goes on with its plan"
            observation, _, terminated, _, info = env.step(action)
            if terminated:
                break
        assert info["is_success"], seed
    env.close()


def test_moves_without_a_pause() -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    for seed in VALIDATION_SEEDS[:10]:
        _, _, actions = run_episode(env, expert, seed)
        steps = np.linalg.norm(np.diff(actions, axis=0), axis=1)
        assert np.sum(steps < 0.003) <= 2, "only as it turns back at the target, and as it ends"
    env.close()


def test_depends_on_the_episode_alone() -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    _, _, first = run_episode(env, expert, 1_000_000)
    run_episode(env, expert, 1_000_001, kicks=range(10, 30))
    _, _, again = run_episode(env, expert, 1_000_000)
    assert np.array_equal(first, again)
    env.close()


def test_explains_its_plan() -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    scene = {"puck": [0.1, 0.3], "target": [-0.1, 0.3]}
    env.reset(options={"scene": scene})
    plan = expert.plan(env)
    assert plan.feasible
    assert plan.phases == ("approach", "push", "retreat")
    assert plan.waypoints["approach"] == pytest.approx([0.152, 0.3, 0.662], abs=1e-3)
    assert plan.waypoints["push"] == pytest.approx([-0.048, 0.3, 0.662], abs=1e-3)
    assert all(plan.objectives[f"push, part {i}"] < 1e-3 for i in (1, 2, 3, 4))
    assert np.all(np.diff(plan.times) > 0)
    speeds = np.linalg.norm(np.diff(plan.tool, axis=0), axis=1) / np.diff(plan.times)
    push = slice(plan.ends["approach"], plan.ends["push"])
    assert speeds[push].max() <= 0.18 + 1e-6
    assert speeds.max() <= 0.45 + 1e-6
    text = str(plan)
    assert text.startswith("feasible plan of ")
    assert "0.152, 0.300, 0.662 m" in text
    assert "push, part 1" in text
    env.close()


def test_names_a_scene_that_it_cannot_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    # A stick that must pass over the puck at a height beyond the arm's reach.
    monkeypatch.setattr("experts.push.CLEAR_HEIGHT", 2.5)
    observation, _ = env.reset(seed=0)
    action, _ = expert.predict(observation)
    assert expert.failure == "no feasible plan"
    assert action == pytest.approx(observation["observation"][17:20], abs=1e-5), "it stays"
    env.close()


def test_forgets_a_failure_with_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("KomoPush-v0")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    with monkeypatch.context() as patch:
        patch.setattr("experts.push.CLEAR_HEIGHT", 2.5)
        observation, _ = env.reset(seed=0)
        expert.predict(observation)
        expert.predict(observation)
        assert len(expert.plan_seconds) == 1, "it does not try again where nothing has moved"
        assert expert.failure == "no feasible plan"
    observation, _ = env.reset(seed=0)
    home = observation["observation"][17:20]
    env.step(home)  # someone else begins the episode
    observation, *_ = env.step(home)
    expert.predict(observation)
    assert expert.failure is None
    env.close()


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("KomoPush-v0", {"fixed_target": (0.0, 0.3), "start_box": ((-0.01, 0.29), (0.01, 0.31))}),
        (
            "KomoShelf-v0",
            {
                "neighbours": (2, 2),
                "cuboid_width": (0.08, 0.08),
                "cuboid_depth": (0.12, 0.12),
                "yaw": (0.6, 0.6),
                "min_clearance": 0.04,
            },
        ),
    ],
)
def test_options_that_no_scene_fits_are_one_clear_error(
    env_id: str, options: dict[str, Any]
) -> None:
    env = gym.make(env_id, **options)
    with pytest.raises(ValueError, match="none fits these options"):
        env.reset(seed=0)
    env.close()


def test_needs_an_env_of_its_task() -> None:
    with pytest.raises(ValueError, match="not a push task"):
        make_expert("KomoPush-v0").attach(gym.make("CartPole-v1"))
    with pytest.raises(RuntimeError, match="attach"):
        make_expert("KomoPush-v0").predict(None)
