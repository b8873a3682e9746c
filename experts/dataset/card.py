"""The data card of a file of demonstrations, with a contact sheet and a short video beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

from experts.dataset.format import DemoFile, image_names
from komo_envs.utils.files import replacing, write_text
from komo_envs.utils.stats import wilson
from komo_envs.utils.video import write_video

Images = NDArray[np.uint8]

SHEET = (6, 8)
"""Number of demonstrations on the contact sheet, and of images of each."""
GRID = (3, 4)
"""Rows and columns of demonstrations that the video shows side by side."""
ZOOM = 2
"""Factor by which the video is enlarged."""
FPS = 10
SUFFIXES = (".md", ".png", ".mp4")
"""Suffixes of the files that lie beside a file of demonstrations, with its name."""

TEXT = """\
# {name}

{count} demonstrations of `{env_id}` (suite {suite}), {successes} of which end in success: {rate}.
{others}

![{shown} demonstrations, from their beginning to their end]({stem}.png)

The first {in_video} as a video: [{stem}.mp4]({stem}.mp4)

| | |
| --- | --- |
| collected with | `{command}` |
| training seeds | {first} to {last} |
| steps of 0.1 s | {steps} in all; {median:g} in the median, {least} to {most} |
| size | {megabytes:.1f} MB, {each:.2f} MB a demonstration |
| images | {images} |{rerendered}
| control mode | `{mode}`; actions of the others are in the file, too |
| largest action | {largest} |
| disturbance | {disturbance} |
| modes | {modes} |
| failures at a distance of | {distances} |
| versions | {versions} |
| machine | {machine} |
| written | {date} |

