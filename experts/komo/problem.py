"""Path optimization with KOMO: a problem of named objectives, and the plan that solves it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experts.komo.timing import time_path
from komo_envs.entities import Array, Body, Pose
from komo_envs.worlds.panda import GRIPPER, load_panda
from komo_envs.worlds.rai import quiet, ry

EQ, INEQ, SOS = ry.OT.eq, ry.OT.ineq, ry.OT.sos
"""Kinds of objectives: the value is zero, it is at most zero, its square is a cost."""
SLICES = 12
"""Number of configurations that KOMO optimizes in each phase."""
# Measured on random scenes: these solve the problems of this package fastest.
_SOLVER = {
    "damping": 0.1,
    "stopTolerance": 1e-3,
    "lambdaMax": 100.0,
    "stopInners": 20,
    "stopEvals": 400,
}


@dataclass(frozen=True)
class Plan:
    """A timed path of the arm, with the values of its objectives."""

    feasible: bool
    """Whether every constraint is met; only then may the plan be executed."""
    phases: tuple[str, ...]
    """Names of the phases, in order."""
    waypoints: dict[str, Array]
    """Tool position (3,) at the end of each phase, world frame, m."""
    objectives: dict[str, float]
    """Value of each of KOMO's objectives at the solution: squared cost, or violation."""
    path: Array
    """Joint positions (T, 7), rad; the first row is the arm's at the start."""
    tool: Array
    """Tool positions (T, 3) along the path, m."""
    times: Array
    """Seconds (T,) from the start of execution."""
    ends: dict[str, int]
    """Row of the path at which each phase ends."""
    solve_seconds: float
    """Wall time of the optimization, s."""

    def __str__(self) -> str:
        """Report of the plan, for people."""
        kind = "feasible" if self.feasible else "INFEASIBLE"
        lines = [
            f"{kind} plan of {self.times[-1]:.2f} s, found in {1000 * self.solve_seconds:.0f} ms"
        ]
        lines += [f"  {'phase':<10}{'ends at':>8}    tool at x, y, z"]
        for phase in self.phases:
            x, y, z = self.waypoints[phase]
            lines += [f"  {phase:<10}{self.end_time(phase):>6.2f} s    {x:.3f}, {y:.3f}, {z:.3f} m"]
        lines += ["  objective: cost, or violation of a constraint"]
        lines += [f"    {value:8.1e}  {name}" for name, value in self.objectives.items()]
        return "\n".join(lines)

    def at(self, seconds: float) -> Array:
        """Joint positions (7,), rad, at a time; after the end, the last ones."""
        return np.array([np.interp(seconds, self.times, column) for column in self.path.T])

    def end_time(self, phase: str) -> float:
        """Time at which a phase ends, s."""
        return float(self.times[self.ends[phase]])


class Problem:
    """A KOMO problem of order 2 over the joint path of the arm.

    Its objectives have names, and hold over times counted in phases: ``[1, 2]`` is the second one.
    """

    def __init__(
        self, tool: Pose, q: Array, phases: Sequence[str], bodies: Sequence[Body] = ()
    ) -> None:
        """A path from joint positions ``q`` (7,) through ``phases``, smooth and within limits.

        Args:
            tool: Pose (7,) of the tool in the gripper's frame; objectives know it as ``"tool"``.
            q: Joint positions at the start, rad.
            phases: Names of the path's phases, in order.
            bodies: Bodies that objectives can name.
        """
        self._config = load_panda(bodies, meshes=False)
        self._start = np.array(q, dtype=float)
        self._phases = tuple(phases)
        with quiet():
            self._config.addFrame("tool", GRIPPER).setRelativePose(list(tool))
            self._config.setJointState(q)
            self._komo = ry.KOMO(self._config, len(phases), SLICES, 2, False)
            self._komo.addControlObjective([], 0, 1e-2)
            self._komo.addControlObjective([], 2, 1e-1)
        self._names = ["stay near the start posture", "low acceleration"]
        self.add("joint limits", INEQ, [], ry.FS.jointLimits, [], 1.0)

    def add(
        self,
        name: str,
        kind: ry.OT,
        times: Sequence[float],
        feature: ry.FS,
        frames: Sequence[str],
        scale: ArrayLike,
        target: ArrayLike = (),
        order: int = 0,
    ) -> None:
        """Add the objective ``scale @ (feature - target)``, or its ``order``-th time derivative.

        Args:
            name: Name of the objective in the plan's report.
            kind: ``EQ`` or ``INEQ``, for every row of it.
            times: Start and end in phases, or one point of time; empty for the whole path.
            feature: A feature of rai.
            frames: Names of the feature's frames.
            scale: A number, or a matrix with a column for each row of the feature.
            target: As many numbers as the feature has rows; none for zeros.
            order: 0 for the feature itself, 1 for its velocity.
        """
        with quiet():
            self._komo.addObjective(
                list(times),
                feature,
                list(frames),
                kind,
                np.atleast_1d(np.asarray(scale, dtype=float)),
                np.asarray(target, dtype=float),
                order,
            )
        self._names.append(name)

    def solve(
        self, tool_speed: Mapping[str, float], joint_speed: float, stops: Sequence[str]
    ) -> Plan:
        """Optimize the path, and time it.

        Args:
            tool_speed: Speed limit of the tool in each phase, m/s.
            joint_speed: Speed limit of every joint, rad/s.
            stops: Phases at whose end the arm stands still.
        """
        started = time.perf_counter()
        with quiet():
            ry.rnd_seed(0)  # KOMO draws its start from rai's global generator
            solver = ry.NLP_Solver(self._komo.nlp(), verbose=0)
            solver.setOptions(verbose=0, **_SOLVER)
            result = solver.solve()
        seconds = time.perf_counter() - started
        with quiet():
            report = self._komo.report(False, True, False)
            path = np.vstack([self._start, self._komo.getPath()])
            frame = self._config.getFrame("tool")
            rows = []
            for q in path:
                self._config.setJointState(q)
                rows.append(frame.getPosition())
        positions = np.array(rows)
        ends = {phase: (i + 1) * SLICES for i, phase in enumerate(self._phases)}
        limits = np.repeat([tool_speed[phase] for phase in self._phases], SLICES)
        still = [0, *(ends[phase] for phase in stops)]
        return Plan(
            feasible=bool(result.feasible) and bool(np.isfinite(path).all()),
            phases=self._phases,
            waypoints={phase: positions[row] for phase, row in ends.items()},
            objectives={name: float(report[f"o{i}"]["err"]) for i, name in enumerate(self._names)},
            path=path,
            tool=positions,
            times=time_path(path, positions, limits, joint_speed, still),
            ends=ends,
            solve_seconds=seconds,
        )
