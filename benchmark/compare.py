"""Compare two policies: ``python -m benchmark.compare A B``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from benchmark.records.result import Result
from benchmark.reporting.comparison import (
    common_episodes,
    compare,
    names_of,
    print_comparisons,
    read_result_or_counts,
)
from benchmark.reporting.curves import plot_success
from benchmark.reporting.sim_vs_real import load_results, pair, print_agreement
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable

MODULE = "benchmark.compare"


@dataclass(frozen=True)
class Arguments:
    """Compare the success rates of two policies, with confidence interval and significance.

    Results are compared scene by scene, over the scenes that both have. K/N stands for a result of
    which only counts are known; rates are compared then.
    """

    a: Positional[str]
    """A result file, or K/N: K successes in N episodes."""
    b: Positional[str]
    """The other policy: a result file, or K/N."""
    sim_vs_real: bool = False
    """A and B are results, or folders of results, of the same policies in simulation and on a real
    robot (or two other backends): print how well one predicts the other."""
    plot: Path | None = None
    """Image file, .png: success over distance and over time, with 95 % bands."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.sim_vs_real:
            if arguments.plot is not None:
                raise ValueError(f"--plot {arguments.plot}: expected none with --sim-vs-real")
            found = [load_results(Path(word)) for word in (arguments.a, arguments.b)]
            pairs = pair(*found)
            backends = [next(iter(results.values())).backend for results in found]
            with printing(MODULE, "compared"):
                print_agreement(pairs, (backends[0], backends[1]))
            return
        if arguments.plot is not None:
            if arguments.plot.suffix != ".png":
                raise ValueError(f"--plot {arguments.plot}: expected a name that ends in .png")
            check_writable("--plot", arguments.plot)
        sides = [read_result_or_counts(word) for word in (arguments.a, arguments.b)]
        comparisons = compare(*sides)
        names = names_of(sides)
        if arguments.plot is not None:
            a, b = sides
            if not (isinstance(a, Result) and isinstance(b, Result)):
                raise ValueError("--plot: expected two result files, got counts")
            episodes = {
                one.env: dict(zip(names, common_episodes(a, b, one.env), strict=True))
                for one in comparisons
            }
            plot_success(episodes, arguments.plot)
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    with printing(MODULE, "compared"):
        print_comparisons(comparisons, names)


if __name__ == "__main__":
    main()
