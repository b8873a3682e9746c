"""Collect demonstrations: ``python -m experts.collect --env KomoPush-v0 --out demos/push.h5``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experts.dataset.parts import PartRecorder, Parts, check_output, produce
from experts.dataset.recorder import MOST_NOISE, SOURCES, Recipe, Recorder, lab_of
from komo_envs import provenance
from komo_envs.lab import Lab
from komo_envs.registration import find_spec
from komo_envs.suite import TRAIN
from komo_envs.utils.cli import fail, parse, plain

if TYPE_CHECKING:
    from komo_envs.ray_workers import Cluster

MODULE = "experts.collect"


@dataclass(frozen=True, kw_only=True)
class Arguments(Recipe):
    """Collect demonstrations of an expert.

    The same command resumes an interrupted collection. Beside the file it writes a data card, a
    contact sheet and a short video of the same name.
    """

    out: Path
    """Output file, HDF5. Until it is complete, the folder of this name with .parts has the finished
    demonstrations; assembling them takes as much disk space again."""
    episodes: int = 1000
    """Number of episodes, one for each seed. All are kept; mask/successful in the file names those
    that succeed."""
    first_seed: int = 0
    """First training seed."""
    workers: int | None = None
    """Number of worker processes, which changes nothing else; as many as cores if not given, but
    one in real time."""
    executor: Literal["local", "ray"] = "local"
    """Place where the workers run: this machine, or the nodes of a Ray cluster."""


def main() -> None:
    """Run the command."""
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
    make_runner = partial(PartRecorder, partial(Recorder, recipe, lab), recipe.control_mode)
    # A simulation in real time needs a core for itself.
    workers = arguments.workers or (None if recipe.backend == "sim" else 1)
    produce(MODULE, parts, seeds_of(arguments), head, make_runner, workers, cluster)


def check(arguments: Arguments, lab: Lab | None) -> dict[str, Any]:
    """Check the arguments, and the output file if it is there already.

    Returns:
        The file's attributes that concern all its demonstrations.

    Raises:
        ValueError: An argument is wrong, or the file holds other demonstrations.
    """
    try:
        find_spec(arguments.env)
    except ValueError as error:
        raise ValueError(f"--env {error}") from None
    for name in ("episodes", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: expected 1 or more")
    if arguments.backend != "sim" and arguments.executor != "local":
        raise ValueError(f"--executor ray: expected local with --backend {arguments.backend}")
    if arguments.backend == "real" and arguments.workers not in (None, 1):
        raise ValueError(f"--workers {arguments.workers}: expected 1 with --backend real")
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
    """The cluster to run on, whose nodes all have this machine's versions; None for this machine.

    Raises:
        ValueError: A node has other versions.
        OSError: The cluster cannot be reached.
        ImportError: Ray is not installed.
    """
    if arguments.executor == "local":
        return None
    from komo_envs.ray_workers import Cluster

    return Cluster(partial(provenance.versions, [arguments.env], SOURCES))


def recipe_of(arguments: Arguments) -> Recipe:
    """The arguments that decide how demonstrations come out."""
    return Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})


def seeds_of(arguments: Arguments) -> range:
    """Seeds of the demonstrations, one each."""
    return range(arguments.first_seed, arguments.first_seed + arguments.episodes)


if __name__ == "__main__":
    main()
