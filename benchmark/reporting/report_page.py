"""The page of a result, ``report.html``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.evaluation.display import success_text, summary
from benchmark.evaluation.protocol import split_of
from benchmark.records.result import Episode, Result, TaskScore
from benchmark.reporting.curve_svg import HEIGHT, WIDTH, CurveSvg, curve_svg
from benchmark.reporting.curves import success_curves
from benchmark.reporting.highlights import Highlight, highlights
from benchmark.reporting.page import render
from benchmark.reporting.scene_map import SceneMap, make_scene_map


@dataclass(frozen=True)
class Section:
    """Part of the page about one environment."""

    env: str
    task: TaskScore
    success: str
    """Rate and interval, in words."""
    episodes: tuple[Episode, ...]
    curves: tuple[CurveSvg, ...]
    map: SceneMap | None
    highlights: tuple[Highlight, ...]


def report_page(result: Result, folder: Path) -> str:
    """The page of a result.

    Args:
        result: A result.
        folder: Folder of its file, in which ``videos`` may be.

    Raises:
        OSError: A file cannot be read.
        ValueError: The record of the highlights is damaged.
    """
    return render(
        "report.html",
        scripts=("report.js",),
        title=f"{result.policy.name}: {', '.join(result.envs)}",
        result=result,
        summary=summary(result),
        split=split_of(result.seed_range()) or "mixed",
        sections=[*_sections(result, folder)],
        width=WIDTH,
        height=HEIGHT,
        data_url=data_url,
    )


def _sections(result: Result, folder: Path) -> Iterator[Section]:
    for env_id, task in result.tasks.items():
        episodes = tuple(episode for episode in result.episodes if episode.env == env_id)
        yield Section(
            env=env_id,
            task=task,
            success=success_text(task),
            episodes=episodes,
            curves=tuple(map(curve_svg, success_curves(episodes))),
            map=make_scene_map(env_id, episodes),
            highlights=tuple(highlights(result, folder, env_id)),
        )


def data_url(video: Path) -> str:
    """A video as a data URL.

    Raises:
        OSError: It cannot be read.
    """
    return "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
