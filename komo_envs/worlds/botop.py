"""The robot in real time, through rai's BotOp: the Panda itself, or one that BotOp simulates."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from komo_envs.entities import Array, Body
from komo_envs.worlds.base import CONTROL_PERIOD, WorldState
from komo_envs.worlds.panda import JOINT_HIGH, JOINT_LOW, LINK_FRAMES, load_panda, set_stiffness
from komo_envs.worlds.rai import RobotStopped, SimulationError, plain_errors, quiet, ry
from komo_envs.worlds.trajectory import Motion, brake, follow, go, stand

MAX_STEP = 1.05 * CONTROL_PERIOD
"""rad by which a joint's reference may change at once; the controller's limit is a little less."""
MAX_TRACKING_ERROR = 0.2
"""rad of a joint from where it is sent. Beyond, something holds the arm."""
MAX_BEHIND = 0.4
"""rad of a joint's commands from where it is planned to be."""
STALE = 0.5
"""Seconds after which the answer to an observation comes too late to be followed."""
STIFFNESS = 4.0
"""Of the simulated arm's drives, as a share of the simulation's: it follows as closely as the real
arm does, 25 ms behind."""
NEAR = 0.7
"""rad of a joint from home, from where the arm goes there by itself when it is first reached."""
OFF_WAY = 0.3
"""rad of a joint from the way that the arm came, from where it goes back by itself."""
SLOW = 0.3
"""rad/s of the fastest joint on such a way."""
DEAD = 1.0
"""Seconds of ours in which the robot's clock has to tick."""
LOST = 0.2
"""Seconds that the real robot's clock may lose in ``DEAD`` of ours. BotOp halts it, tick by tick,
while the arm cannot follow: something holds it, or gives way to it."""
PLANNED = 0.02
"""Seconds on the robot's clock that a motion may be old when it is sent."""
_LEAST = 1e-3  # rad; less is no motion
_ROUNDING = 1e-6  # rad
_SETTLE = 0.3  # s that bodies have to come to rest on what they stand on
_LOOK = 0.01  # s between two looks at the arm
_SPAN = 0.03  # s over which bodies' velocities are taken
_SAMPLES = 50  # of a straight way, to see whether it is free


