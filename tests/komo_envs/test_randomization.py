"""Domain randomization: it varies what it says, no more, and can be set up again."""

from __future__ import annotations

import json
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from common import digest
from conftest import run_module

import komo_envs  # noqa: F401 - registers the ids
from benchmark.records.result import Episode
from benchmark.reporting.scene_map import make_scene_map
from experts import make_expert
from komo_envs.randomization import DYNAMICS, LIMITS, VISUAL

TASKS = ("KomoPushHard-v0", "KomoShelfHard-v0")


def make(env_id: str, randomize: Any = None, **options: Any) -> gym.Env[Any, Any]:
    options = {"obs_mode": "rgbd", "image_size": 48, **options}
    if randomize is not None:
        options["randomize"] = randomize
    return gym.make(env_id, disable_env_checker=True, **options)


def play(env: gym.Env[Any, Any], steps: int = 8, **reset: Any) -> tuple[list[Any], list[Any]]:
    """What is observed, and the states, in an episode with the same actions each time."""
    rng = np.random.default_rng(0)
    space: Any = env.action_space
    home = env.unwrapped.controller.encode(env.unwrapped.task.home)  # type: ignore[attr-defined]
    observation, _ = env.reset(**reset)
    seen, states = [observation], [env.unwrapped.state]  # type: ignore[attr-defined]
    for _ in range(steps):
        action = home + 0.2 * rng.uniform(-1, 1, space.shape) * (space.high - space.low)
        seen.append(env.step(np.clip(action, space.low, space.high).astype(np.float32))[0])
        states.append(env.unwrapped.state)  # type: ignore[attr-defined]
    return seen, states


def same(first: list[Any], second: list[Any]) -> bool:
    return [digest(vars(x)) for x in first] == [digest(vars(x)) for x in second]


def pictures(seen: list[Any]) -> list[str]:
    return [digest({key: each[key] for key in ("pixels", "depth")}) for each in seen]


@pytest.mark.parametrize("env_id", TASKS)
def test_an_episode_can_be_set_up_again(env_id):
    plain, env = make(env_id), make(env_id, "all", cameras=("front", "wrist"))
    seen, states = play(env, seed=3)
    scene = json.loads(json.dumps(env.unwrapped.scene))
    other, _ = play(env, seed=4)
    again, states_again = play(env, options={"scene": scene})
    once_more, _ = play(env, seed=3)
    plain.reset(seed=3)
    env.close()
    assert pictures(seen) == pictures(again) == pictures(once_more) != pictures(other)
    assert same(states, states_again)
    # What the task draws is what it draws without.
    assert {k: v for k, v in scene.items() if k != "randomize"} == plain.unwrapped.scene
    plain.close()


@pytest.mark.parametrize("name", LIMITS)
def test_each_range_varies_what_it_says(name):
    plain, env = make(TASKS[1]), make(TASKS[1], {name: LIMITS[name] / 2})
    seen, states = play(plain, seed=1)
    varied, moved = play(env, seed=1)
    plain.close()
    env.close()
    if name in ("mass", "friction"):
        return  # nothing is touched here
    arm = name in ("stiffness", "action_delay")
    assert same(states, moved) != arm
    assert pictures(seen) != pictures(varied)
    for key in ("pixels", "depth"):
        alike = all(np.array_equal(a[key], b[key]) for a, b in zip(seen, varied, strict=True))
        paint = name in ("light_direction", "brightness", "colors", "texture")
        measured = name in ("depth_noise", "depth_holes")
        if (paint and key == "depth") or (measured and key == "pixels"):
            assert alike, key


def varied(env: gym.Env[Any, Any], **drawn: float) -> dict[str, Any]:
    """The scene of a seed, with other numbers in place of those that were drawn."""
    env.reset(seed=2)
    scene = json.loads(json.dumps(env.unwrapped.scene))  # type: ignore[attr-defined]
    scene["randomize"] |= drawn
    return scene


