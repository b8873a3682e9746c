"""Worker processes, each of which runs one task at a time.

Tasks do not depend on the state of a worker, so any worker can run any task at any time. A worker
that dies is replaced, and its task is run again.
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
"""Give a task up after this many crashes of workers; end the run after this many failed starts in a
row."""


CHECK_SECONDS = 0.5
"""Interval between checks of the limits."""

READY = "ready"
"""Message of a worker that has started."""


class WorkerError(RuntimeError):
    """A task or a worker failed in a way that another worker cannot mend."""


Task = TypeVar("Task", bound=tuple[Any, ...])
Value = TypeVar("Value", covariant=True)


class TaskRunner(Protocol[Value]):
    """Object in a worker that runs its tasks."""

    def run(self, *task: Any) -> Value:
        """Run a task, given as a tuple of arguments. An exception ends the whole run."""

    def close(self) -> None:
        """Free all resources."""


@dataclass(frozen=True)
class TaskResult(Generic[Task, Value]):
    """Result of a task that was run or given up."""

    task: Task
    value: Value | None
    """Return value of ``TaskRunner.run``; None if the task was given up."""
    deaths: int
    """Number of workers that died on the task."""
    given_up: str
    """Reason for giving it up, in words; empty if it was run."""


class Pool(Protocol[Value]):
    """Pool of workers, here or on a cluster. A context: the workers live inside it."""

    def __enter__(self) -> Pool[Value]: ...
    def __exit__(self, *_: object) -> None: ...

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult[Task, Value]]:
        """Run all ``tasks``; yield their results in the order in which they finish.

        Raises:
            WorkerError: A worker cannot go on.
        """


class Inline(Generic[Value]):
    """Runs tasks in this process, one after the other, for tasks that ask somebody at its terminal.

    Args:
        make_runner: Makes the runner; called before the first task.
    """

    def __init__(self, make_runner: Callable[[], TaskRunner[Value]]) -> None:
        self._make_runner = make_runner
        self._runner: TaskRunner[Value] | None = None

    def __enter__(self) -> Inline[Value]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult[Task, Value]]:
        """Run all ``tasks``; yield each result at once.

        Raises:
            WorkerError: A task raised an exception.
        """
        for task in tasks:
            try:
                self._runner = self._runner or self._make_runner()
                answer = self._runner.run(*task)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise WorkerError(f"{task}: {describe(error)}") from error
            yield TaskResult(task, answer, 0, "")


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


class Workers(Generic[Value]):
    """Pool of worker processes on this machine. A context: the workers live inside it.

    Args:
        count: Largest number of workers; no more are started than there are tasks.
        make_runner: Makes the runner of a worker; it is pickled, and called in each worker.
        limits: Limits of each task; None for none.
    """

    def __init__(
        self, count: int, make_runner: Callable[[], TaskRunner[Value]], limits: Limits | None = None
    ) -> None:
        self._make_runner = make_runner
        self._limits = limits
        self._count = count
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        """How many workers in a row have ended before they were ready."""

    def __enter__(self) -> Workers[Value]:
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

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult[Task, Value]]:
        """Run all ``tasks``; yield their results in the order in which they finish.

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
                    yield TaskResult(task, None, deaths[task], why)
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
                yield TaskResult(task, answer, deaths[task], why)

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
        process = context.Process(target=_work, args=(theirs, self._make_runner), daemon=False)
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


def _work(connection: Connection, make_runner: Callable[[], TaskRunner[Any]]) -> None:
    """The life of a worker: do what comes, until the other end closes."""
    runner = make_runner()
    with contextlib.suppress(EOFError, OSError):  # the run has ended, or was killed
        connection.send(READY)
        while True:
            task = connection.recv()
            try:
                answer = runner.run(*task)
            except BaseException as error:  # sys.exit in a task's code, too
                answer = WorkerError(f"{task}: {describe(error)}")
            connection.send(answer)
    runner.close()


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
