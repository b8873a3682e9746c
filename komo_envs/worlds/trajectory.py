"""How a robot in real time follows references that come ten times a second.

The motions are cubics, which take as little acceleration as a period allows. A time-optimal planner
such as Ruckig would begin and end each period with all the acceleration that is allowed: with the
Panda's limits of jerk, about twice the acceleration and four times the jerk (root mean squares over
the experts' references).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from komo_envs.entities import Array
from komo_envs.worlds.base import CONTROL_PERIOD

SPLINE = 1.5
"""By how much the first and last accelerations of the spline that BotOp makes of way-points are
larger than those of the motion that they are of."""
MAX_ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]) / SPLINE
"""rad/s^2 of each joint: in the spline, the Panda's limits, of Franka's interface specification."""
MAX_SPEED = 1.3
"""rad/s of a joint that catches up with its commands, which are no faster than 1 rad/s."""
_WAYPOINTS = 40  # a second
_STRETCHES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_SPEEDS = (1.0, 0.5, 0.0)


@dataclass(frozen=True)
class Piece:
    """The cubic motion between two states (rad, rad/s) that are ``time`` seconds apart."""

    q: Array
    qdot: Array
    end: Array
    end_qdot: Array
    time: float

    def at(self, time: float | Array) -> tuple[Array, Array]:
        """Joint positions and velocities (7,) so many seconds after its beginning; (N, 7) of (N, 1)
        seconds.
        """
        s = time / self.time
        first = (1 + 2 * s) * self.q + s * self.time * self.qdot
        last = (3 - 2 * s) * self.end - (1 - s) * self.time * self.end_qdot
        qdot = (
            6 * s * (1 - s) * (self.end - self.q) / self.time
            + (1 - s) * (1 - 3 * s) * self.qdot
            + s * (3 * s - 2) * self.end_qdot
        )
        return (1 - s) ** 2 * first + s**2 * last, qdot

    def strain(self) -> float:
        """The largest acceleration or speed in it, as a share of the joint's limit."""
        # The acceleration of a cubic is linear in time, so it is largest at one of the ends.
        way = 6 * (self.end - self.q) / self.time**2
        first = way - (4 * self.qdot + 2 * self.end_qdot) / self.time
        last = -way + (2 * self.qdot + 4 * self.end_qdot) / self.time
        shares = np.linspace(0, 1, 9)[:, None]
        speeds = self.at(shares * self.time)[1]
        accelerations = np.abs([first, last]) / MAX_ACCELERATION
        return float(max(accelerations.max(), np.abs(speeds).max() / MAX_SPEED))


@dataclass(frozen=True)
class Motion:
    """Pieces of a motion, one after the other, that end at rest."""

    pieces: tuple[Piece, ...]

    @property
    def time(self) -> float:
        """Seconds that it takes."""
        return sum(piece.time for piece in self.pieces)

    def at(self, time: float) -> tuple[Array, Array]:
        """Joint positions and velocities (7,) so many seconds after its beginning, or at its end
        if that is past.
        """
        for piece in self.pieces:
            if time <= piece.time:
                return piece.at(time)
            time -= piece.time
        return self.pieces[-1].end, self.pieces[-1].end_qdot

    def waypoints(self) -> tuple[Array, Array]:
        """Times (N,) since its beginning, the last one its end, and joint positions (N, 7)."""
        count = max(2, round(self.time * _WAYPOINTS))
        times = np.arange(1, count + 1) / count * self.time
        return times, np.array([self.at(time)[0] for time in times])


def stand(q: Array) -> Motion:
    """No motion, at joint positions (7,)."""
    return Motion((brake(q, np.zeros(7)),))


def go(q: Array, end: Array, speed: float) -> Motion:
    """A motion from rest to rest in which no joint is faster than ``speed``, rad/s."""
    # Half-way, a cubic is half again as fast as on average.
    time = max(CONTROL_PERIOD, 1.5 * float(np.abs(end - q).max()) / speed)
    return Motion((Piece(q, np.zeros(7), end, np.zeros(7), time),))


def brake(q: Array, qdot: Array) -> Piece:
    """What brings an arm to rest, all joints in the same time: it stays on its way."""
    time = brake_time(qdot)
    return Piece(q, qdot, q + qdot * time / 2, np.zeros(7), time)


def brake_time(qdot: Array) -> float:
    """Seconds in which an arm comes to rest: those in which it may also get from rest to there."""
    return max(CONTROL_PERIOD, float(np.max(np.abs(qdot) / MAX_ACCELERATION)))


def follow(q: Array, qdot: Array, reference: Array, velocity: Array, time: float) -> Motion:
    """The motion toward a moving reference, and from there to a halt.

    Whatever comes after it, or does not, it ends at rest, where the reference is: an arm that is
    told nothing more stands still. It is there later, or slower, if ``MAX_ACCELERATION`` and
    ``MAX_SPEED`` want it so, and brakes at once if that does not help.

    Args:
        q: Joint positions (7,) that it begins at, rad.
        qdot: Joint velocities (7,) that it begins with, rad/s.
        reference: Where the arm is to be (7,), rad, so much ``time`` from now, but for what it
            trails by: half of ``brake_time``.
        velocity: Of the reference (7,), rad/s.
        time: Seconds, more than 0.
    """
    for stretch in _STRETCHES:
        for speed in _SPEEDS:
            end_qdot = speed * velocity
            # It trails by half the way that it brakes on, so that it comes to rest where it should.
            end = reference - end_qdot * brake_time(end_qdot) / 2
            pieces = Piece(q, qdot, end, end_qdot, stretch * time), brake(end, end_qdot)
            if max(piece.strain() for piece in pieces) <= 1 + 1e-9:
                return Motion(pieces)
    return Motion((brake(q, qdot),))
