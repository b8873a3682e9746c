"""The simulated robot: rai's PhysX, one control period at a time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from komo_envs.entities import IDENTITY, Array, Body
from komo_envs.worlds.base import CONTROL_PERIOD, WorldState
from komo_envs.worlds.panda import LINK_FRAMES, load_panda, set_stiffness
from komo_envs.worlds.rai import SimulationError, plain_errors, quiet, ry

PHYSICS_STEP = 0.005
"""Seconds of one physics step. At 10 ms and above a pushed puck no longer moves as it should."""
SUBSTEPS = round(CONTROL_PERIOD / PHYSICS_STEP)


class PhysxWorld:
    """One PhysX simulation in this process. Only one may be alive in a process at a time.

    rai's PhysX frees the materials of *all* simulations when one of them is dropped, which crashes
    the process sooner or later; ``komo_envs.worlds.make_world`` keeps that rule.
    """

    resets = 0
    """Number of resets of all such worlds of this process."""

    def __init__(self) -> None:
        self.closed = False
        self._config: ry.Config | None = None
        self._simulation: ry.Simulation | None = None
        self._layout: tuple[object, ...] = ()
        _worlds.add(self)

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """Set the arm to ``q`` (7,) at rest, and every body to its initial pose.

        With ``arm_collides``, the arm and the hand can touch things too, not only the tool. The
        joint drives are ``stiffness`` times as stiff as usual, with the same damping.

        Raises:
            SimulationError: rai refused the scene.
        """
        # Only a new simulation starts from exactly the same state again; it takes under a
        # millisecond. The old one goes first, since two must never be alive.
        self._simulation = None
        PhysxWorld.resets += 1
        # What a tool's parts are is in their poses, too.
        parts = (body if body.parent else replace(body, pose=IDENTITY) for body in bodies)
        layout = (arm_collides, *parts)
        if self._config is None or layout != self._layout:
            self._config = load_panda(bodies, arm_collides=arm_collides)
            self._layout = layout
            frames = self._config.getFrames()
            names = [frame.name for frame in frames]
            self._initial_frames = self._config.getFrameState()
            self._links = [names.index(name) for name in LINK_FRAMES]
            self._bodies = [names.index(body.name) for body in bodies]
            self._free_names = [body.name for body in bodies if body.mass is not None]
        with quiet():
            self._config.setFrameState(self._initial_frames)
            self._config.setJointState(q)
            for body in bodies:
                if body.parent is None:
                    self._config.getFrame(body.name).setPose(list(body.pose))
            set_stiffness(self._config, stiffness)
            threads = set(os.listdir("/proc/self/task"))
            self._simulation = ry.Simulation(self._config, ry.SimulationEngine.physx, verbose=0)
            started = set(os.listdir("/proc/self/task")) - threads
        self._thread = int(started.pop()) if len(started) == 1 else None
        free = [frame.name for frame in self._simulation.getFreeFrames()]
        self._free = [free.index(name) for name in self._free_names]
        self._moving = [i for i, body in enumerate(bodies) if body.mass is not None]
        self._reference = np.array(q, dtype=float)
        self._time = 0.0
        return self._state()

    def step(self, reference: Array) -> WorldState:
        """Move for one control period, so that the arm is at ``reference`` (7,), rad, at its end.

        Raises:
            SimulationError: the world was not reset, or rai refused.
        """
        if self._simulation is None:
            raise SimulationError("step before reset")
        step = np.asarray(reference, dtype=float) - self._reference
        # The joint drives (stiffness 1000, damping 100, no velocity target) trail a moving
        # reference by damping / stiffness = 0.1 s. Leading it by as much takes the lag out.
        lead = step * (0.1 / CONTROL_PERIOD)
        with plain_errors(), _on_one_core(self._thread):
            for i in range(1, SUBSTEPS + 1):
                target = self._reference + step * (i / SUBSTEPS) + lead
                self._simulation.step(target, PHYSICS_STEP, ry.ControlMode.position)
        self._reference = self._reference + step
        self._time += CONTROL_PERIOD
        return self._state()

    def close(self) -> None:
        """Free the simulation, and this process for another one. The world is of no more use."""
        self._simulation = None
        self.closed = True

    def _state(self) -> WorldState:
        assert self._config is not None
        assert self._simulation is not None
        frames = self._config.getFrameState()
        sim = self._simulation.getState()
        velocities = np.zeros((len(self._bodies), 6))
        velocities[self._moving] = sim.freeVel[self._free].reshape(-1, 6)
        return WorldState(
            time=self._time,
            q=sim.q,
            qdot=sim.qDot,
            link_poses=frames[self._links],
            body_poses=frames[self._bodies],
            body_velocities=velocities,
        )


@contextlib.contextmanager
def _on_one_core(thread: int | None) -> Iterator[None]:
    """Keep a thread on the core that this one is on, and this one there meanwhile.

    PhysX hands every physics step to a thread of its own and waits for it. To wake one on another,
    idle core takes longer than the step itself: so a control period takes half the time.
    """
    if thread is None:
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        with contextlib.suppress(OSError):  # where it is forbidden, it is only slower
            core = {_libc.sched_getcpu()}
            os.sched_setaffinity(thread, core)
            os.sched_setaffinity(0, core)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


_libc = ctypes.CDLL(None)
_worlds: weakref.WeakSet[PhysxWorld] = weakref.WeakSet()


def _keep_simulations() -> None:
    """Let no simulation that a forked process inherits be destroyed there.

    Its worker thread has not come along, and the destructor would wait for it for ever.
    """
    for world in _worlds:
        if world._simulation is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(world._simulation))


os.register_at_fork(after_in_child=_keep_simulations)
