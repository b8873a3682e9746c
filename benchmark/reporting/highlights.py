"""Highlights: videos of the typical episodes of a result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict

from benchmark.evaluation.rollout import EpisodeJob, failed_episode, video_name
from benchmark.records.result import Episode, Result
from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json
from komo_envs.utils.progress import ProgressDisplay
from komo_envs.utils.workers import Pool, WorkerError

VIDEOS, HIGHLIGHTS, REPORT = "videos", "highlights.json", "report.html"
"""In the folder of a run: the videos, the episodes of the highlights, and the report."""

RECORDING = "recording highlights"
"""Name of the progress bar."""

MOST_KINDS = 4
"""Kinds of failure of each environment that have a highlight, the commonest ones."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class HighlightsRecord:
    """Episodes that were played again for highlights, as they came out this time."""

    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class Highlight:
    """A typical episode of one kind of outcome."""

    episode: Episode
    """The episode, as it is in the result."""
    count: int
    """Number of episodes of the kind."""
    video: Path | None
    """None if there is none."""
    video_outcome: str
    """Outcome of the video, if it differs from that of the result; else empty."""


def typical(result: Result, env_id: str) -> Iterator[list[Episode]]:
    """The episodes of an environment by outcome, each list with the most typical ones first.

    Successes come first, then failures, the commonest kind first. A typical success has the
    median number of steps, a typical failure the median distance at its end. Errors are left out:
    their text says all.
    """
    episodes = [episode for episode in result.episodes if episode.env == env_id]
    failures = [kind for kind in result.tasks[env_id].failures if not kind.startswith("error:")]
    for kind in (None, *failures[:MOST_KINDS]):
        same = [episode for episode in episodes if episode.failure == kind]
        measure = np.array([e.steps if kind is None else e.distance or 0.0 for e in same])
        if same:
            order = np.argsort(np.abs(measure - np.median(measure)), kind="stable")
            yield [same[index] for index in order]


def record_highlights(result: Result, folder: Path, pool: Pool[Episode]) -> None:
    """Play the most typical episodes that have no video yet again, and record them.

    An error is printed in one line on stderr, and changes nothing of the result.

    Args:
        result: Result of the run.
        folder: Folder of the run.
        pool: Pool of ``Evaluator``, that record into the folder's ``videos``.

    Raises:
        OSError: The record of the highlights cannot be written.
        ValueError: The record in the folder is damaged.
    """
    episodes, videos = _record(folder), _videos(folder)
    there = {(episode.env, episode.seed) for episode in episodes}
    firsts = [same[0] for env_id in result.envs for same in typical(result, env_id)]
    jobs = [
        EpisodeJob(episode.env, episode.seed, video=True)
        for episode in firsts
        if (episode.env, episode.seed) not in there and not _named(videos, episode)
    ]
    if not jobs:
        return
    try:
        with ProgressDisplay({RECORDING: len(jobs)}, "highlights") as display:
            display.update(RECORDING, 0, line=True)
            for done, finished in enumerate(pool.run(jobs), start=1):
                episodes.append(finished.value or failed_episode(finished.task, finished.given_up))
                text = json.dumps(asdict(HighlightsRecord(tuple(episodes))), allow_nan=False)
                write_text(folder / HIGHLIGHTS, text + "\n")
                display.update(RECORDING, done, line=True)
    except WorkerError as error:
        print(f"not recorded: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def highlights(result: Result, folder: Path, env_id: str) -> Iterator[Highlight]:
    """For each outcome in an environment the most typical episode that has a video.

    Args:
        result: A result.
        folder: Folder of its file, in which ``videos`` may be.
        env_id: Id of the environment.

    Raises:
        OSError: The record of the highlights cannot be read.
        ValueError: It is damaged.
    """
    videos = _videos(folder)
    again = {(episode.env, episode.seed): episode for episode in _record(folder)}
    for same in typical(result, env_id):
        then = next((episode for episode in same if _named(videos, episode)), same[0])
        now = again.get((then.env, then.seed))
        names = _named(videos, then)
        if now is not None:  # the video shows this one
            names = [name for name in names if name.endswith(_ending(now.success_at_end))]
        other = ""
        if now is not None and _outcome(now) != _outcome(then):
            other = f"{now.failure or 'success'}, after {now.steps} steps"
        elif now is None and names and not names[0].endswith(_ending(then.success_at_end)):
            other = "failure" if then.success_at_end else "success"
        yield Highlight(then, len(same), videos[names[0]] if names else None, other)


def _record(folder: Path) -> list[Episode]:
    file = folder / HIGHLIGHTS
    return (
        [*parse_json(HighlightsRecord, file.read_bytes(), str(file)).episodes]
        if file.exists()
        else []
    )


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
