"""A result on one page: ``python -m benchmark.report RESULT``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark.evaluation.display import success_text, summary
from benchmark.evaluation.protocol import split_of
from benchmark.records.result import Episode, Result, TaskScore, load_result
from benchmark.records.submission import RESULT
from benchmark.reporting.charts import HEIGHT, WIDTH, Chart, draw_charts
from benchmark.reporting.highlights import REPORT, Film, films
from benchmark.reporting.page import render
from benchmark.reporting.scene_map import SceneMap, draw_map
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable, write_text

MODULE = "benchmark.report"


@dataclass(frozen=True)
class Arguments:
    """Show a result on one page: scores, curves, a map of the scenes, films, every episode.

    A run writes its page itself; this writes it again. Nothing is played: the films are those in
    the folder.
    """

    result: tyro.conf.Positional[Path]
    """A result file, or the folder of a run."""
    out: Path | None = None
    """The page; report.html beside the result if not given."""


@dataclass(frozen=True)
class Section:
    """What the page shows of one environment."""

    env: str
    task: TaskScore
    success: str
    """Rate and interval, in words."""
    episodes: tuple[Episode, ...]
    charts: tuple[Chart, ...]
    map: SceneMap | None
    films: tuple[Film, ...]


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        file = arguments.result
        if file.is_dir():
            file /= RESULT
        out = arguments.out or file.parent / REPORT
        result = load_result(file)
        check_writable("--out", out)
        write_text(out, report(result, file.parent))
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{out} is written"):
        print(f"Wrote {out}")


def report(result: Result, folder: Path) -> str:
    """The page of a result.

    Args:
        result: It.
        folder: Where its file is, and its videos may be.

    Raises:
        OSError: A file cannot be read.
        ValueError: The record of what was filmed is none.
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
        as_data=as_data,
    )


def _sections(result: Result, folder: Path) -> Iterator[Section]:
    for env_id, task in result.tasks.items():
        episodes = tuple(episode for episode in result.episodes if episode.env == env_id)
        yield Section(
            env=env_id,
            task=task,
            success=success_text(task),
            episodes=episodes,
            charts=draw_charts(episodes),
            map=draw_map(env_id, episodes),
            films=tuple(films(result, folder, env_id)),
        )


def as_data(video: Path) -> str:
    """A video as an address that holds it.

    Raises:
        OSError: It cannot be read.
    """
    return "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()


if __name__ == "__main__":
    main()
