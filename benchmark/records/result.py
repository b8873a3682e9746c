"""The result of a run: its records, their scores, and the JSON file that keeps them.

The records are what ``result.json`` holds, field for field. They are checked whenever one is made
or read, so a file that loads is complete, has the right types, and agrees with itself.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass

from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json
from komo_envs.utils.stats import wilson
from komo_envs.utils.workers import Limits
from komo_envs.worlds import Backend


def _line(text: str) -> str:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise ValueError(f"{text[:80]!a}: expected a line of 1 to 200 printable characters")
    return text


_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]
Length = Annotated[float, Field(ge=0)]
Line = Annotated[str, AfterValidator(_line)]
"""A text that a terminal can show and a file can keep."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Versions = Annotated[dict[str, str], Field(min_length=1)]

THRESHOLDS = (0.01, 0.02, 0.05)
"""Final distances in m for which the share of episodes is reported."""


@dataclass(frozen=True, config=_CONFIG)
class PolicyTraining:
    """Cost of training a policy."""

    parameters: Count
    """Learned parameters."""
    demonstrations: Count
    minutes: Length
    hardware: Line
    """Hardware, in words."""


@dataclass(frozen=True, config=_CONFIG)
class PolicyIdentity:
    """Policy that was scored."""

    name: Line
    spec: str
    """``--policy``, without folders outside the project: ``"expert"``, ``"random"``, ``"zero"``,
    ``"pretrained:NAME"``, a path relative to the project, or the last name of another path."""
    privileged: bool
    """Whether it saw more than its observations: the state of the simulation."""
    sha256: Sha256
    """Hash of all that defines its behavior."""
    weights_hashed: bool = True
    """Whether the hash covers the weights: not for a Python file that states no sha256 of them."""
    trained_in: dict[str, JsonValue] | None = None
    """How a model of Stable-Baselines3 was trained, as its spaces prove, it says itself, or was
    stated: options of the env, ``rescale_action``, and ``vec_normalize``, the sha256 of the
    statistics or null."""
    training: PolicyTraining | None = None
    """None if it was not trained, or does not say."""


@dataclass(frozen=True, config=_CONFIG)
class Commit:
    """The state of the repository that ran."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    modified: bool
    """Whether files that git follows differed from the commit."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Setup:
    """Configuration of a run, known before its first episode."""

    schema: Literal[2]
    suite: str
    """Version of the suite: environments and seeds."""
    policy: PolicyIdentity
    envs: tuple[str, ...]
    env_options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """How the policy observes and acts in each environment: the options of ``gym.make``, as
    they are in the environment that was made."""
    backend: Backend = "sim"
    """Backend that the policy acted in."""
    lab: dict[str, JsonValue] | None = None
    """Configuration of the laboratory, if there is one."""
    dry_run: bool = False
    """Whether a real robot was sent nothing."""
    seeds: tuple[Count, Count]
    """(A, B): each environment is scored on the seeds A, ..., B - 1."""
    videos: Count
    """Number of recorded videos of each environment, of its first episodes."""
    versions: Versions
    """Versions of Python and packages; hashes of the project's own sources and of those of tasks
    from elsewhere."""
    commit: Commit | None
    """None where the code is no git repository."""
    machine: dict[str, str | int | float]
    device: str = "cpu"
    """PyTorch device on which a student computed."""
    date: str
    """When the run began, ISO 8601, UTC."""
    command: str
    """Command line, without the folder after ``--out`` and folders outside the project."""
    episode_seconds: Annotated[float, Field(gt=0)] | None = None
    """Wall time after which an episode failed; None for no limit."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of a worker, with all that it had started, beyond which its episode failed."""

    def limits(self) -> Limits | None:
        """Limits of each episode; None for none."""
        if self.episode_seconds is None or self.memory_gib is None:
            return None
        return Limits(self.episode_seconds, self.memory_gib)

    def seed_range(self) -> range:
        """The seeds that each environment is scored on."""
        return range(*self.seeds)


@dataclass(frozen=True, config=_CONFIG)
class Episode:
    """One episode, and how it ended."""

    env: str
    seed: int
    scene: dict[str, JsonValue]
    """``info["scene"]``; empty if the env was not reset."""
    success_once: bool
    """Whether ``info["is_success"]`` was true after any step."""
    success_at_end: bool
    """Whether it was true after the last step. This is what a score counts."""
    distance: Length | None
    """Distance of the object from its target, ``info["distance"]``, at the end, m; None if the env
    was not reset."""
    steps: Annotated[int, Field(ge=0, le=1_000_000)]
    failure: str | None
    """None on success; else the policy's own reason, ``"timeout"``, ``"error: ..."``, or
    ``"stopped: ..."`` if a robot in real time was."""
    tracking_error: Length | None = None
    """Mean of ``info["tracking_error"]`` of the arm over the steps, rad; None without steps."""
    latency: Length = 0.0
    """Median time from an observation to the action that followed, s. A simulation waits."""
    deadline_misses: Count = 0
    """Actions that came after the end of their control period."""

    def __post_init__(self) -> None:
        """Refuse what no episode can be."""
        if self.success_at_end and not self.success_once:
            raise ValueError("success_at_end is true, expected success_once to be so too")
        if (self.failure is None) != self.success_at_end:
            raise ValueError("failure: expected null with success at the end, and only then")


