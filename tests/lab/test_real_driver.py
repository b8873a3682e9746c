"""What is asked of a real arm's driver, which a stand-in answers: there is no arm here."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import komo_envs  # noqa: F401 - registers the ids
from komo_envs.control import IsSafe
from komo_envs.entities import Array, Body
from komo_envs.worlds.botop import NEAR, RobotWorld
from komo_envs.worlds.panda import JOINT_HIGH
from komo_envs.worlds.rai import RobotStopped, SimulationError
from komo_envs.worlds.trajectory import Motion, go


class Arm:
    """An arm that is exactly where it is sent, on a clock that can be halted."""

    calls: list[str]
    q: Array
    rate: float

    def __init__(self, *_: Any) -> None:
        self._start, self._real = 0.0, time.monotonic()
        self._way: tuple[Array, Array] | None = None

    def floating(self) -> None:
        self.calls.append("floating")

    def launch_franka(self, *_: Any) -> None:
        self.calls.append("launch")
        type(self).rate = 1.0

    def hold(self) -> None:
        self.calls.append("hold")
        type(self).q, self._way = self.get_q(), None

    def move(self, positions: Array, times: Array, overwrite: bool, start: float) -> None:
        assert overwrite
        self.calls.append("move")
        before = self.get_q()
        self._way = np.concatenate([[start], start + times]), np.concatenate([[before], positions])

    def get_t(self) -> float:
        now = time.monotonic()
        self._start += self.rate * (now - self._real)
        self._real = now
        return self._start

    def get_q(self) -> Array:
        if self._way is None:
            return self.q
        now = self.get_t()
        return np.array([np.interp(now, self._way[0], each) for each in self._way[1].T])

    def get_qDot(self) -> Array:
        return np.zeros(7)


@pytest.fixture(scope="module")
def scene() -> tuple[Array, tuple[Body, ...]]:
    """Home, and the bodies of a scene."""
    env: Any = gym.make("KomoPush-v0").unwrapped
    env.reset(seed=0)
    env.close()
    return np.array(env.task.home), env.bodies


@pytest.fixture
def arm(scene: tuple[Array, tuple[Body, ...]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of an arm that stands 0.1 rad from home."""
    kind = type("Arm", (Arm,), {"calls": [], "q": scene[0] + 0.1, "rate": 1.0})
    monkeypatch.setattr("komo_envs.worlds.botop.ry.BotOp", kind)
    yield kind
    assert kind.calls[-1] == "hold", "whatever happens, it is held in the end"


def advance(world: RobotWorld, start: Array, steps: int) -> Array:
    """Turn the first joint, step by step; where it is sent last."""
    reference = start.copy()
    for _ in range(steps):
        reference[0] += 0.05
        world.step(reference)
    return reference


def overshoot(q: Array, *_: Any) -> Motion:
    """A motion that ends beyond a limit."""
    beyond = q.copy()
    beyond[6] = JOINT_HIGH[6] + 0.01
    return go(q, beyond, 10.0)


def test_it_is_held_when_it_is_reached_and_then_goes_home(arm: Any, scene: Any) -> None:
    home, bodies = scene
    world = RobotWorld("address", is_free=lambda q: True)
    state = world.reset(home, bodies)
    assert arm.calls[:4] == ["floating", "launch", "hold", "move"]
    assert np.allclose(state.q, home)
    reference = advance(world, home, 5)
    assert world.step(reference).q[0] > home[0] + 0.2, "it has been away"
    assert np.abs(world.reset(home, bodies).q - home).max() < 1e-6
    assert arm.calls.count("launch") == 1, "it goes back by itself"
    world.close()