class RobotWorld:
    """The Panda that BotOp drives. One of them is alive in a process.

    A control period ends when its time has come on the robot's clock. Every motion ends at rest, so
    an arm that has not been told anything by then stands still. What comes when half of its period
    is over begins a new one; what comes ``STALE`` seconds after its observation is not followed.

    ``cancelled`` is asked at every look at the arm, every 10 ms: when it says so, the arm brakes
    and is held. Whoever serves this world sets it, to say that nobody commands it any more.

    Args:
        address: Of the control unit of the robot itself. None: BotOp simulates the robot, and the
            bodies with it.
        stays: Whether a simulated arm stays where it is between episodes, as the robot itself does.
            It goes home on the way that it came.
        dry: Whether it is held where it is, and sent nothing.
        is_free: Whether the arm may be at joint positions (7,), rad, for which nobody has vouched:
            on the straight way home, where it came no other. Everywhere if None.
    """

    def __init__(
        self,
        address: str | None = None,
        stays: bool = False,
        dry: bool = False,
        is_free: Callable[[Array], bool] | None = None,
    ) -> None:
        self._address = address
        self._stays = stays or address is not None
        self._dry = dry
        self._is_free = is_free or (lambda q: True)
        self.cancelled: Callable[[], bool] = lambda: False
        self._bot: ry.BotOp | None = None
        self._stopped = True
        self._way: list[Array] = []
        self._lags: deque[tuple[float, float]] = deque()
        with quiet():
            ry.params_add({"disableGui": True})  # BotOp would open a window

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """Bring the arm to ``q`` (7,) at rest, and simulated bodies to their initial poses.

        Raises:
            RobotStopped: the arm is not where it is sent.
            SimulationError: rai refused the scene, or the robot cannot be reached, or is too far
                from ``q`` to go there by itself.
        """
        home = np.array(q, dtype=float)
        try:
            if self._stays and self._bot is not None and self._ticks():
                self._go_home(home)
            self._config = load_panda(bodies, arm_collides=arm_collides)
            frames = [frame.name for frame in self._config.getFrames()]
            self._links = [frames.index(name) for name in LINK_FRAMES]
            self._bodies = [frames.index(body.name) for body in bodies]
            with quiet():
                self._config.setJointState(home)
            if self._address is None:
                self._simulate(STIFFNESS * stiffness)
            elif self._bot is None:
                self._connect()
                self._go_home(home)
            self._way = [home]
            self._stand(home)
            self._start = self._end = self._sent + _SETTLE
            return self._state_at(self._end)
        except BaseException:
            self._stop()
            raise

    def _simulate(self, stiffness: float) -> None:
        with quiet():
            self._bot = None  # never two at once
            set_stiffness(self._config, stiffness)
            ry.params_add({"botsim/tau": 0.005, "botsim/verbose": 0, "bot/useGripper": False})
            self._bot = ry.BotOp(self._config, False)

    def _connect(self) -> None:
        """Reach the robot itself, and have it hold where it is.

        Raises:
            SimulationError: it cannot be reached.
        """
        try:
            with quiet():
                bot = ry.BotOp(self._config, True, False)
                bot.floating()  # what BotOp would hold at first is where the configuration is
                bot.launch_franka(self._address, self._config.getFrame("l_panda_base"), False)
                bot.hold()
        except SimulationError as error:
            if "not implemented" in str(error):
                raise SimulationError(
                    "robotic's wheel has no driver of the robot itself: build rai from source "
                    "with it (docs/real_robot.md)"
                ) from error
            raise
        self._bot = bot

    def _ticks(self) -> bool:
        """Whether the robot's clock goes on. If not, the robot has to be reached anew."""
        assert self._bot is not None
        start, end = self._bot.get_t(), time.monotonic() + DEAD
        while self._bot.get_t() <= start:
            if time.monotonic() > end:
                with quiet():
                    self._bot = None
                return False
            time.sleep(_LOOK)
        return True

    def _go_home(self, home: Array) -> None:
        """Bring the arm home: on the way that it came, or straight if it came none.

        Raises:
            SimulationError: it is too far from there, or from that way, or the straight way is not
                free.
            RobotStopped: it was stopped on its way.
        """
        assert self._bot is not None
        here = self._bot.get_q()
        self._stand(here)
        if self._way and not self._dry:  # a dry run has come no way
            self._go_back(here, home)
            return
        away = np.abs(here - home)
        by_hand = f"bring the arm by hand within {NEAR} rad of {np.round(home, 2).tolist()}"
        if not away.max() <= NEAR:
            raise SimulationError(
                f"joint {away.argmax() + 1} is {away.max():.2f} rad from home: {by_hand}"
            )
        way = np.linspace(here, home, _SAMPLES)
        if away.max() > _LEAST and not all(self._is_free(q) for q in way):
            raise SimulationError(f"the straight way home is not free: {by_hand}, where it is")
        self._move(go(here, home, SLOW))

    def _go_back(self, here: Array, home: Array) -> None:
        """Bring the arm home on the way that it came, which was free."""
        assert self._bot is not None
        away = [float(np.abs(each - here).max()) for each in self._way]
        # If it was held up, it has not come to where it was sent last, and is not to try again.
        nearest = int(np.argmin(away))
        if not away[nearest] <= OFF_WAY:
            raise SimulationError(
                f"the arm is {away[nearest]:.2f} rad from the way that it came: bring it by hand "
                f"within {OFF_WAY} rad of it, or near {np.round(home, 2).tolist()} and begin anew"
            )
        self._move(go(here, self._way[nearest], SLOW))
        self._stand(self._way[nearest])
        for reference in self._way[nearest::-1]:
            if np.abs(reference - self._reference).max() > _LEAST:
                self._end = self._bot.get_t() + CONTROL_PERIOD
                self._send(reference)
                self._look_until(self._end)
        self._look_until(self._sent + self._motion.time)
        self._move(go(self._motion.at(self._motion.time)[0], home, SLOW))

    def _stand(self, q: Array) -> None:
        assert self._bot is not None
        self._reference = np.array(q, dtype=float)
        self._motion, self._sent = stand(self._reference), self._bot.get_t()
        self._stopped = False
        self._held = self._bot.get_q()  # a dry run stands where it is
        self._lags.clear()

    def _move(self, motion: Motion) -> None:
        """Go through with a motion from where the arm stands."""
        assert self._bot is not None
        self._motion, self._sent = motion, self._bot.get_t()
        times, positions = motion.waypoints()
        if not self._dry:
            with plain_errors():
                self._bot.move(positions, times, True, self._sent)
        self._look_until(self._sent + motion.time)

    def step(self, reference: Array) -> WorldState:
        """Move toward ``reference`` (7,), rad, until the end of the control period.

        Raises:
            RobotStopped: the reference is none that an arm may be told, or the arm is not where it
                should be. It is held, and has to be reset.
            SimulationError: the world was not reset.
        """
        if self._bot is None or self._stopped:
            raise SimulationError("step before reset")
        try:
            reference = self._checked(reference)
            now = self._bot.get_t()
            latency = max(0.0, now - self._end)
            # What comes late finds the arm at rest, or coming to it, and has a period of its own.
            self._end = (self._end if latency < CONTROL_PERIOD / 2 else now) + CONTROL_PERIOD
            if followed := latency < STALE:
                self._send(reference)
                self._way.append(reference)
            return self._state_at(self._end, latency, followed)
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """Let the arm come to rest, hold it, and let go of it."""
        if self._bot is not None and not self._stopped:
            with contextlib.suppress(SimulationError):
                self._look_until(self._sent + self._motion.time)
        self._stop()
        with quiet():
            self._bot = None

    def _stop(self) -> None:
        """Hold the arm where it is, and have it follow nothing until the next reset."""
        self._stopped = True
        if self._bot is not None:
            with quiet():
                self._bot.hold()

    def _checked(self, reference: Array) -> Array:
        """The reference, if it is one that an arm may be told.

        Raises:
            RobotStopped: it is not.
        """
        if reference.shape != (7,) or not np.isfinite(reference).all():
            raise self._refusal(f"refused {reference.tolist()}: expected 7 finite numbers")
        if _leaves_limits(reference):
            raise self._refusal(f"refused {reference.tolist()}: beyond the joint limits")
        step = np.abs(reference - self._reference)
        if step.max() > MAX_STEP:
            raise self._refusal(
                f"refused a jump of joint {step.argmax() + 1} by {step.max():.3f} rad: expected "
                f"{MAX_STEP:.3f} at most"
            )
        return np.array(reference, dtype=float)

    def _send(self, reference: Array) -> None:
        """Set the arm moving toward a reference, where it is to be at the end of the period.

        Raises:
            RobotStopped: it is not where it should be, or would leave its limits.
            SimulationError: this machine does not keep up.
        """
        assert self._bot is not None
        velocity = (reference - self._reference) / CONTROL_PERIOD
        for _ in range(5):
            now = self._bot.get_t()
            if now >= self._end:  # who had to wait for the processor has a period of its own
                self._end = now + CONTROL_PERIOD
            q, qdot = self._motion.at(now - self._sent)
            motion = follow(q, qdot, reference, velocity, self._end - now)
            times, positions = motion.waypoints()
            if self._bot.get_t() - now <= PLANNED:
                break
        else:
            self._brake()
            raise SimulationError("planning takes too long: this machine has too much to do")
        behind = np.abs(reference - q)
        if behind.max() > MAX_BEHIND:
            raise self._refusal(
                f"joint {behind.argmax() + 1} has come to be {behind.max():.2f} rad behind its "
                f"commands; expected {MAX_BEHIND} at most"
            )
        if _leaves_limits(positions):
            raise self._refusal("the way to what it was told leads beyond the joint limits")
        self._reference, self._motion, self._sent = reference, motion, now
        if not self._dry:
            with plain_errors():
                self._bot.move(positions, times, True, now)

    def _refusal(self, why: str) -> RobotStopped:
        """The error that ends what the arm is at, which has come to rest by then."""
        self._brake()
        return RobotStopped(why)

    def _brake(self) -> None:
        """Bring the arm to rest as fast as its accelerations allow."""
        assert self._bot is not None
        now = self._bot.get_t()
        motion = Motion((brake(*self._motion.at(now - self._sent)),))
        if not self._dry:
            times, positions = motion.waypoints()
            with plain_errors():
                self._bot.move(positions, times, True, now)
            time.sleep(motion.time + _LOOK)

    def _look_until(self, end: float) -> None:
        """Watch the arm until that time on its clock.

        Raises:
            RobotStopped: it is not where it is sent, or its clock stands or loses time, or nobody
                commands it any more.
        """
        assert self._bot is not None
        ticked, clock = time.monotonic(), -1.0
        while True:
            # Not stepObservation: while the arm is held it writes to an array that the robot's
            # thread reads, which ends the process.
            asked = time.monotonic()
            now, q = self._bot.get_t(), self._bot.get_q()
            if self.cancelled():
                raise self._refusal("nobody commands it any more")
            if now > clock:
                ticked, clock = time.monotonic(), now
            elif time.monotonic() - ticked > DEAD:
                raise RobotStopped(f"the robot's clock has stood for {DEAD} s")
            if self._address is not None and self._loses(now, asked):
                raise RobotStopped(
                    f"the robot's clock has lost {LOST} s: something is in the arm's way"
                )
            sent = self._held if self._dry else self._motion.at(now - self._sent)[0]
            error = np.abs(q - sent)
            if not error.max() <= MAX_TRACKING_ERROR:
                raise RobotStopped(
                    f"joint {error.argmax() + 1} is {error.max():.2f} rad from "
                    f"where it is sent; expected {MAX_TRACKING_ERROR} at most"
                )
            left = end - now
            if left <= 0:
                return
            time.sleep(min(left, _LOOK))

    def _loses(self, now: float, asked: float) -> bool:
        """Whether the robot's clock has lost too much of late, whatever we had to wait for.

        Args:
            now: What it was at.
            asked: On our clock, before it was read.
        """
        ours = time.monotonic()
        self._lags.append((ours, ours - now))
        while self._lags[0][0] < ours - DEAD:
            self._lags.popleft()
        return asked - now - min(lag for _, lag in self._lags) > LOST

    def _watch(self) -> tuple[float, Array]:
        """The time on the robot's clock, s, and the poses (N, 7) of all frames then."""
        assert self._bot is not None
        with plain_errors():
            if self._address is None:
                self._bot.sync(self._config, 0.0)
            else:  # only the arm is known
                self._config.setJointState(self._bot.get_q())
            return self._bot.get_t(), self._config.getFrameState()

    def _state_at(self, end: float, latency: float = 0.0, followed: bool = True) -> WorldState:
        """What is the case at that time on the robot's clock.

        Raises:
            RobotStopped: the arm is not where it is sent.
        """
        assert self._bot is not None
        self._look_until(end - _SPAN)
        before, then = self._watch()
        self._look_until(max(end, before + _LOOK))  # also where there was no time to wait for that
        now, frames = self._watch()
        return WorldState(
            time=now - self._start,
            q=self._bot.get_q(),
            qdot=self._bot.get_qDot(),
            link_poses=frames[self._links],
            body_poses=frames[self._bodies],
            body_velocities=_velocities(then[self._bodies], frames[self._bodies], now - before),
            latency=latency,
            followed=followed,
        )


def _leaves_limits(q: Array) -> bool:
    """Whether any of joint positions (..., 7), rad, is beyond the joint limits."""
    return bool(np.any(q < JOINT_LOW - _ROUNDING) or np.any(q > JOINT_HIGH + _ROUNDING))


def _velocities(before: Array, after: Array, time: float) -> Array:
    """Linear (m/s) and angular (rad/s) velocities (N, 6) between poses (N, 7)."""
    turns = [Rotation.from_quat(each[:, 3:], scalar_first=True) for each in (after, before)]
    angular = (turns[0] * turns[1].inv()).as_rotvec()
    return np.concatenate([after[:, :3] - before[:, :3], angular], axis=1) / time
