"""A run of the benchmark: its options, and its episodes, result and report in a folder."""

from __future__ import annotations

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

from benchmark.evaluation.display import EpisodeProgress
from benchmark.evaluation.episode_log import EpisodeLog, LogEntry
from benchmark.evaluation.policy_info import identify, print_policy, project_path
from benchmark.evaluation.protocol import EVALUATION_SOURCES, choose_envs, choose_seeds
from benchmark.evaluation.rollout import EpisodeJob, Evaluator, failed_episode
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
from benchmark.reporting.highlights import REPORT, VIDEOS, record_highlights
from komo_envs import provenance
from komo_envs.lab import TerminalOperator, load_lab
from komo_envs.suite import SUITE
from komo_envs.utils.errors import printable
from komo_envs.utils.files import write_text
from komo_envs.utils.progress import waiting
from komo_envs.utils.workers import Inline, Limits, Pool, Workers
from komo_envs.worlds import Backend
from policies.external.sb3 import SB3Options
from policies.load import learned_env
from policies.spec import REMOTE, split_spec

if TYPE_CHECKING:
    from komo_envs.ray_workers import Cluster


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run, those of the command ``benchmark.run``."""

    policy: str
    """expert, random, zero; pretrained:NAME; the folder of a checkpoint, or its .onnx file;
    file.py:Class; a .zip of Stable-Baselines3; tcp://HOST:PORT of a policy in another process."""
    env: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Ids of the environments, or module:Id. Default: the environment that the policy was trained
    in, else those of the suite."""
    episodes: int | None = None
    """Number of episodes of each environment, on the first seeds: 500, or all of --seeds."""
    seeds: str | None = None
    """Seeds A, ..., B - 1, given as A:B; the test seeds if not given."""
    workers: int | None = None
    """Number of worker processes; the number of cores if not given, but one in real time. Episodes
    of a real robot are played in this process, which asks the operator."""
    backend: Backend = "sim"
    """Backend: sim, the simulation; botop, a robot that rai's BotOp simulates in real time; real,
    the robot of --lab."""
    lab: Path | None = None
    """Configuration file of the laboratory."""
    dry_run: bool = False
    """Send a real robot nothing, and print what it would be sent."""
    executor: Literal["local", "ray"] = "local"
    """Place of the worker processes: this machine, or the nodes of a Ray cluster."""
    device: str = "cpu"
    """PyTorch device on which a student computes: cpu, cuda. Devices differ in rounding."""
    out: Path | None = None
    """Folder for result.json, report.html, the episodes and the videos; runs/POLICY-TIME if not
    given."""
    videos: int = 0
    """Number of videos of each environment, of its first episodes; highlights are recorded
    besides."""
    report: bool = True
    """Whether to record highlights (videos of typical episodes), and to write report.html."""
    episode_seconds: float = Limits.seconds
    """Wall time after which an episode is ended as a failure; a real robot's has no limit, and is
    ended by the operator."""
    memory_gib: float = Limits.gib
    """Memory of a worker beyond which its episode is ended as a failure; a real robot's has no
    limit."""
    trust_code: bool = False
    """Whether --policy may run code of its author: a Python file, a .zip of Stable-Baselines3."""
    sb3: tyro.conf.OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


def open_run(options: RunOptions, module: str) -> tuple[EpisodeLog, Cluster | None]:
    """Check everything, then begin a run or open the one to resume.

    Args:
        options: Options of the run.
        module: Module of the command, for the record.

    Returns:
        Its log, and the Ray cluster that it is played on; None for this machine.

    Raises:
        ValueError: An option is wrong, or a node of the cluster differs from this machine.
        OSError: The output folder cannot be written to, or the cluster not be reached.
        ImportError: Something is not installed.
        RuntimeError: An environment cannot be made.
    """
    given = options.env
    if not given and (trained_in := learned_env(options.policy, options.trust_code)):
        given = ((trained_in,),)
    envs = choose_envs(given)
    seeds = choose_seeds(options.seeds, options.episodes)
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers {options.workers}: expected 1 or more")
    if not 0 <= options.videos <= len(seeds):
        raise ValueError(f"--videos {options.videos}: expected 0 to {len(seeds)}, the episodes")
    for name in ("episode_seconds", "memory_gib"):
        if not 0 < getattr(options, name) < math.inf:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} {getattr(options, name)}: expected a positive number")
    if options.backend != "sim" and options.executor != "local":
        raise ValueError(f"--executor ray: expected local with --backend {options.backend}")
    if options.backend == "real" and options.workers not in (None, 1):
        raise ValueError(f"--workers {options.workers}: expected 1 with --backend real")
    if options.backend == "real" and len(envs) > 1:
        raise ValueError(
            f"--env {' '.join(envs)}: expected one with --backend real, which has one tool"
        )
    if options.backend == "real" and options.videos:
        raise ValueError(f"--videos {options.videos}: expected 0 with --backend real")
    trust = options.trust_code
    for env_id in envs:
        gym.make(env_id, disable_env_checker=True, **backend_options(options, Path())).close()
    identified = identify(options.policy, envs, trust, options.device, options.sb3)
    cluster = None
    if options.executor == "ray":
        from komo_envs.ray_workers import Cluster

        cluster = Cluster(
            partial(node_facts, options.policy, envs, trust, options.device, options.sb3)
        )
    now, commit = datetime.now(timezone.utc), provenance.commit()
    setup = Setup(
        schema=2,
        suite=SUITE,
        policy=identified.policy,
        envs=envs,
        env_options=identified.env_options,
        backend=options.backend,
        dry_run=options.dry_run,
        lab=json.loads(json.dumps(asdict(load_lab(options.lab)))) if options.lab else None,
        seeds=(seeds.start, seeds.stop),
        videos=options.videos,
        versions=provenance.versions(envs, EVALUATION_SOURCES),
        commit=Commit(*commit) if commit else None,
        machine=provenance.machine(),
        device=options.device,
        date=now.isoformat(timespec="seconds"),
        command=_command(module),
        # The operator of a real robot ends what takes too long.
        episode_seconds=None if options.backend == "real" else options.episode_seconds,
        memory_gib=None if options.backend == "real" else options.memory_gib,
    )
    # With microseconds, since several runs may begin in the same second.
    label = folder_name(options.policy, setup.policy.name)
    folder = options.out or Path("runs") / f"{label}-{now:%Y%m%d-%H%M%S-%f}"
    return EpisodeLog(folder, setup), cluster


def folder_name(spec: str, name: str) -> str:
    """The policy's part of the name of a run's folder.

    Args:
        spec: Policy spec, as of ``--policy``.
        name: Name that the policy states, for a policy behind an address.
    """
    if not spec.startswith(REMOTE):
        path, class_name = split_spec(spec)
        path = path.absolute()
        if path.name == "policy.zip":  # the name of every policy of policies.train_rl
            path = path.parent
        name = class_name or path.name.removesuffix(".zip").removesuffix(".onnx")
        if re.fullmatch(r"seed\d+", name):  # of a training that has several
            name = f"{path.parent.name}-{name}"
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "policy"


def backend_options(options: RunOptions, folder: Path) -> dict[str, Any]:
    """The keyword options of ``gym.make`` that choose the backend.

    Args:
        options: Options of the run.
        folder: Folder of the run, in which images of a real robot's scenes are kept.
    """
    if options.backend != "real":
        return {"backend": options.backend, "lab": options.lab, "dry_run": options.dry_run}
    return {
        "backend": "real",
        "lab": options.lab,
        "dry_run": options.dry_run,
        "operator": TerminalOperator(folder / "layouts"),
    }


def node_facts(
    policy: str, envs: tuple[str, ...], trust_code: bool, device: str, sb3: SB3Options
) -> dict[str, str]:
    """Versions and hashes on this machine that episodes depend on, by name."""
    identity = identify(policy, envs, trust_code, device, sb3).policy
    return {**provenance.versions(envs, EVALUATION_SOURCES), f"policy {policy}": identity.sha256}


def _command(module: str) -> str:
    """The command line, without names of folders that may name a user or a host."""
    words = ["python", "-m", module, *sys.argv[1:]]
    for index, (before, word) in enumerate(pairwise(words), start=1):
        if before == "--out":
            words[index] = "DIR"
        elif word.startswith("--out="):
            words[index] = "--out=DIR"
        else:
            option, equals, value = word.rpartition("=")
            words[index] = option + equals + _without_folders(value)
    return printable(shlex.join(words))


def _without_folders(word: str) -> str:
    """A word of the command line; of a path outside the project the last name."""
    path = Path(word)
    return project_path(word) if path.is_absolute() or ".." in path.parts else word


def is_finished(log: EpisodeLog, with_report: bool) -> bool:
    """Whether a run is complete.

    Raises:
        OSError: The result cannot be read.
        ValueError: It is damaged.
    """
    whole = len(log.entries) == len(log.setup.envs) * len(log.setup.seed_range())
    page = log.folder / REPORT
    return whole and _is_scored(log) and (page.exists() or not with_report)


def _is_scored(log: EpisodeLog) -> bool:
    """Whether the result is there, with all seeds: the run may have been given more."""
    file = log.folder / RESULT
    return file.exists() and load_result(file).seeds == log.setup.seeds


def finish_run(
    log: EpisodeLog,
    make_evaluator: Callable[[Path], Evaluator],
    workers: int | None,
    cluster: Cluster | None,
    with_report: bool,
) -> Result:
    """Complete a run: play its missing episodes, record highlights, and write the report.

    Args:
        log: Log of the run.
        make_evaluator: Makes the evaluator of a worker, from the folder for its videos.
        workers: Number of processes; the number of cores if None.
        cluster: Cluster whose nodes play; None for this machine.
        with_report: Whether to record highlights, and to write the report.

    Raises:
        WorkerError: The run cannot go on.
        OSError: A file cannot be written.
        ValueError: A file in the folder is damaged.
    """
    file, page = log.folder / RESULT, log.folder / REPORT
    missing = [
        EpisodeJob(env_id, seed, video=index < log.setup.videos)
        for env_id in log.setup.envs
        for index, seed in enumerate(log.setup.seed_range())
        if (env_id, seed) not in log.entries
    ]
    if is_finished(log, with_report):
        return load_result(file)
    videos, limits = log.folder / VIDEOS, log.setup.limits()
    pool: Pool[Episode]
    if log.setup.backend == "real":
        nodes, workers = 1, 1
        pool = Inline(partial(make_evaluator, videos))
    elif cluster is None:
        # An episode in real time needs a core for itself.
        cores = provenance.usable_cores() if log.setup.backend == "sim" else 1
        nodes, workers = 1, workers or cores
        pool = Workers(workers, partial(make_evaluator, videos), limits)
    else:
        places = cluster.places(workers)
        nodes, workers = len(set(places)), len(places)
        pool = cluster.workers(places[: max(len(missing), 1)], make_evaluator, videos, limits)
    with pool:
        if missing or not _is_scored(log):
            play_missing(log, missing, pool, workers)
            page.unlink(missing_ok=True)  # its result has fewer episodes
            save_result(result_of(log, workers, nodes), file)
        result = load_result(file)
        if not with_report:
            return result
        if log.setup.backend == "sim":  # an episode of another would come out differently
            record_highlights(result, log.folder, pool)
    with waiting("writing the report"):
        # Imported here, since every worker imports this module, and needs no plots.
        from benchmark.reporting.report_page import report_page

        write_text(page, report_page(result, log.folder))
    return result


def play_missing(
    log: EpisodeLog, missing: Sequence[EpisodeJob], pool: Pool[Episode], workers: int
) -> None:
    """Play the episodes that are not in ``log`` yet.

    Environments are played one after the other, so that each one's wall time is its own.

    Args:
        log: Log of the run.
        missing: Episodes that are not in it.
        pool: Pool of evaluators.
        workers: Number of its workers.

    Raises:
        WorkerError: The run cannot go on.
        OSError: The log cannot be written.
    """
    setup = log.setup
    print_policy(setup.policy, setup.env_options)
    total = dict.fromkeys(setup.envs, len(setup.seed_range()))
    done = [entry.episode for entry in log.entries.values()]
    with EpisodeProgress(total, done, setup.backend != "real", workers) as display:
        for env_id in setup.envs:
            before = log.elapsed(env_id)
            started = time.monotonic()
            for finished in pool.run(task for task in missing if task.env_id == env_id):
                elapsed = before + time.monotonic() - started
                episode = finished.value or failed_episode(finished.task, finished.given_up)
                log.add(LogEntry(episode, finished.deaths, elapsed))
                display.add(episode)


def result_of(log: EpisodeLog, workers: int, nodes: int) -> Result:
    """The result of a finished run, that was played by ``workers`` on ``nodes`` machines."""
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