`experts/dataset/format.py` describes the layout. On such a machine, with these versions,
`python -m experts.replay {name}` reproduces states and images, bit for bit.
"""


@dataclass(frozen=True)
class _Counts:
    successes: list[bool]
    lengths: list[int]
    distances: list[float]
    modes: set[tuple[Any, ...]]
    """Combinations of side, via point and null-space posture."""
    largest: float
    """Largest absolute value of any action."""


def check_card(option: str, path: Path) -> None:
    """Refuse a path of a new file whose card would overwrite another file.

    Args:
        option: Option of the command line that named the path.
        path: Path of the file of demonstrations.

    Raises:
        ValueError: A file has the name of its card, contact sheet or video.
    """
    for suffix in SUFFIXES:
        if path.with_suffix(suffix).exists():
            raise ValueError(
                f"{option} {path}: {path.with_suffix(suffix)} is there already, and its card would "
                "take that name; choose another one"
            )


def write_card(file: DemoFile) -> None:
    """Write card, contact sheet and video beside a file, with its name.

    Raises:
        OSError: One cannot be written.
    """
    beside = file.path.with_suffix
    images = [_images(file, index) for index in range(min(len(file), GRID[0] * GRID[1]))]
    with replacing(beside(".png")) as scratch:
        imageio.imwrite(scratch, _contact_sheet(images[: SHEET[0]]))
    with replacing(beside(".mp4")) as scratch:
        write_video(scratch, _side_by_side(images), FPS)
    write_text(beside(".md"), _text(file))


def summary(file: DemoFile) -> str:
    """A summary of the file in one line."""
    counts = _count(file)
    size = file.path.stat().st_size / len(file) / 1e6
    return (
        f"{file.path}: {len(file)} demonstrations of {file.env_id}, "
        f"{sum(counts.successes)} succeed ({_rate(counts.successes)}), {size:.2f} MB each."
    )


def _count(file: DemoFile) -> _Counts:
    successes: list[bool] = []
    lengths, distances = [], []
    modes: set[tuple[Any, ...]] = set()
    largest = 0.0
    for index in range(len(file)):
        group = file.group(index)
        successes.append(bool(group.attrs["success"]))
        lengths.append(int(group.attrs["num_samples"]))
        distances.append(float(group["distances"][-1]))
        style = json.loads(group.attrs["style"])
        modes.add((style["side"], style["bend"], style["posture"]))
        largest = max(largest, float(np.abs(group["actions"]).max()))
    return _Counts(successes, lengths, distances, modes, largest)


def _rate(successes: list[bool]) -> str:
    low, high = wilson(sum(successes), len(successes))
    return f"{sum(successes) / len(successes):.1%} [{low * 100:.1f}, {high * 100:.1f}]"


def _text(file: DemoFile) -> str:
    counts, recipe = _count(file), file.recipe
    first, end = recipe["seeds"]
    size = file.path.stat().st_size
    failed = [d for d, ok in zip(counts.distances, counts.successes, strict=True) if not ok]
    options = ", ".join(
        "a laboratory's cameras" if name == "lab" else f"{name} {value}"
        for name, value in file.rerendered.items()
    )
    side = file.env_args["env_kwargs"]["image_size"]
    return TEXT.format(
        name=file.path.name,
        stem=file.path.stem,
        count=len(file),
        env_id=file.env_id,
        suite=file.suite,
        successes=sum(counts.successes),
        rate=f"{_rate(counts.successes)}, a 95 % Wilson interval",
        others="The file has the failed ones, too; `mask/successful` names those that succeed."
        if failed
        else "All are in `mask/successful`.",
        shown=min(len(file), SHEET[0]),
        in_video=min(len(file), GRID[0] * GRID[1]),
        command=command(file),
        first=first,
        last=end - 1,
        steps=sum(counts.lengths),
        median=float(np.median(counts.lengths)),
        least=min(counts.lengths),
        most=max(counts.lengths),
        megabytes=size / 1e6,
        each=size / len(file) / 1e6,
        images=f"RGB and depth (mm), {side} x {side}, of {', '.join(file.cameras)}",
        mode=file.control_mode,
        largest=_largest(counts.largest),
        rerendered=f"\n| images rendered anew | with {options} |" if options else "",
        disturbance=_disturbance(file),
        modes=f"{len(counts.modes)} combinations of side, via point and posture, sampled"
        if recipe["diverse"]
        else "the expert's own choice",
        distances=", ".join(f"{d * 100:.1f} cm" for d in failed[:20]) or "none",
        versions=", ".join(f"{name} {v[:12]}" for name, v in file.head["versions"].items()),
        machine=", ".join(f"{name}: {value}" for name, value in file.head["machine"].items()),
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
    )


def _largest(action: float) -> str:
    if action <= 1:
        return f"{action:.2f}"
    return (
        f"{action:.2f}: robomimic 0.3, whose policies act in [-1, 1], cannot represent these "
        "actions; collect for it with `--control-mode ee_delta`"
    )


def _disturbance(file: DemoFile) -> str:
    recipe = file.recipe
    if recipe["student"] is not None:
        steps = [int(file.group(index).attrs["intervention"]) for index in range(len(file))]
        name, median = recipe["student"], np.median(steps)
        return f"a student, {name}, acts in the first {median:g} steps (median)"
    if recipe["noise"]:
        return f"{recipe['noise'] * 1000:g} mm, which the actions do not contain"
    return "nothing"


def command(file: DemoFile) -> str:
    """The command line that collects the same demonstrations."""
    recipe = file.recipe
    # The folders above may name a user or a host.
    out = file.path.name if file.path.is_absolute() else str(file.path)
    first, end = recipe["seeds"]
    lab = ["--lab", recipe["lab"]] if recipe["lab"] else []
    if recipe["student"] is not None:
        words = ["python", "-m", "policies.collect", "--policy", "STUDENT"]
        words += ["--out", out, "--episodes", str(end - first)]
        return shlex.join([*words, "--first-seed", str(first), *lab])
    words = ["python", "-m", "experts.collect", "--env", recipe["env"], "--out", out]
    words += ["--episodes", str(end - first)]
    if first:
        words += ["--first-seed", str(first)]
    words += ["--control-mode", recipe["control_mode"], "--image-size", str(recipe["image_size"])]
    words += ["--cameras", *recipe["cameras"]]
    if recipe["noise"]:
        words += ["--noise", str(recipe["noise"])]
    if recipe["diverse"]:
        words += ["--diverse"]
    if file.backend != "sim":
        words += ["--backend", file.backend]
    return shlex.join([*words, *lab])


def _images(file: DemoFile, index: int) -> Images:
    """RGB images (T, H, W, 3) of the first camera."""
    name = image_names("pixels", file.cameras)[file.cameras[0]]
    images: Images = file.group(index)[f"obs/{name}"][:]
    return images


def _contact_sheet(demos: list[Images]) -> Images:
    """An image with a row for each demonstration, evenly spaced from its start to its end."""
    rows = []
    for images in demos:
        steps = np.linspace(0, len(images) - 1, SHEET[1]).round().astype(int)
        rows.append(np.concatenate(images[steps], axis=1))
    return np.concatenate(rows)


def _side_by_side(demos: list[Images]) -> Iterator[Images]:
    """Frames with all demonstrations side by side; one that has ended shows its last image."""
    blank = np.full_like(demos[0], 255)
    shown = demos + [blank] * (-len(demos) % GRID[1])
    for step in range(max(map(len, shown))):
        now = [images[min(step, len(images) - 1)] for images in shown]
        lines = [
            np.concatenate(now[start : start + GRID[1]], axis=1)
            for start in range(0, len(now), GRID[1])
        ]
        frame = np.concatenate(lines)
        yield frame.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
