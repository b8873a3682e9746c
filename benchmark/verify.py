"""Play part of a result again: ``python -m benchmark.verify RESULT --policy PATH``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from benchmark.evaluation.display import EpisodeProgress
from benchmark.evaluation.policy_info import identify
from benchmark.evaluation.protocol import EVALUATION_SOURCES
from benchmark.evaluation.rollout import EpisodeJob, Evaluator, failed_episode
from benchmark.records.result import Commit, Episode, Result
from benchmark.records.submission import (
    RESULT,
    VERIFICATION,
    Verification,
    check_result,
    hash_file,
    save_record,
)
from komo_envs import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable
from komo_envs.utils.workers import WorkerError, Workers
from policies.external.sb3 import SB3Options, options_of

MODULE = "benchmark.verify"


@dataclass(frozen=True)
class Arguments:
    """Play a random part of a result's episodes again, and report which come out the same.

    The exit code is 0 if the result is confirmed, and 1 if not. On the same hardware and versions
    all outcomes must be the same; on others most, and the re-run must not lose significantly many
    successes. The verification of a row of the leaderboard is kept beside its result, and marks
    the row as verified.
    """

    result: tyro.conf.Positional[Path]
    """Result file."""
    policy: str
    """Policy of the result, as of benchmark.run."""
    fraction: float = 0.1
    """Fraction of the episodes of each environment."""
    workers: int | None = None
    """Number of worker processes; the number of cores if not given."""
    device: str | None = None
    """PyTorch device on which a student computes; that of the result if not given."""
    trust_code: bool = False
    """Whether --policy may run code of its author."""
    vec_normalize: Path | None = None
    """File of the statistics of a Stable-Baselines3 model that was trained with VecNormalize."""


@dataclass(frozen=True)
class Replay:
    """An episode of the result, and the same one played again."""

    then: Episode
    now: Episode

    @property
    def identical(self) -> bool:
        """Whether they are the same in every number of the result."""
        now = self.now
        if self.then.tracking_error is None:
            now = replace(now, tracking_error=None)
        return self.then == now

    def equivalent(self, other_hardware: bool) -> bool:
        """Whether they have the same scene, outcome and length, and end within a millimeter; on
        other hardware, the same scene and outcome.
        """
        then, now = self.then, self.now
        if then.scene != now.scene or then.success_at_end != now.success_at_end:
            return False
        ends = [-1.0 if each.distance is None else each.distance for each in (then, now)]
        return other_hardware or (
            abs(ends[0] - ends[1]) <= 1e-3
            and then.success_once == now.success_once
            and then.steps == now.steps
        )

    @property
    def regressed(self) -> bool:
        """Whether it succeeds in the result only; another scene counts as a regression, too."""
        then, now = self.then, self.now
        return (then.success_at_end and not now.success_at_end) or then.scene != now.scene


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        result, sha256 = check_policy(arguments), hash_file(arguments.result)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    jobs = sample_jobs(result, arguments.fraction)
    workers = arguments.workers or provenance.usable_cores()
    try:
        with TemporaryDirectory() as videos:
            make_evaluator = partial(
                Evaluator,
                arguments.policy,
                Path(videos),
                arguments.trust_code,
                device=arguments.device or result.device,
                sb3=sb3_options(arguments, result),
            )
            replays = replay(result, make_evaluator, jobs, workers)
        differences = hardware_differences(result, arguments.device or result.device)
        record = verification_of(result, sha256, replays, differences)
        file = arguments.result.parent / VERIFICATION
        kept = arguments.result.name == RESULT
        if kept:
            save_record(record, file)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted; nothing is verified", code=130)
    except (WorkerError, OSError) as error:
        fail(MODULE, f"stopped: {plain(error)}; nothing is verified", code=1)
    with printing(MODULE, f"{file} is written" if kept else "played again"):
        print_verification(replays, record)
        if kept:
            print(f"Record: {file}")
    raise SystemExit(0 if record.passed else 1)


def check_policy(arguments: Arguments) -> Result:
    """The result, if it and the policy are as they have to be: checked before anything is finished.

    Raises:
        ValueError: The result is damaged, of another suite, or of another policy.
        OSError: A file cannot be read.
    """
    if not 0 < arguments.fraction <= 1:
        raise ValueError(f"--fraction {arguments.fraction}: expected more than 0, at most 1")
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: expected 1 or more")
    result = check_result(arguments.result)
    trust, device = arguments.trust_code, arguments.device or result.device
    sb3, theirs = sb3_options(arguments, result), result.policy
    ours, env_options = identify(arguments.policy, result.envs, trust, device, sb3)
    for name in ("sha256", "name", "privileged", "training", "weights_hashed", "trained_in"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(
                f"--policy {arguments.policy}: its {name} is {getattr(ours, name)}; "
                f"{arguments.result} has {getattr(theirs, name)}: another policy, or another state "
                "of its code"
            )
    for env_id in result.envs:
        options = result.env_options.get(env_id, env_options[env_id])
        if env_options[env_id] != options:
            raise ValueError(
                f"--policy {arguments.policy}: acts in {env_id} with {env_options[env_id]}; "
                f"{arguments.result} has {options}"
            )
    if arguments.result.name == RESULT:
        check_writable("result", arguments.result.parent / VERIFICATION)
    return result


def sb3_options(arguments: Arguments, result: Result) -> SB3Options:
    """Training options of a model of Stable-Baselines3, as in the result."""
    statistics = str(arguments.vec_normalize) if arguments.vec_normalize else None
    if result.policy.trained_in is None:
        return SB3Options(vec_normalize=statistics)
    return options_of(result.policy.trained_in, statistics)


def sample_jobs(result: Result, fraction: float) -> list[EpisodeJob]:
    """Random sample of the episodes of each environment, at least one, which nobody can foresee."""
    seeds, rng = result.seed_range(), random.SystemRandom()
    count = math.ceil(fraction * len(seeds))
    return [
        EpisodeJob(env_id, seed)
        for env_id in result.envs
        for seed in sorted(rng.sample(seeds, count))
    ]


def replay(
    result: Result,
    make_evaluator: Callable[[], Evaluator],
    jobs: Sequence[EpisodeJob],
    workers: int,
) -> list[Replay]:
    """Play episodes again, in the order of ``jobs``.

    Raises:
        WorkerError: They cannot be finished.
    """
    then = {(episode.env, episode.seed): episode for episode in result.episodes}
    now: dict[tuple[str, int], Episode] = {}
    count = len(jobs) // len(result.envs)
    with (
        Workers(min(workers, len(jobs)), make_evaluator, result.limits()) as pool,
        EpisodeProgress(dict.fromkeys(result.envs, count)) as display,
    ):
        for env_id in result.envs:
            for finished in pool.run(job for job in jobs if job.env_id == env_id):
                episode = finished.value or failed_episode(finished.task, finished.given_up)
                now[episode.env, episode.seed] = episode
                display.add(episode)
    return [Replay(then[job[:2]], now[job[:2]]) for job in jobs]


def hardware_differences(result: Result, device: str) -> tuple[str, ...]:
    """Differences in hardware and versions that can change floating-point results, in words."""
    here, there = provenance.machine(), result.machine
    pairs = [(name, here[name], there.get(name, here[name])) for name in provenance.KIND]
    pairs.append(("device", device, result.device))
    versions = provenance.versions(result.envs, EVALUATION_SOURCES)
    pairs += [
        (name, versions[name], version)
        for name, version in result.versions.items()
        if not name.endswith("_sources") and name in versions
    ]
    return tuple(f"{name}: {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs)


def verification_of(
    result: Result, sha256: str, replays: Sequence[Replay], differences: tuple[str, ...]
) -> Verification:
    """The record of a verification.

    Args:
        result: The result.
        sha256: Hash of its file.
        replays: Episodes that were played again.
        differences: See ``hardware_differences``.
    """
    same = [each.equivalent(bool(differences)) for each in replays]
    identical = sum(each.identical for each in replays)
    mismatches = [each for each, equal in zip(replays, same, strict=True) if not equal]
    seeds: dict[str, list[int]] = {env_id: [] for env_id in result.envs}
    for each in replays:
        seeds[each.now.env].append(each.now.seed)
    commit = provenance.commit()
    return Verification(
        schema=2,
        result_sha256=sha256,
        policy_sha256=result.policy.sha256,
        seeds={env_id: tuple(part) for env_id, part in seeds.items()},
        identical=identical,
        equivalent=sum(same) - identical,
        mismatches=tuple((each.now.env, each.now.seed) for each in mismatches),
        other_hardware=differences,
        regressions=sum(each.regressed for each in mismatches),
        versions=provenance.versions(result.envs, EVALUATION_SOURCES),
        machine=provenance.machine(),
        commit=Commit(*commit) if commit else None,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def print_verification(replays: Sequence[Replay], record: Verification) -> None:
    """Print the episodes with another outcome, and whether the result is confirmed."""
    same = record.identical + record.equivalent
    for each in replays:
        then, now = each.then, each.now
        if (now.env, now.seed) in record.mismatches:
            what = "scene" if then.scene != now.scene else "outcome"
            print(
                f"{now.env}, seed {now.seed}: another {what}: {_said(then)} in the result, "
                f"{_said(now)} now"
            )
    print(
        f"{same} of {len(replays)} episodes have the same outcome, "
        f"{record.identical} of them are the same in every number."
    )
    if record.other_hardware:
        print(
            f"Played here with {'; '.join(record.other_hardware)}: floating-point results differ."
        )
        lost = record.regressions
        print(
            f"{lost} succeed in the result alone, {len(record.mismatches) - lost} here alone "
            f"(p = {record.p:.2g}, exact sign test): "
            + (
                "the difference is within chance, and the result is confirmed."
                if record.passed
                else "the result is not confirmed."
            )
        )
    elif same == len(replays):
        # If a share q of all episodes differed, none of n would with (1 - q)^n; that is 5 % at:
        most = 1 - 0.05 ** (1 / len(replays))
        print(
            f"With 95 % confidence, fewer than {most:.1%} of all its episodes would come out "
            "differently."
        )


def _said(episode: Episode) -> str:
    how = "success" if episode.success_at_end else f"failure ({episode.failure})"
    end = "nowhere" if episode.distance is None else f"at {episode.distance:.4f} m"
    return f"{how} {end} after {episode.steps} steps"


if __name__ == "__main__":
    main()
