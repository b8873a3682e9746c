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

from benchmark.evaluation.display import progress
from benchmark.evaluation.policy_info import identify
from benchmark.evaluation.protocol import SOURCES
from benchmark.evaluation.rollout import Job, Player, lost
from benchmark.records.result import Commit, Episode, Result
from benchmark.records.submission import (
    RESULT,
    VERIFICATION,
    Verification,
    check_result,
    hash_file,
    save_record,
)
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable
from komo_envs.utils.workers import WorkerError, Workers
from policies.external.sb3 import SB3Options, options_of

MODULE = "benchmark.verify"


@dataclass(frozen=True)
class Arguments:
    """Play a random part of a result's episodes again, and say which come out the same.

    Nobody can know before which they will be. The exit code is 0 if all outcomes are the same, and
    1 if one is not. On another kind of machine the last digits are others: there it is 0 if most
    are the same, and no more succeed in the result alone than chance would have it. For a row of
    the leaderboard the record of it is kept beside the result, and marks the row as verified.
    """

    result: tyro.conf.Positional[Path]
    """The result file."""
    policy: str
    """The policy that it is of, as in benchmark.run."""
    fraction: float = 0.1
    """Of each environment's episodes."""
    workers: int | None = None
    """Processes that play; as many as there are cores if not given."""
    device: str | None = None
    """Of PyTorch, where a student computes; that of the result if not given."""
    trust_code: bool = False
    """Whether --policy may run code of its author's."""
    vec_normalize: Path | None = None
    """The statistics of a Stable-Baselines3 model that was trained under VecNormalize."""


@dataclass(frozen=True)
class Outcome:
    """An episode, as it was and as it is."""

    then: Episode
    now: Episode

    @property
    def identical(self) -> bool:
        """Whether they are the same in everything that the result says."""
        now = self.now
        if self.then.tracking_error is None:
            now = replace(now, tracking_error=None)
        return self.then == now

    def alike(self, elsewhere: bool) -> bool:
        """Whether they have the same scene, outcome and length, and end within a millimetre; of
        another kind of machine, the same scene and outcome.
        """
        then, now = self.then, self.now
        if then.scene != now.scene or then.success_at_end != now.success_at_end:
            return False
        ends = [-1.0 if each.distance is None else each.distance for each in (then, now)]
        return elsewhere or (
            abs(ends[0] - ends[1]) <= 1e-3
            and then.success_once == now.success_once
            and then.steps == now.steps
        )

    @property
    def lost(self) -> bool:
        """Whether it succeeds in the result alone; another scene counts as that, too."""
        then, now = self.then, self.now
        return (then.success_at_end and not now.success_at_end) or then.scene != now.scene


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        result, sha256 = prepare(arguments), hash_file(arguments.result)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    jobs = draw(result, arguments.fraction)
    workers = arguments.workers or provenance.usable_cores()
    try:
        with TemporaryDirectory() as videos:
            player = partial(
                Player,
                arguments.policy,
                Path(videos),
                arguments.trust_code,
                device=arguments.device or result.device,
                sb3=stated(arguments, result),
            )
            outcomes = play(result, player, jobs, workers)
        other = elsewhere(result, arguments.device or result.device)
        record = record_of(result, sha256, outcomes, other)
        file = arguments.result.parent / VERIFICATION
        kept = arguments.result.name == RESULT
        if kept:
            save_record(record, file)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted; nothing is verified", code=130)
    except (WorkerError, OSError) as error:
        fail(MODULE, f"stopped: {plain(error)}; nothing is verified", code=1)
    with printing(MODULE, f"{file} is written" if kept else "played again"):
        show(outcomes, record)
        if kept:
            print(f"Record: {file}")
    raise SystemExit(0 if record.passed else 1)


def prepare(arguments: Arguments) -> Result:
    """Check everything before anything is played.

    Raises:
        ValueError: The result is not one, is of another suite, or of another policy.
        OSError: A file cannot be read.
    """
    if not 0 < arguments.fraction <= 1:
        raise ValueError(f"--fraction {arguments.fraction}: expected more than 0, at most 1")
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: expected 1 or more")
    result = check_result(arguments.result)
    trust, device = arguments.trust_code, arguments.device or result.device
    sb3, theirs = stated(arguments, result), result.policy
    ours, env_options = identify(arguments.policy, result.envs, trust, device, sb3)
    for name in ("sha256", "name", "privileged", "learning", "weights_hashed", "trained_in"):
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