def test_delays_are_as_long_as_they_say():
    plain = make("KomoPush-v0")
    env = make("KomoPush-v0", {"action_delay": 0.3, "observation_delay": 0.3})
    seen, states = play(plain, seed=2)
    scene = varied(env, action_delay=0.0, observation_delay=0.2)
    late, same_states = play(env, options={"scene": scene})
    assert same(states, same_states)
    assert pictures(late)[2:] == pictures(seen)[:-2]
    assert np.array_equal(late[5]["agent_pos"], seen[5]["agent_pos"]), "a robot feels its joints"
    scene = varied(env, action_delay=0.1, observation_delay=0.0)
    _, trailing = play(env, options={"scene": scene})
    for before, after in zip(states, trailing[1:], strict=False):
        np.testing.assert_allclose(before.q, after.q, atol=2e-3)
    scene = varied(env, action_delay=0.05, observation_delay=0.0)
    _, between = play(env, options={"scene": scene})
    middle = (states[3].q + trailing[3].q) / 2
    np.testing.assert_allclose(between[3].q, middle, atol=5e-3)
    plain.close()
    env.close()


@pytest.mark.parametrize("name", ["mass", "friction"])
def test_mass_and_friction_are_felt(name):
    env = make("KomoPush-v0", {"mass": 0.7, "friction": 0.7}, obs_mode="state")
    expert = make_expert("KomoPush-v0")
    expert.attach(env)
    start = varied(env, mass=0.0, friction=0.0)
    observation, _ = env.reset(options={"scene": start})
    actions, state = [], None
    for step in range(25):
        action, state = expert.predict(observation, state, np.array([step == 0]))
        actions.append(action)
        observation, *_ = env.step(action)
    places = [observation["achieved_goal"][:2]]
    assert np.linalg.norm(places[0] - start["puck"]) > 0.03
    for share in (-0.7, 0.7):
        env.reset(options={"scene": varied(env, **{"mass": 0.0, "friction": 0.0, name: share})})
        places += [[env.step(action) for action in actions][-1][0]["achieved_goal"][:2]]
    env.close()
    assert min(np.linalg.norm(places[0] - place) for place in places[1:]) > 1e-4


def test_a_soft_arm_trails_its_commands():
    env = make("KomoPush-v0", {"stiffness": 0.7})
    errors = []
    for stiffness in (-0.7, 0.0, 0.7):
        seen, states = play(env, options={"scene": varied(env, stiffness=stiffness)})
        command = np.array([each["agent_pos"][7:14] for each in seen])
        errors.append(np.abs(np.array([state.q for state in states]) - command).mean())
    env.close()
    assert errors[0] > 1.5 * errors[1]
    assert errors[2] != errors[1]


def test_depth_is_as_noisy_as_it_says():
    plain = make("KomoPush-v0", image_size=96)
    [clean], _ = play(plain, 0, seed=2)
    noisy = make("KomoPush-v0", {"depth_noise": 0.01, "depth_holes": 1.0}, image_size=96)
    scene = varied(noisy, depth_noise=0.008, depth_holes=0.0)
    [first, second], _ = play(noisy, 1, options={"scene": scene})
    far = clean["depth"][30:] > 0.3
    error = (first["depth"][30:] - clean["depth"][30:])[far] / clean["depth"][30:][far] ** 2
    assert abs(error.std() - 0.008) < 0.0005
    assert abs(error.mean()) < 0.0005
    assert not np.array_equal(first["depth"], second["depth"])
    scene = varied(noisy, depth_noise=0.0, depth_holes=0.5)
    [holes], _ = play(noisy, 0, options={"scene": scene})
    lost = (holes["depth"] == 0) & (clean["depth"] > 0)
    assert 0.01 < lost.mean() < 0.3
    assert np.array_equal(holes["depth"][~lost], clean["depth"][~lost])
    for each in (plain, noisy):
        each.close()


