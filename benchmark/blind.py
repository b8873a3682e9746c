"""Blind test on a real robot: ``python -m benchmark.blind A B --env ID --lab FILE --out DIR``."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from benchmark.evaluation.display import show_scores
from benchmark.evaluation.episode_log import EpisodeLog, LogEntry
from benchmark.evaluation.protocol import choose_envs
from benchmark.evaluation.rollout import Evaluator
from benchmark.evaluation.session import RunOptions, backend_options, open_run, result_of
from benchmark.records.result import save_result
from benchmark.records.submission import RESULT
from benchmark.reporting.comparison import compare, names_of, print_comparisons
from benchmark.reporting.highlights import VIDEOS
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import write_text
from policies.external.sb3 import SB3Options, check_stated

MODULE = "benchmark.blind"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare two policies on a real robot in a blind A/B test.

    Both play each scene, in a random order that is kept in the folder, so that the operator does
    not know which one acts. The same command resumes an interrupted test.
    """

    a: Positional[str]
    """First policy, as of benchmark.run."""
    b: Positional[str]
    """Second policy."""
    env: str
    """Id of the environment."""
    lab: Path
    """Configuration file of the laboratory."""
    out: Path
    """Output folder, with a run of each policy, in a and in b."""
    episodes: int = 25
    """Number of scenes, on the first test seeds."""
    trust_code: bool = False
    """Whether the policies may run code of their authors."""
    sb3: OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    runs = [
        RunOptions(
            policy=policy,
            env=((arguments.env,),),
            episodes=arguments.episodes,
            backend="real",
            lab=arguments.lab,
            out=arguments.out / name,
            trust_code=arguments.trust_code,
            sb3=arguments.sb3 if policy.endswith(".zip") else SB3Options(),
        )
        for name, policy in (("a", arguments.a), ("b", arguments.b))
    ]
    try:
        if arguments.a == arguments.b:
            raise ValueError(f"{arguments.a} {arguments.b}: expected two policies")
        check_stated((arguments.a, arguments.b), arguments.sb3)
        choose_envs(runs[0].env)
        evaluator = Evaluator(
            arguments.a,
            arguments.out / "a" / VIDEOS,
            arguments.trust_code,
            backend_options(runs[0], arguments.out),
            sb3=arguments.sb3,
        )
        check_same_options(evaluator, runs)
        logs = [open_run(each, MODULE)[0] for each in runs]
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    rest = "what is finished is kept, and the same command goes on"
    try:
        play(evaluator, runs, logs)
    except KeyboardInterrupt:
        fail(MODULE, f"interrupted; {rest}", code=130)
    except Exception as error:  # of any kind: a camera that is lost, a policy that cannot be made
        fail(MODULE, f"stopped: {type(error).__name__}: {error}; {rest}", code=1)
    results = [result_of(log, workers=1, nodes=1) for log in logs]
    for log, result in zip(logs, results, strict=True):
        save_result(result, log.folder / RESULT)
    with printing(MODULE, f"{arguments.out} is complete"):
        for result in results:
            show_scores(result)
        print_comparisons(compare(*results), names_of(results))


def check_same_options(evaluator: Evaluator, runs: list[RunOptions]) -> None:
    """Load both policies, so that no wait gives away which one acts, and check their env options.

    Raises:
        ValueError: They ask for different options.
        Exception: Of any kind: one cannot be loaded.
    """
    wanted = []
    for each in runs:
        evaluator.act_with(each.policy)
        wanted.append(evaluator.options_for(each.env[0][0]))
    if wanted[0] != wanted[1]:
        keys = [
            key for key in {**wanted[0], **wanted[1]} if wanted[0].get(key) != wanted[1].get(key)
        ]
        seen = [{key: one.get(key) for key in keys} for one in wanted]
        raise ValueError(
            f"the policies want {seen[0]} and {seen[1]}: expected the same, for the robot would be "
            "let go of between them"
        )


def play(evaluator: Evaluator, runs: list[RunOptions], logs: list[EpisodeLog]) -> None:
    """Play the episodes that are not in the logs yet, of both policies in one environment.

    Raises:
        Exception: Of any kind: an error is no failure of a policy.
    """
    seeds = logs[0].setup.seed_range()
    try:
        for number, (which, seed) in enumerate(
            order(seeds, order_key(logs[0].folder.parent)), start=1
        ):
            log, [env_id] = logs[which], logs[which].setup.envs
            if (env_id, seed) in log.entries:
                continue
            print(f"Episode {number} of {2 * len(seeds)}.", flush=True)
            evaluator.act_with(runs[which].policy)
            started = time.monotonic()
            episode = evaluator.run(env_id, seed)
            elapsed = log.elapsed(env_id) + time.monotonic() - started
            log.add(LogEntry(episode, 0, elapsed))
    finally:
        evaluator.close()


def order_key(folder: Path) -> int:
    """Random seed of the order: sampled once, and kept in the folder.

    Raises:
        OSError: It cannot be read or written.
        ValueError: The file is damaged.
    """
    file = folder / "order.json"
    if not file.exists():
        write_text(file, json.dumps(secrets.randbits(63)))
    number = json.loads(file.read_text())
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{file}: {number!r:.80}; expected an integer, 0 or more")
    return number


def order(seeds: range, key: int) -> Iterator[tuple[int, int]]:
    """Index of the policy and seed of the scene of each episode, in turn.

    Args:
        seeds: Seeds of the scenes.
        key: See ``order_key``.
    """
    for seed in seeds:
        first = int(np.random.default_rng([key, seed]).integers(2))
        yield first, seed
        yield 1 - first, seed


if __name__ == "__main__":
    main()
