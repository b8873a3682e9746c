"""Score a policy: ``python -m benchmark.run --policy expert``."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import tyro

from benchmark.evaluation.display import progress, show_scores, summary, waiting
from benchmark.evaluation.episode_log import Entry, EpisodeLog
from benchmark.evaluation.policy_info import identify, tell
from benchmark.evaluation.protocol import SOURCES, choose_envs, choose_seeds
from benchmark.evaluation.rollout import Job, Player, lost
from benchmark.records.result import (
    Commit,
    Episode,
    Result,
    Setup,
    load_result,
    save_result,
    score,
)
from benchmark.records.submission import RESULT
from benchmark.reporting.highlights import REPORT, VIDEOS, film
from komo_envs.lab import TerminalOperator, load_lab
from komo_envs.suite import SUITE
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.errors import printable
from komo_envs.utils.files import write_text
from komo_envs.utils.workers import Inline, Limits, Pool, WorkerError, Workers
from komo_envs.worlds import Backend
from policies.external.sb3 import SB3Options
from policies.load import learned_env
from policies.spec import REMOTE, split_spec

if TYPE_CHECKING:
    from komo_envs.utils.ray_workers import Cluster

MODULE = "benchmark.run"


@dataclass(frozen=True)
class Arguments:
    """Score a policy. The same command with the same --out goes on where it stopped."""

    policy: str
    """expert, random, zero; the folder of a checkpoint, or its .onnx file; file.py:Class; a .zip of
    Stable-Baselines3; tcp://HOST:PORT of a policy in another process."""
    env: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Ids of the environments, or module:Id. If none is given: what the policy says it learned,
    else those of the suite."""
    episodes: int | None = None
    """Episodes of each environment, on the first seeds: 500, or as many as --seeds has."""
    seeds: str | None = None
    """A:B for the seeds A, ..., B - 1; the test seeds if not given."""
    workers: int | None = None
    """Processes that play episodes; as many as there are cores if not given, but one in real time.
    A real robot's episodes are played in this one, which asks its operator."""
    world: Backend = "sim"
    """What the policy acts in: sim; botop, a robot that rai's BotOp simulates in real time; real,
    that of --lab."""
    lab: Path | None = None
    """The file that says what the laboratory has."""
    dry_run: bool = False
    """Send a real robot nothing, and print what it would be sent."""
    executor: Literal["local", "ray"] = "local"
    """Where they are: on this machine, or on the nodes of a Ray cluster."""
    device: str = "cpu"
    """Of PyTorch, where a student computes: cpu, cuda. Other devices round otherwise."""
    out: Path | None = None
    """Folder for result.json, report.html, the episodes and the videos; runs/POLICY-TIME if not
    given."""
    videos: int = 0
    """How many episodes of each environment to film, the first ones; typical ones always are."""
    report: bool = True
    """Whether to film typical episodes, and to write report.html."""
    episode_seconds: float = Limits.seconds
    """Wall time after which an episode is ended, and has failed; there is no limit beside a real
    robot, where the operator ends it."""
    memory_gib: float = Limits.gib
    """Memory of one worker beyond which its episode is ended, and has failed, but beside a real
    robot."""
    trust_code: bool = False
    """Whether --policy may run code of its author's: a Python file, a .zip of
    Stable-Baselines3."""
    sb3: tyro.conf.OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE, repeatable=("--env",))
    try:
        # A real robot's operator is asked meanwhile.
        with waiting("loading") if arguments.world != "real" else contextlib.nullcontext():
            log, cluster = prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    except RuntimeError as error:  # an environment could not be made
        fail(MODULE, f"{type(error).__name__}: {error}", code=1)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    file, page = log.folder / RESULT, log.folder / REPORT
    try:
        finished = is_finished(log, arguments.report)
        make_player = partial(
            Player,
            arguments.policy,
            trust_code=arguments.trust_code,
            options=world_options(arguments, log.folder),
            device=arguments.device,
            sb3=arguments.sb3,
        )
        result = run(log, make_player, arguments.workers, cluster, arguments.report)
    except KeyboardInterrupt:
        fail(MODULE, f"interrupted; {_rest(log)}", code=130)
    except (WorkerError, OSError, ValueError) as error:
        fail(MODULE, f"stopped: {plain(error)}; {_rest(log)}", code=1)
    with printing(MODULE, f"{file} is complete"):
        if finished:
            print(f"{file} is already there, with the same configuration: nothing to do.")
        show_scores(result)
        print(f"Result: {file}")
        if page.exists():
            print(f"Report: {page}")
        if (videos := log.folder / VIDEOS).is_dir():
            print(f"Videos: {videos}")
        print(summary(result))


def _rest(log: EpisodeLog) -> str:
    return (
        f"{len(log.entries)} finished episodes are kept, "
        f"and the same command with --out {log.folder} goes on"
    )