@dataclass(frozen=True, config=_CONFIG)
class TaskScore:
    """The score on one environment."""

    episodes: int
    successes: int
    """Episodes with success at their end."""
    successes_once: int
    success_rate: float
    ci95: tuple[float, float]
    """95 % Wilson interval of the success rate."""
    within: dict[str, float]
    """Share of episodes whose distance at the end was at most so many metres."""
    steps_median: float
    """Median over all episodes."""
    failures: dict[str, int]
    """Number of episodes by reason, the commonest first."""
    episodes_per_minute: float
    """Episodes per minute of wall time, of all workers together."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Result(Setup):
    """A finished run, as in ``result.json``."""

    workers: Annotated[int, Field(ge=1)]
    nodes: Annotated[int, Field(ge=1)] = 1
    """Number of machines, each with the processor and platform of ``machine``."""
    workers_replaced: Count
    """Worker processes that died and were replaced; their episodes were run again."""
    wall_seconds: Annotated[float, Field(gt=0)]
    tasks: dict[str, TaskScore]
    episodes: tuple[Episode, ...]


def score(episodes: Sequence[Episode], minutes: float) -> TaskScore:
    """The score of the episodes of one environment, which took ``minutes`` of wall time."""
    count = len(episodes)
    successes = sum(episode.success_at_end for episode in episodes)
    failures = Counter(episode.failure for episode in episodes if episode.failure is not None)
    return TaskScore(
        episodes=count,
        successes=successes,
        successes_once=sum(episode.success_once for episode in episodes),
        success_rate=successes / count,
        ci95=wilson(successes, count),
        within={str(limit): _share_within(episodes, limit) for limit in THRESHOLDS},
        steps_median=float(np.median([episode.steps for episode in episodes])),
        failures=dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
        episodes_per_minute=count / minutes,
    )


def _share_within(episodes: Sequence[Episode], limit: float) -> float:
    close = sum(e.distance is not None and e.distance <= limit for e in episodes)
    return close / len(episodes)


def save_result(result: Result, path: Path) -> None:
    """Write ``result`` to ``path``, an episode a line, so that files are small and diffs short."""
    fields = asdict(result)
    episodes = ",\n".join("    " + json.dumps(e, allow_nan=False) for e in fields.pop("episodes"))
    head = json.dumps(fields, indent=2, allow_nan=False).removesuffix("\n}")
    write_text(path, f'{head},\n  "episodes": [\n{episodes}\n  ]\n}}\n')


def load_result(path: Path) -> Result:
    """Read a result, and check that it is whole and that its scores follow from its episodes.

    Raises:
        ValueError: It is not, or is not there; the message names the file, the field and what was
            expected.
        OSError: It cannot be read.
    """
    if not path.is_file():
        is_what = "is a folder" if path.is_dir() else "there is no such file"
        raise ValueError(f"{path}: {is_what}; expected a result file, as benchmark.run writes it")
    result = parse_json(Result, path.read_bytes(), str(path))
    first, end = result.seeds
    there = [(episode.env, episode.seed) for episode in result.episodes]
    # Counted before they are listed: seeds may claim to be any number.
    whole = there and len(there) == (end - first) * len(result.envs)
    if not whole or there != [(env_id, n) for env_id in result.envs for n in result.seed_range()]:
        raise ValueError(
            f"{path}: episodes: expected one for every seed of {result.seeds} of each of "
            f"{', '.join(result.envs)}, in order, got {len(result.episodes)} others"
        )
    if tuple(result.tasks) != result.envs:
        raise ValueError(f"{path}: tasks: expected {result.envs}, got {tuple(result.tasks)}")
    for env_id, task in result.tasks.items():
        if not task.episodes_per_minute > 0:
            raise ValueError(
                f"{path}: tasks.{env_id}.episodes_per_minute: expected a positive number, "
                f"got {task.episodes_per_minute}"
            )
        episodes = [episode for episode in result.episodes if episode.env == env_id]
        again = asdict(score(episodes, len(episodes) / task.episodes_per_minute))
        for name, value in asdict(task).items():
            if not _same(value, again[name]):
                raise ValueError(
                    f"{path}: tasks.{env_id}.{name}: its episodes give {again[name]}, got {value}"
                )
    return result


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal, floats up to what another version of scipy may differ by."""
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
