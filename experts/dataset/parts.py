"""A file of demonstrations is collected in parts, one file each, so that a run can be resumed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import h5py

from experts.dataset.card import check_card, summary, write_card
from experts.dataset.format import Demo, DemoFile, demo_bytes, write_head
from komo_envs import provenance
from komo_envs.utils.cli import fail, plain, printing
from komo_envs.utils.files import replacing
from komo_envs.utils.progress import ProgressDisplay
from komo_envs.utils.resume import check_same, open_locked, resume_setup
from komo_envs.utils.workers import Inline, Pool, WorkerError, Workers

if TYPE_CHECKING:
    from komo_envs.ray_workers import Cluster


def produce(
    module: str,
    parts: Parts,
    seeds: range,
    head: dict[str, Any],
    make_runner: Callable[[Path], PartRecorder],
    workers: int | None,
    cluster: Cluster | None = None,
) -> None:
    """Collect the missing demonstrations of a file, complete it with its card, print a summary.

    An error ends the process with one line on stderr.

    Args:
        module: Name of the command, for its messages.
        parts: Parts of the file.
        seeds: Seeds of the demonstrations, one each.
        head: The file's attributes that concern all its demonstrations.
        make_runner: Makes a worker's recorder, given the folder of the parts; it is pickled.
        workers: Number of workers; as many as there are cores if None.
        cluster: The cluster on whose nodes they run; None for this machine.
    """
    try:
        with parts.opened(head):
            if not parts.out.exists():
                _collect(parts, seeds, head, make_runner, workers, cluster)
            with DemoFile(parts.out) as file:
                write_card(file)
                text = summary(file)
            parts.remove()
    except ValueError as error:
        fail(module, error)
    except KeyboardInterrupt:
        fail(module, f"interrupted; {parts}", code=130)
    except (WorkerError, OSError, RuntimeError) as error:
        fail(module, f"stopped: {plain(error)}; {parts}", code=1)
    with printing(module, f"{parts.out} is complete"):
        print(text)


def check_output(out: Path, head: dict[str, Any]) -> None:
    """Check an output path, and the file that may be there already.

    Args:
        out: Path of the file of demonstrations to be.
        head: The file's attributes that concern all its demonstrations.

    Raises:
        ValueError: The suffix is not .h5, the file holds other demonstrations, or another file is
            where its card would be.
    """
    if out.suffix != ".h5":
        raise ValueError(f"--out {out}: expected a name that ends in .h5")
    if out.exists():
        with DemoFile(out) as file:
            check_same("--out", out, "demonstrations", file.head, head)
    else:
        check_card("--out", out)


class Parts:
    """The folder of finished demonstrations while their file is collected, one small file each.

    Args:
        out: The file that is collected; the folder lies beside it, with .parts at its name's end.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")

    def __str__(self) -> str:
        """Number of finished demonstrations, and how to resume."""
        if self.out.exists():
            return f"{self.out} is complete, but not its card; the same command makes it"
        count = len(list(self.folder.glob("[0-9]*.h5")))
        return f"{count} demonstrations are kept, and the same command goes on"

    @contextmanager
    def opened(self, head: dict[str, Any]) -> Iterator[None]:
        """Make the folder if it is not there, and lock it for this run.

        Raises:
            ValueError: It cannot be written to, holds another collection, or another run writes.
        """
        setup = self.folder / "setup.json"
        with open_locked("--out", self.out, self.folder / "lock"):
            names = {file.name for file in self.folder.iterdir()} - {"lock"}
            # A run that was killed at its start has left no more than a scratch file.
            if not setup.exists() and not all(name.startswith(".setup.json.") for name in names):
                raise ValueError(f"--out {self.out}: {self.folder} is there, and not ours")
            resume_setup("--out", self.out, "demonstrations", setup, head)
            for scratch in self.folder.glob(".*"):  # of a process that was killed
                scratch.unlink(missing_ok=True)
            yield

    def finished(self, seeds: range) -> dict[int, bool]:
        """Success of each finished demonstration, by seed."""
        done = {}
        for seed in seeds:
            with contextlib.suppress(OSError, KeyError), self.open(seed) as part:
                done[seed] = bool(part["demo"].attrs["success"])
        return done

    def open(self, seed: int) -> h5py.File:
        """The finished demonstration of a seed, which no process writes to any more."""
        return h5py.File(self.file(seed), "r", locking=False)

    def file(self, seed: int) -> Path:
        """Path of the demonstration of a seed."""
        return part_file(self.folder, seed)

    def remove(self) -> None:
        """Remove the folder: the file has all demonstrations."""
        for file in (*self.folder.glob("[0-9]*.h5"), self.folder / "setup.json"):
            file.unlink(missing_ok=True)
        (self.folder / "lock").unlink()
        with contextlib.suppress(OSError):  # someone else's file is there, too
            self.folder.rmdir()


