"""Collect demonstrations: ``python -m experts.collect --env KomoPush-v0 --out demos/push.h5``."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import h5py
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experts.dataset.card import check_card, summary, write_card
from experts.dataset.format import Demo, DemoFile, demo_bytes, write_head
from experts.dataset.recorder import MOST_NOISE, SOURCES, Recipe, Recorder, lab_of
from komo_envs.lab import Lab
from komo_envs.registration import find_spec
from komo_envs.suite import TRAIN
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import lock, replacing, write_text
from komo_envs.utils.workers import Inline, Pool, WorkerError, Workers

if TYPE_CHECKING:
    from komo_envs.utils.ray_workers import Cluster

MODULE = "experts.collect"


@dataclass(frozen=True, kw_only=True)
class Arguments(Recipe):
    """Collect an expert's demonstrations. The same command goes on where it stopped.

    Beside the file come a data card, a contact sheet and a short video of the same name.
    """

    out: Path
    """The HDF5 file. Until it is complete, the folder of this name with .parts keeps what there is;
    putting it together takes as much room again."""
    episodes: int = 1000
    """How many, one for each seed. All are kept, those that fail too: mask/successful in the file
    names the others."""
    first_seed: int = 0
    """Of the training seeds."""
    workers: int | None = None
    """Processes that collect; as many as there are cores if not given, but one in real time. They
    change nothing else."""
    executor: Literal["local", "ray"] = "local"
    """Where they are: on this machine, or on the nodes of a Ray cluster."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        recipe = recipe_of(arguments)
        lab = lab_of(recipe)
        head = check(arguments, lab)
        parts = Parts(arguments.out)
        cluster = find_cluster(arguments)
    except (ValueError, ImportError) as error:
        fail(MODULE, error)
    except RuntimeError as error:  # the environment could not be made
        fail(MODULE, f"{type(error).__name__}: {error}", code=1)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    # The laboratory is read once: its file may change, or be another on another machine.
    make_player = partial(PartRecorder, partial(Recorder, recipe, lab), recipe.control_mode)
    # What plays in real time needs a core for itself.
    workers = arguments.workers or (None if recipe.world == "sim" else 1)
    produce(MODULE, parts, seeds_of(arguments), head, make_player, workers, cluster)


def produce(
    module: str,
    parts: Parts,
    seeds: range,
    head: dict[str, Any],
    make_player: Callable[[Path], PartRecorder],
    workers: int | None,
    cluster: Cluster | None = None,
) -> None:
    """Collect what is missing into a file with its card, and say how it went; end if it failed.

    Args:
        module: Of the command.
        parts: Of the file.
        seeds: One for each demonstration.
        head: What the file is to say of all its demonstrations.
        make_player: Makes what a worker has, from the folder of its files; it is pickled.
        workers: How many; as many as there are cores if None.
        cluster: On whose nodes; None for this machine.
    """
    try:
        with parts.opened(head):
            if not parts.out.exists():
                collect(parts, seeds, head, make_player, workers, cluster)
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


