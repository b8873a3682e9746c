"""Plot success over demonstrations: ``python -m benchmark.data_scaling RESULTS --out X.png``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tyro.conf import Positional

from benchmark.records.result import Result, load_result
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable, replacing

MODULE = "benchmark.data_scaling"


@dataclass(frozen=True)
class Arguments:
    """Plot how success grows with demonstrations, from results of students.

    Results of the same environment, and of students of one name but for the seed, belong to one
    line. Each is a dot with its 95 % interval; the line goes through the means over the seeds.
    """

    results: Positional[tuple[Path, ...]]
    """Result files."""
    out: Path
    """Image file, .png."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.out.suffix != ".png":
            raise ValueError(f"--out {arguments.out}: expected a name that ends in .png")
        check_writable("--out", arguments.out)
        lines = lines_of([load_result(file) for file in arguments.results])
        plot_lines(lines, arguments.out)
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{arguments.out} is written"):
        for name, points in lines.items():
            print(name, *means_in_words(points), sep="  ")


Point = tuple[int, float, float, float]
"""Demonstrations, success rate, and the ends of its interval."""


def lines_of(results: list[Result]) -> dict[str, list[Point]]:
    """The points of each line, by its name, in order.

    Raises:
        ValueError: There are none, or one is not of a student.
    """
    lines: dict[str, list[Point]] = defaultdict(list)
    for result in results:
        if result.policy.training is None:
            raise ValueError(f"results: {result.policy.name} was not trained on demonstrations")
        name = result.policy.name.rsplit(", seed ", 1)[0]
        for env_id, task in result.tasks.items():
            count = result.policy.training.demonstrations
            lines[f"{env_id}: {name}"].append((count, task.success_rate, *task.ci95))
    if not lines:
        raise ValueError("results: expected one or more, got none")
    return {name: sorted(points) for name, points in lines.items()}


def means(points: list[Point]) -> dict[int, list[float]]:
    """The success rates of each number of demonstrations: one for each seed of the training."""
    rates: dict[int, list[float]] = defaultdict(list)
    for count, rate, _, _ in points:
        rates[count].append(rate)
    return rates


def means_in_words(points: list[Point]) -> list[str]:
    """Mean success for each number of demonstrations, and the number of seeds."""
    return [
        f"{count}: {np.mean(rates):.1%}" + (f" ({len(rates)} seeds)" if len(rates) > 1 else "")
        for count, rates in means(points).items()
    ]


def plot_lines(lines: dict[str, list[Point]], out: Path) -> None:
    """Plot all lines into an image file.

    Raises:
        OSError: It cannot be written.
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        rates = means(points)
        [line] = axes.plot([*rates], [100 * np.mean(each) for each in rates.values()], label=name)
        for count, rate, low, high in points:
            ends = [[100 * (rate - low)], [100 * (high - rate)]]
            axes.errorbar(
                [count], [100 * rate], ends, fmt="o", capsize=3, color=line.get_color(), alpha=0.7
            )
    axes.set(xscale="log", xlabel="demonstrations", ylabel="success, %, and 95 % intervals")
    ticks = sorted({count for points in lines.values() for count, *_ in points})
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    with replacing(out) as scratch:
        figure.savefig(scratch, dpi=130)


if __name__ == "__main__":
    main()
