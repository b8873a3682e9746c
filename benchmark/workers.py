"""Worker processes: they play the episodes that are handed to them, one at a time.

A worker holds nothing that an episode depends on, so it does not matter which one plays it, nor
when. One that dies is replaced, and its episode handed out again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from benchmark.result import Episode
from benchmark.rollout import Player

ATTEMPTS = 3
"""An episode on which so many workers have died has failed."""


class WorkerError(RuntimeError):
    """A worker met something that no other worker would do better with."""


@dataclass(frozen=True)
class Task:
    """An episode to play."""

    env_id: str
    seed: int
    film: bool = False


@dataclass(frozen=True)
class Played:
    """An episode that was played."""

    episode: Episode
    deaths: int
    """How many workers died on it before."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None


class Workers:
    """Processes that play episodes. A context: they live inside it.

    Args:
        count: How many.
        policy: What ``--policy`` named.
        videos: Folder for the videos.
    """

    def __init__(self, count: int, policy: str, videos: Path) -> None:
        self._policy = policy
        self._videos = videos
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.task is None:
                worker.connection.close()  # it closes its environment, and ends
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(timeout=5)
            worker.process.kill()

    def play(self, tasks: Iterable[Task]) -> Iterator[Played]:
        """Play all of ``tasks``; yield each when it is done, in whatever order that is.

        Raises:
            WorkerError: A worker cannot go on, for a reason that is not the policy's.
        """
        while len(self._workers) < self._count:
            self._workers.append(self._start())
        waiting = deque(tasks)
        deaths: Counter[Task] = Counter()
        while True:
            for worker in self._workers:
                if waiting and worker.task is None:
                    worker.task = waiting.popleft()
                    with contextlib.suppress(OSError):  # it has died, which shows below
                        worker.connection.send(worker.task)
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for index, worker in enumerate(self._workers):
                task = worker.task
                if task is None or worker.connection not in ready:
                    continue
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    deaths[task] += 1
                    exit_code = self._replace(index)
                    if deaths[task] < ATTEMPTS:
                        waiting.appendleft(task)
                        continue
                    answer = _lost(task, exit_code)
                worker.task = None
                if isinstance(answer, str):
                    raise WorkerError(answer)
                yield Played(answer, deaths[task])

    def _replace(self, index: int) -> int | None:
        """Put a new worker in the place of a dead one, and tell how that one ended."""
        dead = self._workers[index]
        dead.connection.close()
        dead.process.join(timeout=5)
        dead.process.kill()
        self._workers[index] = self._start()
        return dead.process.exitcode

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share OpenGL and PhysX
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self._policy, self._videos), daemon=False
        )
        with _worker_environment():
            process.start()
        theirs.close()  # so that our end notices when the worker dies
        return _Worker(process, ours)


def _work(connection: Connection, policy: str, videos: Path) -> None:
    """The life of a worker: play what comes, until the other end closes."""
    player = Player(policy, videos)
    with contextlib.suppress(EOFError, OSError):  # the run has ended, or was killed
        while True:
            task = connection.recv()
            try:
                answer: Episode | str = player.play(task.env_id, task.seed, task.film)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            connection.send(answer)
    player.close()


def _lost(task: Task, exit_code: int | None) -> Episode:
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"code {exit_code}"
    return Episode(
        env=task.env_id,
        seed=task.seed,
        scene={},
        success_once=False,
        success_at_end=False,
        distance=None,
        steps=0,
        failure=f"error: {ATTEMPTS} worker processes died, the last one with {how}",
    )


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """What a worker inherits: one thread for linear algebra, and no ears for Ctrl-C.

    As many workers as cores would slow each other down with more threads; and sums in another
    order could give other last digits. Ctrl-C reaches every process of a terminal, and is
    answered by the run alone.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