def check(arguments: Arguments, lab: Lab | None) -> dict[str, Any]:
    """Check the arguments, and what is there already.

    Returns:
        What the file is to say of all its demonstrations.

    Raises:
        ValueError: An argument is wrong, or the file is there and holds something else.
    """
    try:
        find_spec(arguments.env)
    except ValueError as error:
        raise ValueError(f"--env {error}") from None
    for name in ("episodes", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: expected 1 or more")
    if arguments.world != "sim" and arguments.executor != "local":
        raise ValueError(f"--executor ray: expected local with --world {arguments.world}")
    if arguments.world == "real" and arguments.workers not in (None, 1):
        raise ValueError(f"--workers {arguments.workers}: expected 1 with --world real")
    if not 0.0 <= arguments.noise <= MOST_NOISE:
        raise ValueError(f"--noise {arguments.noise}: expected 0 to {MOST_NOISE}, in m")
    seeds = seeds_of(arguments)
    if seeds.start < TRAIN.start or seeds.stop > TRAIN.stop:
        raise ValueError(
            f"--first-seed {seeds.start}: expected seeds from {TRAIN.start} to {TRAIN.stop - 1}, "
            f"those of training; {len(seeds)} episodes would take those up to {seeds.stop - 1}"
        )
    try:
        recorder = Recorder(recipe_of(arguments), lab)
        recorder.close()
    except (ValueError, TypeError) as error:
        raise ValueError(f"--env {arguments.env}: {error}") from error
    head = recorder.head(seeds)
    check_output(arguments.out, head)
    return head


def find_cluster(arguments: Arguments) -> Cluster | None:
    """The cluster that is asked for, each node of which is as this machine is; None if none is.

    Raises:
        ValueError: A node is other.
        OSError: It cannot be reached.
        ImportError: Ray is not installed.
    """
    if arguments.executor == "local":
        return None
    from komo_envs.utils.ray_workers import Cluster

    return Cluster(partial(provenance.versions, [arguments.env], SOURCES))


def check_output(out: Path, head: dict[str, Any]) -> None:
    """Check what is there already.

    Args:
        out: The file of demonstrations that is to be.
        head: What it is to say of them all.

    Raises:
        ValueError: It is of another kind, or there and holds something else, or there is something
            where its card would be.
    """
    if out.suffix != ".h5":
        raise ValueError(f"--out {out}: expected a name that ends in .h5")
    if out.exists():
        with DemoFile(out) as file:
            _check_same(out, file.head, head)
    else:
        check_card("--out", out)


def recipe_of(arguments: Arguments) -> Recipe:
    """The part of the arguments that decides what demonstrations are."""
    return Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})


def seeds_of(arguments: Arguments) -> range:
    """One for each demonstration."""
    return range(arguments.first_seed, arguments.first_seed + arguments.episodes)