@pytest.mark.parametrize("env_id", ["KomoPush-v0", "KomoShelf-v0"])
def test_an_expert_copes_and_its_labels_are_of_the_same_world(env_id):
    env = gym.make(env_id, randomize="dynamics", disable_env_checker=True)
    expert = make_expert(env_id)
    expert.attach(env)
    solved = 0
    for seed in range(4):
        observation, info = env.reset(seed=seed)
        state, over, actions = None, False, []
        while not over:
            action, state = expert.predict(observation, state, np.array([not actions]))
            if not actions:
                said = expert.label(env)
            actions.append(action)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        solved += info["is_success"]
        np.testing.assert_array_equal(said, actions[: len(said)])
    env.close()
    assert solved >= 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a lot", "randomize: 'a lot'; expected None, 'visual', 'dynamics', 'all', or a dict with"),
        ({"light": 0.1}, "randomize: .*expected None"),
        ({"mass": 2.0}, "randomize: mass: 2.0; expected a number from 0 to 0.7"),
        ({"mass": float("nan")}, "randomize: mass: nan; expected a number"),
        ({"mass": "0.1"}, "randomize: mass: '0.1'; expected a number"),
        (["mass"], "randomize: .*expected None"),
    ],
)
def test_what_cannot_vary_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        make("KomoPush-v0", value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scene: scene.pop("randomize"), r"scene\['randomize'\]: expected the keys .* None"),
        (lambda scene: scene["randomize"].pop("mass"), r"scene\['randomize'\]: expected the keys"),
        (lambda scene: scene["randomize"].update(mass=0.31), "'mass'.*from -0.3 to 0.3, got 0.31"),
        (lambda scene: scene["randomize"].update(mass=float("nan")), "'mass'.*got nan"),
        (lambda scene: scene["randomize"].update(colors=[[0, 0, 0]]), r"'colors'.*\(4, 3\)"),
        (lambda scene: scene["randomize"].update(noise=-1), "'noise'.*expected a seed, got -1"),
        (lambda scene: scene.update(puck="here"), r"scene\['puck'\]"),
    ],
)
def test_a_scene_that_cannot_have_been_drawn_is_refused(change, message):
    env = make("KomoPush-v0", "all")
    env.reset(seed=0)
    scene = json.loads(json.dumps(env.unwrapped.scene))
    change(scene)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"scene": scene})
    env.close()


def test_the_named_ranges_are_within_the_limits_and_do_not_overlap():
    for name in LIMITS:
        assert (
            not (getattr(VISUAL, name) and getattr(DYNAMICS, name)) or name == "observation_delay"
        )
        assert getattr(VISUAL, name) or getattr(DYNAMICS, name)


def test_a_scene_that_varies_is_on_the_map():
    env = make("KomoPushRandomized-v0")
    env.reset(seed=0)
    scene = json.loads(json.dumps(env.unwrapped.scene))
    env.close()
    episode = Episode("KomoPushRandomized-v0", 0, scene, True, True, 0.01, 30, None)
    scene_map = make_scene_map(episode.env, [episode])
    assert scene_map is not None
    [mark] = scene_map.marks
    assert mark.start == pytest.approx((1000 * scene["puck"][0], -1000 * scene["puck"][1]), abs=0.1)


def test_a_policy_is_scored_while_one_thing_varies(tmp_path):
    out = tmp_path / "scores.json"
    words = ("--policy", "expert", "--env", "KomoPush-v0", "--episodes", 1, "--out", out)
    done = run_module("robustness", *words)
    assert done.returncode == 0, done.stderr
    said = json.loads(out.read_text())
    assert said["policy"]["name"] == "expert"
    assert list(said["scores"]) == ["none", *LIMITS, "visual", "dynamics", "all"]
    plain = said["scores"]["none"]
    assert (plain["successes"], plain["difference"]) == (1, 0.0)
    # What an expert sees does not vary.
    for name in ("brightness", "camera_position", "depth_noise", "visual"):
        assert said["scores"][name]["successes"] == 1
    assert re.search(r"\nmass +0\.3 +\d+% \[\d+, \d+\] +[+-]\d+ \[[+-]\d+, [+-]\d+\]", done.stdout)
    done = run_module("robustness", *words[:4], "--episodes", 0)
    assert done.returncode == 2
    assert "--episodes 0: expected 1 to" in done.stderr
