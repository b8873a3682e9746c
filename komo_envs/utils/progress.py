"""Progress on stderr: bars on a terminal, lines in a log file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressDisplay:
    """Progress of one or more counts: a bar each on a terminal, a line after each tenth elsewhere.

    A context: it shows something only inside it.

    Args:
        totals: Number of units of each count, by its name; an empty name is not shown.
        unit: Plural name of the units, for the lines.
        done: Units that are finished already, by name; none if not given.
        bars: Whether bars may be shown: not where something else writes to the terminal.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        unit: str,
        done: Mapping[str, int] | None = None,
        bars: bool = True,
    ) -> None:
        self._unit = unit
        self._totals = dict(totals)
        self._tenths = {name: 10 * (done or {}).get(name, 0) // n for name, n in totals.items()}
        self._bars = Progress(
            SpinnerColumn(),  # which moves while a unit takes long
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (bars and sys.stderr.isatty()),
        )
        self._tasks = {
            name: self._bars.add_task(
                name, total=total, completed=(done or {}).get(name, 0), text=""
            )
            for name, total in totals.items()
        }

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, name: str, done: int, text: str = "", line: bool = False) -> None:
        """Show how far a count has come.

        Args:
            name: Name of the count.
            done: Units that are finished.
            text: Remark beside the numbers; if empty, a bar keeps the last one.
            line: Whether a log file gets a line in any case, not only after each tenth.
        """
        self._bars.update(self._tasks[name], completed=done)
        if text:
            self._bars.update(self._tasks[name], text=text)
        total = self._totals[name]
        tenth = 10 * done // total
        passed = tenth > self._tenths[name]
        self._tenths[name] = tenth
        if self._bars.disable and (passed or line):
            words = f"{name}: " * bool(name) + f"{done} of {total} {self._unit}"
            print(f"{words}, {text}" if text else words, file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a spinner and ``text`` on a terminal; elsewhere nothing."""
    with Console(stderr=True).status(text) if sys.stderr.isatty() else contextlib.nullcontext():
        yield