@pytest.mark.parametrize("case", ["far", "not free", "beyond"])
def test_it_does_not_go_where_it_may_not(
    arm: Any, scene: Any, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, bodies = scene
    world = RobotWorld("address", is_free=lambda q: case != "not free" or q[0] < home[0] + 0.05)
    if case == "beyond":
        world.reset(home, bodies)
        limit = home.copy()
        while limit[6] < JOINT_HIGH[6]:
            limit[6] = min(limit[6] + 0.1, JOINT_HIGH[6])
            world.step(limit)
        for _ in range(5):  # it may stand where its limit is
            world.step(limit)
        monkeypatch.setattr("komo_envs.worlds.botop.follow", overshoot)
        with pytest.raises(RobotStopped, match="leads beyond the joint limits"):
            world.step(limit)
        return
    if case == "far":
        arm.q = home + NEAR + 0.1
    with pytest.raises(SimulationError, match=r"by hand within 0\.7 rad"):
        world.reset(home, bodies)
    assert "move" not in arm.calls


def test_what_holds_it_up_stops_it_and_it_goes_back_as_it_came(arm: Any, scene: Any) -> None:
    home, bodies = scene
    world = RobotWorld("address")
    world.reset(home, bodies)
    for rate, why in ((0.5, r"has lost 0\.2 s"), (0.0, r"has lost 0\.2 s|has stood for 1\.0 s")):
        reference = advance(world, home, 6)
        arm.rate = rate
        with pytest.raises(RobotStopped, match=why):
            advance(world, reference, 20)
        assert arm.calls[-1] == "hold"
        launched = arm.calls.count("launch")
        arm.rate = min(2 * rate, 1.0)  # what was in its way is gone, or its clock stands for good
        visited = watch(arm, lambda: world.reset(home, bodies))
        # Where its clock stands it is reached anew; the way that it came is not forgotten.
        assert arm.calls.count("launch") == launched + (rate == 0)
        assert np.ptp(visited[:, 1:], axis=0).max() < 1e-6, "by no other way"
        assert np.abs(visited[-1] - home).max() < 1e-6
    world.close()


def watch(arm: Any, what: Any) -> Array:
    """Where the arm has been (N, 7) while something was done."""
    seen: list[Array] = []
    original = arm.get_q

    def get_q(self: Any) -> Array:
        seen.append(original(self))
        return seen[-1]

    arm.get_q = get_q
    what()
    arm.get_q = original
    return np.array(seen)


def test_a_dry_run_holds_it_and_says_when_it_is_elsewhere(arm: Any, scene: Any) -> None:
    home, bodies = scene
    arm.q = home + 0.5
    world = RobotWorld("address", dry=True)
    world.reset(home, bodies)
    advance(world, home, 6)
    assert "move" not in arm.calls
    world.reset(home, bodies)
    arm.q = home + 0.8
    with pytest.raises(RobotStopped, match="rad from where it is sent"):
        world.step(home)


def test_it_brakes_on_its_way_home_when_nobody_commands_it(arm: Any, scene: Any) -> None:
    home, bodies = scene
    world = RobotWorld("address")
    world.reset(home, bodies)
    away = advance(world, home, 10)
    gone = threading.Event()
    world.cancelled = gone.is_set
    threading.Timer(0.5, gone.set).start()
    started = time.monotonic()
    with pytest.raises(RobotStopped, match="nobody commands it any more"):
        world.reset(home, bodies)
    assert time.monotonic() - started < 1.2
    assert arm.calls[-2:] == ["move", "hold"]
    assert home[0] + 0.1 < arm.q[0] < away[0] - 0.01, "it stands on the way"
    gone.clear()
    world.reset(home, bodies)
    world.close()


def test_one_that_was_stopped_on_its_first_way_home_can_be_brought_there(
    arm: Any, scene: Any
) -> None:
    home, bodies = scene
    world = RobotWorld("address")
    arm.q = home + 0.4
    original = arm.move

    def move(*words: Any) -> None:
        original(*words)
        threading.Timer(0.3, setattr, (arm, "rate", 0.0)).start()

    arm.move = move
    with pytest.raises(RobotStopped):
        world.reset(home, bodies)
    arm.move, arm.rate = original, 1.0
    assert np.abs(world.reset(home, bodies).q - home).max() < 1e-6
    world.close()


def test_what_is_safe_is_known_in_another_process() -> None:
    env: Any = gym.make("KomoShelf-v0").unwrapped
    is_safe = pickle.loads(pickle.dumps(IsSafe(env.task)))
    home = np.array(env.task.home)
    assert is_safe(home)
    assert not is_safe(home + np.eye(7)[1])
