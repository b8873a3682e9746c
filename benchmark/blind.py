"""Two policies on a real robot, in an order that nobody is told: ``python -m benchmark.blind``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from benchmark import run
from benchmark.compare import compare, names_of, show
from benchmark.display import show_scores
from benchmark.entry import RESULT
from benchmark.episode_log import Entry, EpisodeLog
from benchmark.films import VIDEOS
from benchmark.result import save_result
from benchmark.rollout import Player
from komo_envs.tools.cli import fail, parse, printing

MODULE = "benchmark.blind"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score two policies on a real robot, scene by scene, and compare them.

    Each scene is played by both, one after the other, in an order that is drawn and that nobody is
    told. The same command goes on where it stopped.
    """

    a: Positional[str]
    """A policy, as benchmark.run takes it."""
    b: Positional[str]
    """Another one."""
    env: str
    """Id of the environment."""
    lab: Path
    """The file that says what the laboratory has."""
    out: Path
    """Folder; a run of each policy is kept there, in a and in b."""
    episodes: int = 25
    """Scenes, the first ones of the test seeds."""
    trust_code: bool = False
    """Whether the policies may run code of their authors'."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    runs = [
        run.Arguments(
            policy=policy,
            env=((arguments.env,),),
            episodes=arguments.episodes,
            world="real",
            lab=arguments.lab,
            out=arguments.out / name,
            trust_code=arguments.trust_code,
        )
        for name, policy in (("a", arguments.a), ("b", arguments.b))
    ]
    try:
        if arguments.a == arguments.b:
            raise ValueError(f"{arguments.a} {arguments.b}: expected two policies")
        logs = [run.prepare(each, MODULE)[0] for each in runs]
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    rest = "what is finished is kept, and the same command goes on"
    try:
        play(runs, logs)
    except KeyboardInterrupt:
        fail(MODULE, f"interrupted; {rest}", code=130)
    except Exception as error:  # of any kind: a camera that is lost, a policy that cannot be made
        fail(MODULE, f"stopped: {type(error).__name__}: {error}; {rest}", code=1)
    results = [run.collect(log, workers=1, nodes=1) for log in logs]
    for log, result in zip(logs, results, strict=True):
        save_result(result, log.folder / RESULT)
    with printing(MODULE, f"{arguments.out} is complete"):
        for result in results:
            show_scores(result)
        show(compare(*results), names_of(results))


def play(runs: list[run.Arguments], logs: list[EpisodeLog]) -> None:
    """Play the episodes that are not in the logs yet, of both policies in one environment.

    Raises:
        Exception: Of any kind: what goes wrong is no failure of a policy.
    """
    first = runs[0]
    options = run.world_options(first, logs[0].folder.parent)
    player = Player(first.policy, logs[0].folder / VIDEOS, first.trust_code, options)
    total = 2 * len(logs[0].setup.seed_range())
    try:
        for number, (which, seed) in enumerate(order(logs[0].setup.seed_range()), start=1):
            log, [env_id] = logs[which], logs[which].setup.envs
            if (env_id, seed) in log.entries:
                continue
            print(f"Episode {number} of {total}.", flush=True)
            player.act_with(runs[which].policy)
            started = time.monotonic()
            episode = player.play(env_id, seed)
            elapsed = log.elapsed(env_id) + time.monotonic() - started
            log.add(Entry(episode, 0, elapsed))
    finally:
        player.close()


def order(seeds: range) -> Iterator[tuple[int, int]]:
    """Which of the two policies plays the scene of which seed, in turn; drawn from the seeds."""
    for seed in seeds:
        first = int(np.random.default_rng(seed).integers(2))
        yield first, seed
        yield 1 - first, seed


if __name__ == "__main__":
    main()
