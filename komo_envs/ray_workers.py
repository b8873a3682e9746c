"""Workers on the nodes of a Ray cluster, with the interface of ``komo_envs.utils.workers``.

On each node an actor for each worker keeps one local worker process, so that limits, deaths and
replacements are there what they are on one machine. What is written there comes back as bytes: the
nodes need no common disk for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Generic

from komo_envs import provenance
from komo_envs.utils.extras import missing
from komo_envs.utils.files import replacing
from komo_envs.utils.workers import (
    ATTEMPTS,
    Limits,
    Task,
    TaskResult,
    TaskRunner,
    Value,
    WorkerError,
    Workers,
)

# Ray reads these when it is imported; it would try for a quarter of an hour to reach a cluster that
# is not there.
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A cluster that is started here takes 127.0.0.1 as this node's address, and listens there alone, if
# Ray is to think that nodes of other machines cannot join. One of this machine is joined all the
# same: its address is read from its files.
if os.environ.get("RAY_ADDRESS", "local") == "local":
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

try:
    import ray
    from ray import cloudpickle
except ImportError as error:
    raise missing("--executor ray", "ray", error) from error
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MakeRunner = Callable[[Path], TaskRunner[Value]]
"""Makes the runner of a worker, which writes its files, if any, into a folder."""


class Cluster:
    """A Ray cluster, each node of which is as this machine is.

    It is the one that RAY_ADDRESS names or that runs on this machine. If there is none, one of this
    machine alone is started: it listens on the loopback address alone, and ends with this process.

    Args:
        facts: Gives what has to be the same on every node, by name. It is pickled, and called here
            and on each node. Processor, operating system, renderer and the versions of packages
            are compared whatever it gives.

    Raises:
        ValueError: A node is other than this machine, or there are none.
        OSError: The cluster of RAY_ADDRESS cannot be reached.
    """

    def __init__(self, facts: Callable[[], dict[str, str]]) -> None:
        _connect()
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self._cores = {key: int(node["Resources"].get("CPU", 0)) for key, node in nodes.items()}
        self._cores = {key: cores for key, cores in self._cores.items() if cores}
        start = _Start.here(facts)
        here = _facts(start)
        ask = ray.remote(num_cpus=0)(_facts)
        replies = {
            key: ask.options(scheduling_strategy=_on(key)).remote(start) for key in self._cores
        }
        for key, reply in replies.items():
            node = f"{nodes[key]['NodeManagerHostname']} ({nodes[key]['NodeManagerAddress']})"
            try:
                there = ray.get(reply)
            except RayError as error:
                if _is_dead(key):  # it was already, and Ray had not noticed yet
                    del self._cores[key]
                    continue
                raise ValueError(f"--executor ray: node {node}: {_said(error)}") from error
            for name in sorted(here.keys() & there.keys()):
                if here[name] != there[name]:
                    raise ValueError(
                        f"--executor ray: node {node} has another {name}: {there[name]} there, "
                        f"{here[name]} here; expected the same on all nodes"
                    )
        if not self._cores:
            raise ValueError("--executor ray: no node of the cluster has a CPU to give")

    def places(self, workers: int | None) -> list[str]:
        """The node of each worker, as evenly over the nodes as their CPUs allow.

        Args:
            workers: How many at most; as many as the cluster has CPUs if None.
        """
        layers = range(max(self._cores.values()))
        every = [key for layer in layers for key, cores in self._cores.items() if layer < cores]
        return every[:workers]

    def workers(
        self,
        places: list[str],
        make_runner: MakeRunner[Value],
        folder: Path,
        limits: Limits | None = None,
    ) -> RayWorkers[Value]:
        """Workers at these ``places``; the arguments are those of ``RayWorkers``."""
        return RayWorkers(places, make_runner, folder, limits)


def _connect() -> None:
    """Join the cluster, or start one.

    Raises:
        OSError: The cluster of RAY_ADDRESS cannot be reached.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address != "local":
            try:
                _reach(address)
                ray.init("auto", **quiet)
                return
            except (OSError, ValueError, RayError) as error:
                if address or not isinstance(error, ConnectionError):
                    raise OSError(f"RAY_ADDRESS {address or 'auto'}: {_said(error)}") from error
        ray.init("local", num_cpus=provenance.usable_cores(), include_dashboard=False, **quiet)
    finally:
        for number, handler in handlers.items():  # Ray answers SIGTERM in its own way
            signal.signal(number, handler)


def _reach(address: str | None) -> None:
    """Find out soon, and without Ray's complaints, that nobody is there.

    Raises:
        OSError: So it is.
    """
    if match := re.fullmatch(r"([^/]+):(\d+)", address or ""):
        socket.create_connection((match[1], int(match[2])), timeout=10).close()


@dataclass(frozen=True)
class _Start:
    """Where a run was started, and what it does on a node."""

    folder: Path
    is_on_path: bool
    """Whether the run imports the modules of the folder."""
    pickled: bytes
    """A callable. Ray itself would unpickle it, and import its module, before ``enter``."""

    @classmethod
    def here(cls, call: Callable[..., Any]) -> _Start:
        folder = Path.cwd()
        return cls(folder, bool({"", str(folder)} & {*sys.path}), cloudpickle.dumps(call))

    def enter(self) -> Any:
        """Go to the folder, for relative paths, if this node has it; return the callable.

        Ray has put the folder on Python's path, where a module may have the name of one of ours.
        """
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        if not self.is_on_path:
            sys.path[:] = [path for path in sys.path if path != str(self.folder)]
        return cloudpickle.loads(self.pickled)