def prepare(arguments: Arguments, module: str = MODULE) -> tuple[EpisodeLog, Cluster | None]:
    """Check everything, then begin a run or find the one to go on with.

    Args:
        arguments: Of the run.
        module: Of the command.

    Returns:
        Its log, and the cluster that it is played on, if it is not on this machine.

    Raises:
        ValueError: An argument is wrong, or a node of the cluster is other than this machine.
        OSError: The output folder cannot be written to, or the cluster not be reached.
        ImportError: Something is not installed.
        RuntimeError: An environment cannot be made.
    """
    given = arguments.env
    if not given and (learned := learned_env(arguments.policy, arguments.trust_code)):
        given = ((learned,),)
    envs = choose_envs(given)
    seeds = choose_seeds(arguments.seeds, arguments.episodes)
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: expected 1 or more")
    if not 0 <= arguments.videos <= len(seeds):
        raise ValueError(f"--videos {arguments.videos}: expected 0 to {len(seeds)}, the episodes")
    for name in ("episode_seconds", "memory_gib"):
        if not 0 < getattr(arguments, name) < math.inf:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} {getattr(arguments, name)}: expected a positive number")
    if arguments.world != "sim" and arguments.executor != "local":
        raise ValueError(f"--executor ray: expected local with --world {arguments.world}")
    if arguments.world == "real" and arguments.workers not in (None, 1):
        raise ValueError(f"--workers {arguments.workers}: expected 1 with --world real")
    if arguments.world == "real" and len(envs) > 1:
        raise ValueError(f"--env {' '.join(envs)}: expected one with --world real: it has one tool")
    if arguments.world == "real" and arguments.videos:
        raise ValueError(f"--videos {arguments.videos}: expected 0 with --world real")
    trust = arguments.trust_code
    for env_id in envs:
        options = world_options(arguments, Path())
        gym.make(env_id, disable_env_checker=True, **options).close()
    identified = identify(arguments.policy, envs, trust, arguments.device, arguments.sb3)
    cluster = None
    if arguments.executor == "ray":
        from komo_envs.utils.ray_workers import Cluster

        cluster = Cluster(
            partial(facts, arguments.policy, envs, trust, arguments.device, arguments.sb3)
        )
    now, commit = datetime.now(timezone.utc), provenance.commit()
    setup = Setup(
        schema=1,
        suite=SUITE,
        policy=identified.policy,
        envs=envs,
        env_options=identified.env_options,
        world=arguments.world,
        dry_run=arguments.dry_run,
        lab=json.loads(json.dumps(asdict(load_lab(arguments.lab)))) if arguments.lab else None,
        seeds=(seeds.start, seeds.stop),
        videos=arguments.videos,
        versions=provenance.versions(envs, SOURCES),
        commit=Commit(*commit) if commit else None,
        machine=provenance.machine(),
        device=arguments.device,
        date=now.isoformat(timespec="seconds"),
        command=_command(module),
        # Beside a real robot it is the operator who ends what takes too long.
        episode_seconds=None if arguments.world == "real" else arguments.episode_seconds,
        memory_gib=None if arguments.world == "real" else arguments.memory_gib,
    )
    # With microseconds, for several runs may begin in the same second.
    label = folder_name(arguments.policy, setup.policy.name)
    folder = arguments.out or Path("runs") / f"{label}-{now:%Y%m%d-%H%M%S-%f}"
    return EpisodeLog(folder, setup), cluster


def folder_name(spec: str, name: str) -> str:
    """The part of a run folder's name that says the policy.

    Args:
        spec: What ``--policy`` named.
        name: What the policy calls itself, which is all that is known of one behind an address.
    """
    if not spec.startswith(REMOTE):
        path, class_name = split_spec(spec)
        path = path.absolute()
        if path.name == "policy.zip":  # as every training calls it
            path = path.parent
        name = class_name or path.name.removesuffix(".zip").removesuffix(".onnx")
        if re.fullmatch(r"seed\d+", name):  # of a training that has several
            name = f"{path.parent.name}-{name}"
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "policy"


def world_options(arguments: Arguments, folder: Path) -> dict[str, Any]:
    """The keyword arguments of ``gym.make`` that say what the policy acts in.

    Args:
        arguments: Of the command.
        folder: Of the run, in which the pictures of a real world's scenes are kept.
    """
    if arguments.world != "real":
        return {"backend": arguments.world, "lab": arguments.lab, "dry_run": arguments.dry_run}
    return {
        "backend": "real",
        "lab": arguments.lab,
        "dry_run": arguments.dry_run,
        "operator": TerminalOperator(folder / "layouts"),
    }


def facts(
    policy: str, envs: tuple[str, ...], trust_code: bool, device: str, sb3: SB3Options
) -> dict[str, str]:
    """What an episode depends on, as it is on this machine, by name."""
    identity = identify(policy, envs, trust_code, device, sb3).policy
    return {**provenance.versions(envs, SOURCES), f"policy {policy}": identity.sha256}