def stated(arguments: Arguments, result: Result) -> SB3Options:
    """How the policy was trained, as the result says it."""
    statistics = str(arguments.vec_normalize) if arguments.vec_normalize else None
    if result.policy.trained_in is None:
        return SB3Options(vec_normalize=statistics)
    return options_of(result.policy.trained_in, statistics)


def draw(result: Result, fraction: float) -> list[Job]:
    """Which episodes to play again: so many of each environment, at least one, by chance."""
    seeds, chance = result.seed_range(), random.SystemRandom()
    count = math.ceil(fraction * len(seeds))
    return [
        Job(env_id, seed) for env_id in result.envs for seed in sorted(chance.sample(seeds, count))
    ]


def play(
    result: Result, make_player: Callable[[], Player], jobs: Sequence[Job], workers: int
) -> list[Outcome]:
    """Play episodes again, in the order of ``jobs``.

    Raises:
        WorkerError: They cannot be played.
    """
    then = {(episode.env, episode.seed): episode for episode in result.episodes}
    now: dict[tuple[str, int], Episode] = {}
    count = len(jobs) // len(result.envs)
    with (
        Workers(min(workers, len(jobs)), make_player, result.limits()) as pool,
        progress(dict.fromkeys(result.envs, count), []) as display,
    ):
        for env_id in result.envs:
            for played in pool.play(job for job in jobs if job.env_id == env_id):
                episode = played.answer or lost(played.task, played.given_up)
                now[episode.env, episode.seed] = episode
                display.add(episode)
    return [Outcome(then[job[:2]], now[job[:2]]) for job in jobs]


def elsewhere(result: Result, device: str) -> tuple[str, ...]:
    """In what a result was played with others than here, of what the last digits depend on."""
    here, there = provenance.machine(), result.machine
    pairs = [(name, here[name], there.get(name, here[name])) for name in provenance.KIND]
    pairs.append(("device", device, result.device))
    versions = provenance.versions(result.envs, SOURCES)
    pairs += [
        (name, versions[name], version)
        for name, version in result.versions.items()
        if not name.endswith("_sources") and name in versions
    ]
    return tuple(f"{name}: {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs)


def record_of(
    result: Result, sha256: str, outcomes: Sequence[Outcome], elsewhere: tuple[str, ...]
) -> Verification:
    """What is kept of it; ``sha256`` is the result file's."""
    same = [outcome.alike(bool(elsewhere)) for outcome in outcomes]
    identical = sum(outcome.identical for outcome in outcomes)
    others = [outcome for outcome, alike in zip(outcomes, same, strict=True) if not alike]
    seeds: dict[str, list[int]] = {env_id: [] for env_id in result.envs}
    for outcome in outcomes:
        seeds[outcome.now.env].append(outcome.now.seed)
    commit = provenance.commit()
    return Verification(
        schema=1,
        result_sha256=sha256,
        policy_sha256=result.policy.sha256,
        seeds={env_id: tuple(part) for env_id, part in seeds.items()},
        identical=identical,
        alike=sum(same) - identical,
        different=tuple((outcome.now.env, outcome.now.seed) for outcome in others),
        elsewhere=elsewhere,
        lost=sum(outcome.lost for outcome in others),
        versions=provenance.versions(result.envs, SOURCES),
        machine=provenance.machine(),
        commit=Commit(*commit) if commit else None,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def show(outcomes: Sequence[Outcome], record: Verification) -> None:
    """Print which episodes agree, and what that is worth."""
    alike, lost = record.identical + record.alike, record.lost
    for outcome in outcomes:
        then, now = outcome.then, outcome.now
        if (now.env, now.seed) in record.different:
            what = "scene" if then.scene != now.scene else "outcome"
            print(
                f"{now.env}, seed {now.seed}: another {what}: {_said(then)} in the result, "
                f"{_said(now)} now"
            )
    print(
        f"{alike} of {len(outcomes)} episodes have the same outcome, "
        f"{record.identical} of them are the same in every number."
    )
    if record.elsewhere:
        print(f"Played here with {'; '.join(record.elsewhere)}: the last digits are others.")
        print(
            f"{lost} succeed in the result alone, {len(record.different) - lost} here alone "
            f"(p = {record.p:.2g}, exact sign test): "
            + (
                "the difference is within chance, and the result is confirmed."
                if record.passed
                else "the result is not confirmed."
            )
        )
    elif alike == len(outcomes):
        # Had a share q been other, none would have been found with (1 - q)^n; that is 5 % at:
        most = 1 - 0.05 ** (1 / len(outcomes))
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
