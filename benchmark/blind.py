"""Two policies on a real robot, in an order that nobody is told: ``python -m benchmark.blind``."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from benchmark import run
from benchmark.compare import compare, names_of, show
from benchmark.evaluation.display import show_scores
from benchmark.evaluation.episode_log import Entry, EpisodeLog
from benchmark.evaluation.protocol import choose_envs
from benchmark.evaluation.rollout import Player
from benchmark.records.result import save_result
from benchmark.records.submission import RESULT
from benchmark.reporting.highlights import VIDEOS
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import write_text
from policies.external.sb3 import SB3Options, check_stated

MODULE = "benchmark.blind"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score two policies on a real robot, scene by scene, and compare them.

    Each scene is played by both, one after the other, in an order that is drawn and kept in the
    folder, where nobody is to look. The same command goes on where it stopped.
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
    sb3: OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


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
            sb3=arguments.sb3 if policy.endswith(".zip") else SB3Options(),
        )
        for name, policy in (("a", arguments.a), ("b", arguments.b))
    ]
    try:
        if arguments.a == arguments.b:
            raise ValueError(f"{arguments.a} {arguments.b}: expected two policies")
        check_stated((arguments.a, arguments.b), arguments.sb3)
        choose_envs(runs[0].env)
        player = Player(
            arguments.a,
            arguments.out / "a" / VIDEOS,
            arguments.trust_code,
            run.world_options(runs[0], arguments.out),
            sb3=arguments.sb3,
        )
        check_alike(player, runs)
        logs = [run.prepare(each, MODULE)[0] for each in runs]
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    rest = "what is finished is kept, and the same command goes on"
    try:
        play(player, runs, logs)
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


def check_alike(player: Player, runs: list[run.Arguments]) -> None:
    """Load both policies, so that nobody sees by a wait who acts; refuse two that see differently.

    Raises:
        ValueError: They do.
        Exception: Of any kind: one cannot be loaded.
    """
    wanted = []
    for each in runs:
        player.act_with(each.policy)
        wanted.append(player.options_for(each.env[0][0]))
    if wanted[0] != wanted[1]:
        keys = [
            key for key in {**wanted[0], **wanted[1]} if wanted[0].get(key) != wanted[1].get(key)
        ]
        seen = [{key: one.get(key) for key in keys} for one in wanted]
        raise ValueError(
            f"the policies want {seen[0]} and {seen[1]}: expected the same, for the robot would be "
            "let go of between them"
        )


def play(player: Player, runs: list[run.Arguments], logs: list[EpisodeLog]) -> None:
    """Play the episodes that are not in the logs yet, of both policies in one environment.

    Raises:
        Exception: Of any kind: what goes wrong is no failure of a policy.
    """
    seeds = logs[0].setup.seed_range()
    try:
        for number, (which, seed) in enumerate(order(seeds, salt(logs[0].folder.parent)), start=1):
            log, [env_id] = logs[which], logs[which].setup.envs
            if (env_id, seed) in log.entries:
                continue
            print(f"Episode {number} of {2 * len(seeds)}.", flush=True)
            player.act_with(runs[which].policy)
            started = time.monotonic()
            episode = player.play(env_id, seed)
            elapsed = log.elapsed(env_id) + time.monotonic() - started
            log.add(Entry(episode, 0, elapsed))
    finally:
        player.close()


def salt(folder: Path) -> int:
    """The number from which the order is sampled: sampled once, and kept in a folder.

    Raises:
        OSError: It cannot be read or written.
        ValueError: The file is none of that kind.
    """
    file = folder / "order.json"
    if not file.exists():
        write_text(file, json.dumps(secrets.randbits(63)))
    number = json.loads(file.read_text())
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{file}: {number!r:.80}; expected a number that is drawn")
    return number


def order(seeds: range, drawn: int) -> Iterator[tuple[int, int]]:
    """Which of the two policies plays the scene of which seed, in turn.

    Args:
        seeds: Of the scenes.
        drawn: See ``salt``.
    """
    for seed in seeds:
        first = int(np.random.default_rng([drawn, seed]).integers(2))
        yield first, seed
        yield 1 - first, seed


if __name__ == "__main__":
    main()