def _command(module: str) -> str:
    """The command line, without the name of the folder, which may name a user or a host."""
    words = ["python", "-m", module, *sys.argv[1:]]
    for index, (before, word) in enumerate(pairwise(words), start=1):
        if before == "--out":
            words[index] = "DIR"
        elif word.startswith("--out="):
            words[index] = "--out=DIR"
    return printable(shlex.join(words))


def is_finished(log: EpisodeLog, with_report: bool) -> bool:
    """Whether nothing is left to do of a run.

    Raises:
        OSError: The result cannot be read.
        ValueError: It is none.
    """
    whole = len(log.entries) == len(log.setup.envs) * len(log.setup.seed_range())
    page = log.folder / REPORT
    return whole and _is_scored(log) and (page.exists() or not with_report)


def _is_scored(log: EpisodeLog) -> bool:
    """Whether the result is there, and is of all seeds: the run may have been given more."""
    file = log.folder / RESULT
    return file.exists() and load_result(file).seeds == log.setup.seeds


def run(
    log: EpisodeLog,
    make_player: Callable[[Path], Player],
    workers: int | None,
    cluster: Cluster | None,
    with_report: bool,
) -> Result:
    """Do what is left to do of a run: play its episodes, film typical ones, and write the report.

    Args:
        log: Of the run.
        make_player: Makes what each of them plays with, from the folder for its videos.
        workers: How many processes play; as many as there are cores if None.
        cluster: On whose nodes; None for this machine.
        with_report: Whether to film, and to write the report.

    Raises:
        WorkerError: The run cannot go on.
        OSError: A file cannot be written.
        ValueError: A file in the folder is not what it should be.
    """
    file, page = log.folder / RESULT, log.folder / REPORT
    missing = [
        Job(env_id, seed, film=number < log.setup.videos)
        for env_id in log.setup.envs
        for number, seed in enumerate(log.setup.seed_range())
        if (env_id, seed) not in log.entries
    ]
    if is_finished(log, with_report):
        return load_result(file)
    videos, limits = log.folder / VIDEOS, log.setup.limits()
    pool: Pool[Episode]
    if log.setup.world == "real":
        nodes, workers = 1, 1
        pool = Inline(partial(make_player, videos))
    elif cluster is None:
        # What plays in real time needs a core for itself.
        cores = provenance.usable_cores() if log.setup.world == "sim" else 1
        nodes, workers = 1, workers or cores
        pool = Workers(workers, partial(make_player, videos), limits)
    else:
        places = cluster.places(workers)
        nodes, workers = len(set(places)), len(places)
        pool = cluster.workers(places[: max(len(missing), 1)], make_player, videos, limits)
    with pool:
        if missing or not _is_scored(log):
            play(log, missing, pool, workers)
            page.unlink(missing_ok=True)  # of fewer episodes
            save_result(collect(log, workers, nodes), file)
        result = load_result(file)
        if not with_report:
            return result
        if log.setup.world == "sim":  # nothing else would come out the same again
            film(result, log.folder, pool)
    with waiting("writing the report"):
        # Here, for every worker imports what this module does, and draws nothing.
        from benchmark.report import report

        write_text(page, report(result, log.folder))
    return result


def play(log: EpisodeLog, missing: Sequence[Job], pool: Pool[Episode], workers: int) -> None:
    """Play the episodes that are not in ``log`` yet.

    Environments are played one after the other, so that each one's wall time is its own.

    Args:
        log: Of the run.
        missing: Its other episodes.
        pool: Plays them.
        workers: How many play.

    Raises:
        WorkerError: The run cannot go on.
        OSError: The log cannot be written.
    """
    setup = log.setup
    tell(setup.policy, setup.env_options)
    total = dict.fromkeys(setup.envs, len(setup.seed_range()))
    done = [entry.episode for entry in log.entries.values()]
    with progress(total, done, alone=setup.world != "real", workers=workers) as display:
        for env_id in setup.envs:
            before = log.elapsed(env_id)
            started = time.monotonic()
            for played in pool.play(task for task in missing if task.env_id == env_id):
                elapsed = before + time.monotonic() - started
                episode = played.answer or lost(played.task, played.given_up)
                log.add(Entry(episode, played.deaths, elapsed))
                display.add(episode)


def collect(log: EpisodeLog, workers: int, nodes: int) -> Result:
    """The result of a finished run, which so many workers played on so many machines."""
    setup = log.setup
    entries = [log.entries[env_id, seed] for env_id in setup.envs for seed in setup.seed_range()]
    tasks = {
        env_id: score(
            [entry.episode for entry in entries if entry.episode.env == env_id],
            log.elapsed(env_id) / 60,
        )
        for env_id in setup.envs
    }
    return Result(
        **{name: getattr(setup, name) for name in asdict(setup)},
        workers=workers,
        nodes=nodes,
        workers_replaced=sum(entry.deaths for entry in entries),
        wall_seconds=sum(log.elapsed(env_id) for env_id in setup.envs),
        tasks=tasks,
        episodes=tuple(entry.episode for entry in entries),
    )


if __name__ == "__main__":
    main()
