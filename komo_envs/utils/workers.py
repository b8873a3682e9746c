"""Worker processes: they do the tasks that are handed to them, one at a time.

A worker holds nothing that a task depends on, so it does not matter which one does it, nor when.
One that dies is replaced, and its task handed out again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from komo_envs.utils.errors import describe

ATTEMPTS = 3
"""A task on which so many workers have died is given up; and all, if so many in a row do not even
start."""


CHECK_SECONDS = 0.5
"""Between two looks at what a task takes."""

READY = "ready"
"""What a worker says when it has started."""


class WorkerError(RuntimeError):
    """A worker met something that no other would do better with."""


Task = TypeVar("Task", bound=tuple[Any, ...])
Answer = TypeVar("Answer", covariant=True)


class Player(Protocol[Answer]):
    """What a worker does its tasks with."""

    def play(self, *task: Any) -> Answer:
        """Do a task: a tuple of arguments. What it raises ends the run."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Played(Generic[Task, Answer]):
    """A task that was done, or given up."""

    task: Task
    answer: Answer | None
    """What ``play`` returned; None if so many workers died on the task that it was given up."""
    deaths: int
    """How many workers died on it."""
    given_up: str
    """Why it was given up, in words; empty if it was done."""


class Pool(Protocol[Answer]):
    """What does tasks: ``Workers``, or those of a cluster. A context: they live inside it."""

    def __enter__(self) -> Pool[Answer]: ...
    def __exit__(self, *_: object) -> None: ...

    def play(self, tasks: Iterable[Task]) -> Iterator[Played[Task, Answer]]:
        """Do all of ``tasks``; yield each when it is done, in whatever order that is.

        Raises:
            WorkerError: A worker cannot go on.
        """


