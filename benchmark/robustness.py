"""What a policy's success depends on: ``python -m benchmark.robustness --policy PATH --env ID``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmark.evaluation.display import episodes_each
from benchmark.evaluation.policy_info import identify, tell
from benchmark.evaluation.protocol import choose_envs, choose_seeds
from benchmark.evaluation.rollout import Player
from komo_envs.randomization import ALL, LIMITS, PRESETS
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, write_text
from komo_envs.utils.stats import newcombe_paired, wilson
from komo_envs.utils.workers import Limits, WorkerError, Workers
from policies.external.sb3 import SB3Options

MODULE = "benchmark.robustness"

VARIATIONS: dict[str, Any] = {
    "none": None,
    **{name: {name: getattr(ALL, name)} for name in LIMITS},
    **{name: name for name in PRESETS},
}
"""What ``randomize`` is, by name: nothing, each range alone, and those that have names."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a policy while one thing varies, and then another: what it depends on, and how much.

    All variations are of the same scenes, on test seeds, and each is compared with none at all.
    """

    policy: str
    """As of benchmark.run."""
    env: str
    """Id of the environment, or module:Id."""
    episodes: int = 100
    """Of each variation."""
    workers: int | None = None
    """Processes that play; as many as there are cores if not given."""
    out: Path | None = None
    """A JSON file for the scores."""
    trust_code: bool = False
    """Whether --policy may run code of its author's."""
    sb3: tyro.conf.OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


@dataclass(frozen=True)
class Score:
    """Of the episodes of a variation."""

    up_to: float | None
    """The range of what varies alone."""
    episodes: int
    successes: int
    ci95: tuple[float, float]
    """95 % Wilson interval of the success rate."""
    difference: float
    """Of the success rate, from that without variation."""
    difference_ci95: tuple[float, float]
    """95 % interval of it, scene by scene."""


class Job(NamedTuple):
    """An episode: what ``VariedPlayer.play`` takes."""

    variation: str
    seed: int

    def __str__(self) -> str:
        """As an error names it."""
        return f"{self.variation}, seed {self.seed}"


class VariedPlayer:
    """Plays single episodes of one environment, whose variation changes."""

    def __init__(self, policy: str, env_id: str, trust_code: bool, sb3: SB3Options) -> None:
        self._env_id = env_id
        self._make_player = partial(Player, policy, Path(os.devnull), trust_code, sb3=sb3)
        self._variation: str | None = None
        self._player: Player | None = None

    def play(self, variation: str, seed: int) -> bool:
        """Whether the policy solves the episode of a seed."""
        if self._player is None or variation != self._variation:
            self.close()
            options = {"randomize": VARIATIONS[variation]}
            self._player = self._make_player(options=options)
            self._variation = variation
        return self._player.play(self._env_id, seed).success_at_end

    def close(self) -> None:
        """Close the environment, if there is one."""
        if self._player is not None:
            self._player.close()


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        [env_id] = choose_envs(((arguments.env,),))
        seeds = choose_seeds(None, arguments.episodes)
        if arguments.workers is not None and arguments.workers < 1:
            raise ValueError(f"--workers {arguments.workers}: expected 1 or more")
        if arguments.out is not None:
            check_writable("--out", arguments.out)
        identified = identify(arguments.policy, [env_id], arguments.trust_code, sb3=arguments.sb3)
        policy = identified.policy
        tell(policy, identified.env_options)
        scores = measure(arguments, env_id, seeds)
        if arguments.out is not None:
            said = {"policy": asdict(policy), "env": env_id, "seeds": [seeds.start, seeds.stop]}
            said["scores"] = {name: asdict(score) for name, score in scores.items()}
            write_text(arguments.out, json.dumps(said, indent=1) + "\n")
    except (ValueError, ImportError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except (WorkerError, OSError) as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    with printing(MODULE, "everything is scored"):
        show(scores, f"{policy.name} in {env_id}, {episodes_each(len(seeds))}")


def measure(arguments: Arguments, env_id: str, seeds: range) -> dict[str, Score]:
    """The scores, by variation.

    Raises:
        WorkerError: A worker cannot go on.
    """
    jobs = [Job(name, seed) for name in VARIATIONS for seed in seeds]
    player = partial(VariedPlayer, arguments.policy, env_id, arguments.trust_code, arguments.sb3)
    solved: dict[Job, bool] = {}
    with Workers(arguments.workers or provenance.usable_cores(), player, Limits()) as pool:
        console, hidden = Console(stderr=True), not sys.stderr.isatty()
        playing = pool.play(jobs)
        for played in track(playing, "Varying", len(jobs), console=console, disable=hidden):
            solved[played.task] = bool(played.answer)
    plain = [solved[Job("none", seed)] for seed in seeds]
    return {
        name: _score(name, plain, [solved[Job(name, seed)] for seed in seeds])
        for name in VARIATIONS
    }


def _score(name: str, plain: list[bool], varied: list[bool]) -> Score:
    pairs = list(zip(varied, plain, strict=True))
    table = (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )
    return Score(
        up_to=getattr(ALL, name) if name in LIMITS else None,
        episodes=len(pairs),
        successes=sum(varied),
        ci95=wilson(sum(varied), len(pairs)),
        difference=(sum(varied) - sum(plain)) / len(pairs),
        difference_ci95=newcombe_paired(*table),
    )


def show(scores: dict[str, Score], title: str) -> None:
    """Print a line for each variation."""
    print(title)  # one of the table would be wrapped to its width
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("what varies", "up to", "success, 95 % interval", "points, 95 % interval"):
        table.add_column(heading)
    for name, score in scores.items():
        rate, (low, high) = score.successes / score.episodes, score.ci95
        less, more = score.difference_ci95
        points = f"{100 * score.difference:+.0f} [{100 * less:+.0f}, {100 * more:+.0f}]"
        table.add_row(
            name,
            "" if score.up_to is None else f"{score.up_to:g}",
            f"{rate:.0%} [{100 * low:.0f}, {100 * high:.0f}]",
            "" if name == "none" else points,
        )
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()