def _check_same(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name, value in here.items():
        if there.get(name) != value:
            old, new = there.get(name), value
            if isinstance(old, dict):
                old = {key: part for key, part in old.items() if new.get(key) != part}
                new = {key: value.get(key) for key in old or value}
            raise ValueError(
                f"--out {path}: holds demonstrations with other {name}: {old} there, {new} here; "
                "choose another file"
            )


class Parts:
    """The folder of what is finished while a file is collected: one small file a demonstration."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")

    def __str__(self) -> str:
        """What there is, for who wants to go on."""
        if self.out.exists():
            return f"{self.out} is complete, but not its card; the same command makes it"
        count = len(list(self.folder.glob("[0-9]*.h5")))
        return f"{count} demonstrations are kept, and the same command goes on"

    @contextmanager
    def opened(self, head: dict[str, Any]) -> Iterator[None]:
        """The folder, made or found, and this run's alone.

        Raises:
            ValueError: It cannot be written to, holds another collection, or another run writes.
        """
        setup = self.folder / "setup.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("wb")
        except OSError as error:
            raise ValueError(f"--out {self.out}: cannot be written to: {error.strerror}") from None
        with file:
            try:
                lock(file)
            except BlockingIOError:
                raise ValueError(f"--out {self.out}: another run is writing there") from None
            if setup.exists():
                _check_same(self.folder, self._read(setup), head)
            else:
                names = {file.name for file in self.folder.iterdir()} - {"lock"}
                if not all(name.startswith(".setup.json.") for name in names):
                    raise ValueError(f"--out {self.out}: {self.folder} is there, and not ours")
                write_text(setup, json.dumps(head))
            for scratch in self.folder.glob(".*"):  # of a process that was killed
                scratch.unlink(missing_ok=True)
            yield

    def _read(self, setup: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(setup.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"--out {self.out}: {setup} is damaged; remove {self.folder} to begin anew"
            ) from error

    def finished(self, seeds: range) -> dict[int, bool]:
        """Of the demonstrations that are finished, whether each succeeds."""
        done = {}
        for seed in seeds:
            with contextlib.suppress(OSError, KeyError), self.open(seed) as part:
                done[seed] = bool(part["demo"].attrs["success"])
        return done

    def open(self, seed: int) -> h5py.File:
        """The finished demonstration of a seed, which no process writes to any more."""
        return h5py.File(self.file(seed), "r", locking=False)

    def file(self, seed: int) -> Path:
        """Of the demonstration of a seed."""
        return part_file(self.folder, seed)

    def remove(self) -> None:
        """Be done with it: the file has it all."""
        for file in (*self.folder.glob("[0-9]*.h5"), self.folder / "setup.json"):
            file.unlink(missing_ok=True)
        (self.folder / "lock").unlink()
        with contextlib.suppress(OSError):  # someone else's file is there, too
            self.folder.rmdir()


def part_file(folder: Path, seed: int) -> Path:
    """Of the demonstration of a seed, among others."""
    return folder / f"{seed}.h5"


class Job(NamedTuple):
    """A demonstration to record: what ``PartRecorder.play`` takes."""

    seed: int

    def __str__(self) -> str:
        """As an error names it."""
        return f"seed {self.seed}"


class Records(Protocol):
    """What records demonstrations: a ``Recorder``, say."""

    def record(self, seed: int) -> Demo:
        """Play the episode of a seed."""

    def close(self) -> None:
        """Close the env."""


class PartRecorder:
    """What a worker has: it records demonstrations into files of their own.

    Args:
        make_recorder: Makes what records.
        mode: The control mode of its env.
        folder: Where the demonstrations go.
    """

    def __init__(self, make_recorder: Callable[[], Records], mode: str, folder: Path) -> None:
        self._recorder = make_recorder()
        self._mode = mode
        self._folder = folder

    def play(self, seed: int) -> bool:
        """Record the demonstration of a seed; whether it succeeds."""
        demo = self._recorder.record(seed)
        with replacing(part_file(self._folder, seed)) as scratch:
            scratch.write_bytes(demo_bytes(demo, self._mode))
        return demo.success

    def close(self) -> None:
        """Close the env."""
        self._recorder.close()


def collect(
    parts: Parts,
    seeds: range,
    head: dict[str, Any],
    make_player: Callable[[Path], PartRecorder],
    workers: int | None,
    cluster: Cluster | None,
) -> None:
    """Record what is missing, and put it all together; the arguments are those of ``produce``.

    Raises:
        WorkerError: A worker cannot go on.
        OSError: A file cannot be written.
    """
    done = parts.finished(seeds)
    missing = [Job(seed) for seed in seeds if seed not in done]
    pool: Pool[bool]
    if head["recipe"]["world"] == "real":  # somebody is asked at the terminal
        pool = Inline(partial(make_player, parts.folder))
    elif cluster is None:
        pool = Workers(workers or provenance.usable_cores(), partial(make_player, parts.folder))
    else:
        pool = cluster.workers(cluster.places(workers)[: len(missing)], make_player, parts.folder)
    alone = head["recipe"]["world"] != "real"  # a bar would be drawn over the question
    with pool, Progressing(len(seeds), done, alone) as display:
        for played in pool.play(missing):
            if played.answer is None:
                raise WorkerError(f"{played.task}: {played.given_up}")
            display.add(played.answer)
    assemble(parts.out, seeds, head, parts)


def assemble(out: Path, seeds: range, head: dict[str, Any], parts: Parts) -> None:
    """Put the parts together into one file, whose bytes depend on nothing but them.

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


class Progressing:
    """A bar on stderr with the success rate, the pace and the time left; lines in a log file."""

    def __init__(self, total: int, done: dict[int, bool], alone: bool) -> None:
        self._total, self._before = total, len(done)
        self._count, self._successes = len(done), sum(done.values())
        self._bar = Progress(
            TextColumn("Collecting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (alone and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task("", total=total, completed=len(done), rate="")

    def __enter__(self) -> Progressing:
        self._started = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, success: bool) -> None:
        """Count a demonstration."""
        self._count += 1
        self._successes += success
        pace = 60 * (self._count - self._before) / (time.monotonic() - self._started)
        rate = f"{self._successes / self._count:.1%} success, {pace:.0f} a minute"
        self._bar.update(self._task, advance=1, rate=rate)
        done, total = self._count, self._total
        if self._bar.disable and done * 10 // total > (done - 1) * 10 // total:
            line = f"{done} of {total} demonstrations, {rate}"
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # By its name: what a player is made of has to be found by it in processes of other programs.
    import experts.collect as itself

    itself.main()
