"""Robustness of a policy: ``python -m benchmark.robustness --policy PATH --env ID``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from benchmark.evaluation.display import episodes_each
from benchmark.evaluation.policy_info import identify, print_policy
from benchmark.evaluation.protocol import choose_envs, choose_seeds
from benchmark.evaluation.rollout import Evaluator
from komo_envs import provenance
from komo_envs.randomization import ALL, LIMITS, PRESETS
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, write_text
from komo_envs.utils.progress import ProgressDisplay
from komo_envs.utils.stats import newcombe_paired, wilson
from komo_envs.utils.workers import Limits, WorkerError, Workers
from policies.external.sb3 import SB3Options

MODULE = "benchmark.robustness"

VARIATIONS: dict[str, Any] = {
    "none": None,
    **{name: {name: getattr(ALL, name)} for name in LIMITS},
    **{name: name for name in PRESETS},
}
"""Values of ``randomize`` by name: none, each range alone, and the presets."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a policy under one randomization after another: what its success depends on.

    All variations have the same scenes, on test seeds, and are compared with no variation.
    """

    policy: str
    """Policy, as of benchmark.run."""
    env: str
    """Id of the environment, or module:Id."""
    episodes: int = 100
    """Number of episodes of each variation."""
    workers: int | None = None
    """Number of worker processes; the number of cores if not given."""
    out: Path | None = None
    """JSON file of the scores."""
    trust_code: bool = False
    """Whether --policy may run code of its author."""
    sb3: tyro.conf.OmitArgPrefixes[SB3Options] = field(default_factory=SB3Options)


@dataclass(frozen=True)
class VariationScore:
    """Score under a variation."""

    up_to: float | None
    """Limit of the range that varies; None if several do."""
    episodes: int
    successes: int
    ci95: tuple[float, float]
    """95 % Wilson interval of the success rate."""
    difference: float
    """Difference of the success rate from that without variation."""
    difference_ci95: tuple[float, float]
    """95 % interval of the difference, paired by scene."""


class VariedEpisodeJob(NamedTuple):
    """An episode to play: the arguments of ``VariedEvaluator.run``."""

    variation: str
    seed: int

    def __str__(self) -> str:
        """Name of the episode in errors."""
        return f"{self.variation}, seed {self.seed}"


class VariedEvaluator:
    """Plays single episodes of one environment, whose variation changes."""

    def __init__(self, policy: str, env_id: str, trust_code: bool, sb3: SB3Options) -> None:
        self._env_id = env_id
        self._make_evaluator = partial(Evaluator, policy, Path(os.devnull), trust_code, sb3=sb3)
        self._variation: str | None = None
        self._evaluator: Evaluator | None = None

    def run(self, variation: str, seed: int) -> bool:
        """Whether the policy solves the episode of a seed."""
        if self._evaluator is None or variation != self._variation:
            self.close()
            options = {"randomize": VARIATIONS[variation]}
            self._evaluator = self._make_evaluator(options=options)
            self._variation = variation
        return self._evaluator.run(self._env_id, seed).success_at_end

    def close(self) -> None:
        """Close the environment, if there is one."""
        if self._evaluator is not None:
            self._evaluator.close()


def main() -> None:
    """Run the command."""
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
        print_policy(policy, identified.env_options)
        scores = measure(arguments, env_id, seeds)
        if arguments.out is not None:
            record = {"policy": asdict(policy), "env": env_id, "seeds": [seeds.start, seeds.stop]}
            record["scores"] = {name: asdict(score) for name, score in scores.items()}
            write_text(arguments.out, json.dumps(record, indent=1) + "\n")
    except (ValueError, ImportError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except (WorkerError, OSError) as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    with printing(MODULE, "everything is scored"):
        print_scores(scores, f"{policy.name} in {env_id}, {episodes_each(len(seeds))}")


def measure(arguments: Arguments, env_id: str, seeds: range) -> dict[str, VariationScore]:
    """The scores, by variation.

    Raises:
        WorkerError: A worker cannot go on.
    """
    jobs = [VariedEpisodeJob(name, seed) for name in VARIATIONS for seed in seeds]
    make_evaluator = partial(
        VariedEvaluator, arguments.policy, env_id, arguments.trust_code, arguments.sb3
    )
    solved: dict[VariedEpisodeJob, bool] = {}
    workers = arguments.workers or provenance.usable_cores()
    with (
        Workers(workers, make_evaluator, Limits()) as pool,
        ProgressDisplay({env_id: len(jobs)}, "episodes") as display,
    ):
        for result in pool.run(jobs):
            solved[result.task] = bool(result.value)
            display.update(env_id, len(solved))
    plain = [solved[VariedEpisodeJob("none", seed)] for seed in seeds]
    return {
        name: _score(name, plain, [solved[VariedEpisodeJob(name, seed)] for seed in seeds])
        for name in VARIATIONS
    }


def _score(name: str, plain: list[bool], varied: list[bool]) -> VariationScore:
    pairs = list(zip(varied, plain, strict=True))
    table = (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )
    return VariationScore(
        up_to=getattr(ALL, name) if name in LIMITS else None,
        episodes=len(pairs),
        successes=sum(varied),
        ci95=wilson(sum(varied), len(pairs)),
        difference=(sum(varied) - sum(plain)) / len(pairs),
        difference_ci95=newcombe_paired(*table),
    )


def print_scores(scores: dict[str, VariationScore], title: str) -> None:
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