class Inline(Generic[Answer]):
    """Does tasks in this process, one after the other, for those that ask somebody at its terminal.

    Args:
        make_player: Called when there is something to do.
    """

    def __init__(self, make_player: Callable[[], Player[Answer]]) -> None:
        self._make_player = make_player
        self._player: Player[Answer] | None = None

    def __enter__(self) -> Inline[Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._player is not None:
            self._player.close()

    def play(self, tasks: Iterable[Task]) -> Iterator[Played[Task, Answer]]:
        """Do all of ``tasks``; yield each when it is done.

        Raises:
            WorkerError: The player met something that it cannot go on with.
        """
        for task in tasks:
            try:
                self._player = self._player or self._make_player()
                answer = self._player.play(*task)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise WorkerError(f"{task}: {describe(error)}") from error
            yield Played(task, answer, 0, "")


@dataclass(frozen=True)
class Limits:
    """What a task may take. A worker that goes beyond is killed, and its task given up."""

    seconds: float = 600.0
    """Of wall time."""
    gib: float = 8.0
    """Of the memory of the worker and of all processes that it has started."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Any = None
    ready: bool = False
    """Whether it has said that it has started."""
    since: float = 0.0
    """When it began with its task, or with getting ready for its first one."""


class Workers(Generic[Answer]):
    """Processes that do tasks. A context: they live inside it.

    Args:
        count: How many at most; no more are started than there are tasks.
        make_player: Called in each of them; it is pickled.
        limits: Of each task; None for none.
    """

    def __init__(
        self, count: int, make_player: Callable[[], Player[Answer]], limits: Limits | None = None
    ) -> None:
        self._make_player = make_player
        self._limits = limits
        self._count = count
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        """How many workers in a row have ended before they were ready."""

    def __enter__(self) -> Workers[Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        started = [worker for worker in self._workers if worker.process.pid is not None]
        for worker in started:
            worker.connection.close()  # an idle one closes its environment, and ends
            if worker.task is not None:
                _kill(worker.process.pid)
        for worker in started:
            worker.process.join(timeout=5)
            _kill(worker.process.pid)

    def play(self, tasks: Iterable[Task]) -> Iterator[Played[Task, Answer]]:
        """Do all of ``tasks``; yield each when it is done, in whatever order that is.

        Raises:
            WorkerError: A worker cannot go on.
        """
        waiting = deque(tasks)
        while len(self._workers) < min(self._count, len(waiting)):
            self._start()
        deaths: Counter[Task] = Counter()
        while True:
            for worker in self._workers:
                if waiting and worker.task is None:
                    worker.task, worker.since = waiting.popleft(), time.monotonic()
                    with contextlib.suppress(OSError):  # it has died, which shows below
                        worker.connection.send(worker.task)
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], CHECK_SECONDS)
            for worker in busy:
                task, why = worker.task, ""
                # One that has died may have left a fork of it that keeps its end open.
                if worker.connection not in ready and worker.process.is_alive():
                    if not (why := self._beyond(worker)):
                        continue
                    self._replace(worker)
                    yield Played(task, None, deaths[task], why)
                    continue
                try:
                    if not worker.connection.poll():
                        raise EOFError
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join(timeout=1)  # so that it ends by itself, and says how
                    how = self._replace(worker)
                    deaths[task] += worker.ready  # else the task had not begun
                    if deaths[task] < ATTEMPTS:
                        waiting.appendleft(task)
                        continue
                    answer = None
                    why = f"{ATTEMPTS} worker processes died, the last one with {how}"
                if answer == READY:
                    worker.ready, worker.since = True, time.monotonic()
                    self._failed_starts = 0
                    continue
                worker.task = None
                if isinstance(answer, WorkerError):
                    raise answer
                yield Played(task, answer, deaths[task], why)

    def _beyond(self, worker: _Worker) -> str:
        """Which limit the worker's task is beyond, in words; empty if none."""
        limits = self._limits
        if limits is None or not worker.ready:
            return ""
        if time.monotonic() - worker.since > limits.seconds:
            return f"it took longer than {limits.seconds:g} s"
        if memory_of(worker.process.pid) > limits.gib * 2**30:
            return f"it took more than {limits.gib:g} GiB of memory"
        return ""

    def _replace(self, worker: _Worker) -> str:
        """Put a new worker in the place of one that died or is to die, and tell how it ended.

        Raises:
            WorkerError: So many in a row ended before they were ready that any other would.
        """
        _kill(worker.process.pid)
        how = self._remove(worker)
        self._failed_starts += not worker.ready
        if self._failed_starts == ATTEMPTS:
            raise WorkerError(f"a worker process ended with {how} before it was ready")
        self._start()
        return how

    def _remove(self, dead: _Worker) -> str:
        """Be done with a dead worker, and tell how it ended."""
        dead.connection.close()
        dead.process.join(timeout=5)
        dead.process.kill()
        self._workers.remove(dead)
        code = dead.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"code {code}"

    def _start(self) -> None:
        """Add a worker."""
        context = multiprocessing.get_context("spawn")  # a fork would share OpenGL and PhysX
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._make_player), daemon=False)
        # Listed before it starts, so that it ends with the others whatever happens meanwhile.
        self._workers.append(_Worker(process, ours))
        with theirs, worker_environment():  # closed here, our end notices when the worker dies
            process.start()


def descendants(pid: int | None) -> Iterator[int]:
    """A process that may have ended, and all that it has started."""
    if pid is None:
        return
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for child in (task / "children").read_text().split():
                yield from descendants(int(child))


def _kill(pid: int | None) -> None:
    """Kill a process, which then starts no more, and all that it has started."""
    for each in [*descendants(pid)]:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.kill(each, signal.SIGKILL)


def memory_of(pid: int | None) -> int:
    """Bytes that a process and all that it has started hold in memory."""
    pages = 0
    for each in descendants(pid):
        with contextlib.suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _work(connection: Connection, make_player: Callable[[], Player[Any]]) -> None:
    """The life of a worker: do what comes, until the other end closes."""
    player = make_player()
    with contextlib.suppress(EOFError, OSError):  # the run has ended, or was killed
        connection.send(READY)
        while True:
            task = connection.recv()
            try:
                answer = player.play(*task)
            except BaseException as error:  # sys.exit in a task's code, too
                answer = WorkerError(f"{task}: {describe(error)}")
            connection.send(answer)
    player.close()


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
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