def _facts(start: _Start) -> dict[str, str]:
    """What the results of a machine depend on: its kind, its packages, and what is called."""
    more = start.enter()
    machine = provenance.machine()
    packages = {each.name: each.version for each in metadata.distributions()}
    kind = {name: str(machine[name]) for name in provenance.KIND}
    return {**packages, **kind, **more()}


def _is_dead(node: str) -> bool:
    return not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node)


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _said(error: Exception) -> str:
    """What an error says, without the traceback of another machine."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"


class _Host:
    """A worker with its limits, and a folder for what it writes: an actor on a node."""

    def __init__(self, start: _Start, limits: Limits | None) -> None:
        make_runner = start.enter()
        context = ray.get_runtime_context()
        # Beside Ray's own logs of the run, should this process be killed before it can clean up.
        session = Path(context.get_temp_dir()) / context.get_session_name()
        self._folder = Path(tempfile.mkdtemp(dir=session))
        self._workers = Workers(1, partial(make_runner, self._folder), limits)

    def ready(self) -> None:
        """Return once this process has started."""

    def run(self, task: Any) -> tuple[TaskResult[Any, Any] | WorkerError, dict[str, bytes]]:
        """Do a task; what came of it, and the files that were written."""
        try:
            [result] = self._workers.run([task])
        except WorkerError as error:
            return error, {}
        files = {}
        for file in self._folder.iterdir():
            if not file.name.startswith("."):  # else it is of a worker that was killed
                files[file.name] = file.read_bytes()
            file.unlink()
        return result, files

    def close(self) -> None:
        """End the worker."""
        self._workers.__exit__()
        shutil.rmtree(self._folder)


_HostActor: Any = ray.remote(num_cpus=1)(_Host)


@dataclass(eq=False)
class _Remote:
    """An actor, as seen from the run."""

    actor: Any
    node: str
    starts: int
    """How many were started in its place before one was ready, with this one."""
    call: Any
    """What is awaited of it: that it is ready, or a task; None if it has nothing to do."""
    ready: bool = False
    task: Any = None


class RayWorkers(Generic[Value]):
    """Workers on the nodes of a cluster. A context: they live inside it.

    Args:
        places: The node of each worker, see ``Cluster.places``.
        make_runner: Called in each of them with a folder of its own; it is pickled.
        folder: Where the files that the runners write are put, here, when a task is done.
        limits: Of each task; None for none.
    """

    def __init__(
        self,
        places: list[str],
        make_runner: MakeRunner[Value],
        folder: Path,
        limits: Limits | None = None,
    ) -> None:
        self._places = places
        self._made = _Start.here(make_runner), limits
        self._folder = folder
        self._workers: list[_Remote] = []

    def __enter__(self) -> RayWorkers[Value]:
        return self

    def __exit__(self, *_: object) -> None:
        idle = [each.actor.close.remote() for each in self._workers if each.call is None]
        if idle:
            ray.wait(idle, num_returns=len(idle), timeout=5)
        for each in self._workers:
            ray.kill(each.actor)

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult[Task, Value]]:
        """Do all of ``tasks``; yield each when it is done, in whatever order that is.

        Raises:
            WorkerError: A worker cannot go on, or none is left.
            OSError: A file that a runner wrote cannot be written here.
        """
        if not self._workers:
            self._workers = [self._start(place) for place in self._places]
        waiting = deque(tasks)
        deaths: Counter[Task] = Counter()
        while True:
            for worker in self._workers:
                if waiting and worker.call is None:
                    worker.task = waiting.popleft()
                    worker.call = worker.actor.run.remote(worker.task)
            if all(worker.task is None for worker in self._workers) and not waiting:
                return  # though some may not be ready yet
            calls = {worker.call: worker for worker in self._workers if worker.call is not None}
            done, _ = ray.wait([*calls])
            for call in done:
                worker, task = calls[call], calls[call].task
                worker.call = worker.task = None
                try:
                    reply = ray.get(call)
                except RayTaskError as error:
                    raise WorkerError(f"{task}: {_said(error)}") from error
                except RayError as error:  # the actor has died, or its node, or what it answered
                    self._replace(worker, error)
                    if task is None:
                        continue
                    deaths[task] += 1
                    if deaths[task] < ATTEMPTS:
                        waiting.appendleft(task)
                        continue
                    why = f"{ATTEMPTS} workers died, the last one so: {_said(error)}"
                    yield TaskResult(task, None, deaths[task], why)
                    continue
                if task is None:
                    worker.ready = True
                    continue
                result, files = reply
                if isinstance(result, WorkerError):
                    raise result
                self._write(files)
                yield TaskResult(task, result.value, deaths[task] + result.deaths, result.given_up)

    def _start(self, node: str, starts: int = 1) -> _Remote:
        actor = _HostActor.options(scheduling_strategy=_on(node)).remote(*self._made)
        return _Remote(actor, node, starts, actor.ready.remote())

    def _replace(self, worker: _Remote, error: Exception) -> None:
        """Put a new worker in the place of one that died, unless its node has died too.

        Raises:
            WorkerError: None is left.
        """
        ray.kill(worker.actor)
        self._workers.remove(worker)
        starts = 1 if worker.ready else worker.starts + 1
        if starts <= ATTEMPTS:
            self._workers.append(self._start(worker.node, starts))
        elif not self._workers:
            raise WorkerError(f"no worker is left; the last one: {_said(error)}")

    def _write(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / name) as scratch:
                scratch.write_bytes(content)
