"""Films of the typical: which episodes of a result are worth watching, and their videos."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict

from benchmark.evaluation.display import steps
from benchmark.evaluation.rollout import Job, lost, video_name
from benchmark.records.result import Episode, Result
from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json
from komo_envs.utils.workers import Pool, WorkerError

VIDEOS, RECORD, REPORT = "videos", "films.json", "report.html"
"""In the folder of a run: the videos, what those filmed for the report show, and the report."""

MOST_KINDS = 4
"""Kinds of failure of each environment that are filmed, the commonest ones."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Filmed:
    """Episodes that were played again to be filmed, as they came out this time."""

    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class Film:
    """What the report shows of one kind of outcome."""

    episode: Episode
    """One of the kind, as it is in the result."""
    count: int
    """Episodes of the kind."""
    video: Path | None
    """None if none was filmed."""
    again: str
    """How the film ended, if not as the result has it; else empty."""


def typical(result: Result, env_id: str) -> Iterator[list[Episode]]:
    """The episodes of an environment by outcome, each list with the most typical ones first.

    Successes come first, then failures, the commonest kind first. A typical success has the
    median number of steps, a typical failure the median distance at its end. Errors are left out:
    what is to be seen of them is their text.
    """
    episodes = [episode for episode in result.episodes if episode.env == env_id]
    failures = [kind for kind in result.tasks[env_id].failures if not kind.startswith("error:")]
    for kind in (None, *failures[:MOST_KINDS]):
        alike = [episode for episode in episodes if episode.failure == kind]
        measure = np.array([e.steps if kind is None else e.distance or 0.0 for e in alike])
        if alike:
            order = np.argsort(np.abs(measure - np.median(measure)), kind="stable")
            yield [alike[number] for number in order]


def film(result: Result, folder: Path, pool: Pool[Episode]) -> None:
    """Play the most typical episodes of a result again, and film those that are not filmed yet.

    What cannot be filmed is said in one line on stderr: the result is there, and stays.

    Args:
        result: It.
        folder: Of its run.
        pool: Plays, with a ``Player`` that films into the folder's ``videos``.

    Raises:
        OSError: The record of what was filmed cannot be written.
        ValueError: The one in the folder is none.
    """
    episodes, videos = _record(folder), _videos(folder)
    there = {(episode.env, episode.seed) for episode in episodes}
    firsts = [alike[0] for env_id in result.envs for alike in typical(result, env_id)]
    jobs = [
        Job(episode.env, episode.seed, film=True)
        for episode in firsts
        if (episode.env, episode.seed) not in there and not _named(videos, episode)
    ]
    if not jobs:
        return
    try:
        with steps("filming for the report", len(jobs)) as advance:
            for played in pool.play(jobs):
                episodes.append(played.answer or lost(played.task, played.given_up))
                text = json.dumps(asdict(Filmed(tuple(episodes))), allow_nan=False)
                write_text(folder / RECORD, text + "\n")
                advance()
    except WorkerError as error:
        print(f"not filmed: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def films(result: Result, folder: Path, env_id: str) -> Iterator[Film]:
    """For each outcome in an environment the most typical episode that there is a video of.

    Args:
        result: It.
        folder: Where its file is, and ``videos`` may be.
        env_id: The environment.

    Raises:
        OSError: The record of what was filmed cannot be read.
        ValueError: It is none.
    """
    videos = _videos(folder)
    again = {(episode.env, episode.seed): episode for episode in _record(folder)}
    for alike in typical(result, env_id):
        then = next((episode for episode in alike if _named(videos, episode)), alike[0])
        now = again.get((then.env, then.seed))
        names = _named(videos, then)
        if now is not None:  # the film is of this one
            names = [name for name in names if name.endswith(_ending(now.success_at_end))]
        said = ""
        if now is not None and _outcome(now) != _outcome(then):
            said = f"{now.failure or 'success'}, after {now.steps} steps"
        elif now is None and names and not names[0].endswith(_ending(then.success_at_end)):
            said = "failure" if then.success_at_end else "success"
        yield Film(then, len(alike), videos[names[0]] if names else None, said)


def _record(folder: Path) -> list[Episode]:
    file = folder / RECORD
    return [*parse_json(Filmed, file.read_bytes(), str(file)).episodes] if file.exists() else []


def _videos(folder: Path) -> dict[str, Path]:
    return {file.name: file for file in sorted((folder / VIDEOS).glob("[!.]*.mp4"))}


def _named(videos: dict[str, Path], episode: Episode) -> list[str]:
    """The names of an episode's videos; one of the outcome in the result is the first."""
    name = video_name(episode.env, episode.seed)
    success = episode.success_at_end
    names = [name + _ending(success), name + _ending(not success)]
    return [name for name in names if name in videos]


def _ending(success: bool) -> str:
    return f"-{'success' if success else 'failure'}.mp4"


def _outcome(episode: Episode) -> tuple[str | None, int]:
    return episode.failure, episode.steps
