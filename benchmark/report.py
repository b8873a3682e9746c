"""A result on one page: ``python -m benchmark.report RESULT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark.records.result import load_result
from benchmark.records.submission import RESULT
from benchmark.reporting.highlights import REPORT
from benchmark.reporting.report_page import report_page
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable, write_text

MODULE = "benchmark.report"


@dataclass(frozen=True)
class Arguments:
    """Show a result on one page: scores, curves, a map of the scenes, highlights, every episode.

    A run writes its page itself; this command writes it again. Nothing is played: the videos are
    those in the folder.
    """

    result: tyro.conf.Positional[Path]
    """A result file, or the folder of a run."""
    out: Path | None = None
    """File of the page; report.html beside the result if not given."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        file = arguments.result
        if file.is_dir():
            file /= RESULT
        out = arguments.out or file.parent / REPORT
        result = load_result(file)
        check_writable("--out", out)
        write_text(out, report_page(result, file.parent))
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{out} is written"):
        print(f"Wrote {out}")


if __name__ == "__main__":
    main()
