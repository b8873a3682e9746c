"""Generate ``leaderboard.md``: ``python -m benchmark.leaderboard``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.reporting.leaderboard_page import as_html, leaderboard_page
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import write_text

MODULE = "benchmark.leaderboard"


@dataclass(frozen=True)
class Arguments:
    """Generate the leaderboard from its rows."""

    check: bool = False
    """Write nothing; exit with 1 if the leaderboard is not up to date."""
    html: Path | None = None
    """File of an HTML page to write besides, with sortable tables. Its links are relative to the
    folder of leaderboard.md."""
    results: Path = Path("benchmark/results")
    """Folder of the rows."""
    out: Path = Path("leaderboard.md")
    """File of the leaderboard."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        text = leaderboard_page(arguments.results)
        files = {arguments.out: text}
        if arguments.html is not None:
            if arguments.html.suffix != ".html":
                raise ValueError(f"--html {arguments.html}: expected a name that ends in .html")
            files[arguments.html] = as_html(text)
        for file, content in files.items():
            if not arguments.check:
                write_text(file, content)
                with printing(MODULE, f"{file} is written"):
                    print(f"Wrote {file}")
            elif not file.exists() or file.read_text(encoding="utf-8") != content:
                fail(MODULE, f"{file} is not up to date with the results: generate it again", 1)
    except (ValueError, OSError) as error:
        fail(MODULE, error)


if __name__ == "__main__":
    main()