def part_file(folder: Path, seed: int) -> Path:
    """Path of the demonstration of a seed in the folder of the parts."""
    return folder / f"{seed}.h5"


class RecordingJob(NamedTuple):
    """A demonstration to record: the arguments of ``PartRecorder.run``."""

    seed: int

    def __str__(self) -> str:
        """The job's name in errors."""
        return f"seed {self.seed}"


class EpisodeRecorder(Protocol):
    """A recorder of demonstrations: ``Recorder``, or one in whose episodes a student acts."""

    def record(self, seed: int) -> Demo:
        """Play the episode of a seed."""

    def close(self) -> None:
        """Close the env."""


class PartRecorder:
    """A worker's recorder, which writes each demonstration into a file of its own.

    Args:
        make_recorder: Makes the recorder of demonstrations.
        mode: The control mode of its env.
        folder: The folder of the parts.
    """

    def __init__(
        self, make_recorder: Callable[[], EpisodeRecorder], mode: str, folder: Path
    ) -> None:
        self._recorder = make_recorder()
        self._mode = mode
        self._folder = folder

    def run(self, seed: int) -> bool:
        """Record the demonstration of a seed; whether it succeeds."""
        demo = self._recorder.record(seed)
        with replacing(part_file(self._folder, seed)) as scratch:
            scratch.write_bytes(demo_bytes(demo, self._mode))
        return demo.success

    def close(self) -> None:
        """Close the env."""
        self._recorder.close()


def _collect(
    parts: Parts,
    seeds: range,
    head: dict[str, Any],
    make_runner: Callable[[Path], PartRecorder],
    workers: int | None,
    cluster: Cluster | None,
) -> None:
    """Record the missing demonstrations, and assemble them; the arguments are ``produce``'s.

    Raises:
        WorkerError: A worker cannot go on.
        OSError: A file cannot be written.
    """
    done = parts.finished(seeds)
    missing = [RecordingJob(seed) for seed in seeds if seed not in done]
    bars = head["recipe"]["backend"] != "real"  # where an operator is asked at the terminal
    pool: Pool[bool]
    if not bars:
        pool = Inline(partial(make_runner, parts.folder))
    elif cluster is None:
        pool = Workers(workers or provenance.usable_cores(), partial(make_runner, parts.folder))
    else:
        pool = cluster.workers(cluster.places(workers)[: len(missing)], make_runner, parts.folder)
    count, successes, started = len(done), sum(done.values()), time.monotonic()
    with pool, ProgressDisplay({"": len(seeds)}, "demonstrations", {"": count}, bars) as display:
        for result in pool.run(missing):
            if result.value is None:
                raise WorkerError(f"{result.task}: {result.given_up}")
            count += 1
            successes += result.value
            pace = 60 * (count - len(done)) / (time.monotonic() - started)
            display.update("", count, f"{successes / count:.1%} success, {pace:.0f} a minute")
    _assemble(parts.out, seeds, head, parts)


def _assemble(out: Path, seeds: range, head: dict[str, Any], parts: Parts) -> None:
    """Copy the parts into one file, whose bytes depend on nothing else.

    Raises:
        OSError: It cannot be written.
    """
    size = sum(parts.file(seed).stat().st_size for seed in seeds)
    free = shutil.disk_usage(parts.folder).free
    if free < size * 1.05:
        raise OSError(
            f"{out}: {size / 1e6:.0f} MB are needed to put it together, "
            f"and {free / 1e6:.0f} MB are free"
        )
    with replacing(out, parts.folder) as scratch, h5py.File(scratch, "w", locking=False) as file:
        data = file.create_group("data")
        for index, seed in enumerate(seeds):
            with parts.open(seed) as part:
                part.copy("demo", data, name=f"demo_{index}")  # as it is packed
        write_head(file, head)
