"""The finished episodes of a run, on disk as they finish, so that it can be interrupted."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from benchmark.records.result import Episode, Setup
from komo_envs.utils.files import lock, replacing
from komo_envs.utils.json_records import parse_json
from komo_envs.utils.resume import check_same, open_locked

OF_A_PART = ("schema", "commit", "date", "command")
"""The fields of a setup that may differ between the parts of a run."""
OF_THE_RUN = tuple(field.name for field in fields(Setup) if field.name not in OF_A_PART)


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class LogEntry:
    """A line of the log."""

    episode: Episode
    deaths: int
    """Number of workers that died on the episode."""
    elapsed: float
    """Seconds of wall time that the run had worked on this environment by then."""


class EpisodeLog:
    """``DIR/episodes.jsonl``: the setup of a run, then a line for every finished episode.

    Opening it begins a run, or goes on with the one that is there, to which seeds may be added.

    Args:
        folder: Made if it is not there.
        setup: Setup of the run that is wanted.

    Attributes:
        folder: Folder of the run.
        setup: Setup of the run when it began.
        entries: Finished episodes, by environment and seed.

    Raises:
        ValueError: The folder cannot be written to, or holds another run, or one that is still
            running; or the setup could not be read again.
    """

    def __init__(self, folder: Path, setup: Setup) -> None:
        path, line = folder / "episodes.jsonl", _line_of(setup)
        for left in ("result.json", "highlights.json", "videos"):
            if (folder / left).exists() and not path.exists():  # they are of another run
                raise ValueError(
                    f"--out {folder}: holds a {left} without its episodes.jsonl; "
                    "expected an unfinished run or a folder without one"
                )
        self.folder = folder
        self._file = open_locked("--out", folder, path)
        self._file.seek(0)
        # A run that was killed while it wrote may leave half a line, which is dropped.
        lines = self._file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._file.truncate(sum(map(len, whole)))
        self.entries: dict[tuple[str, int], LogEntry] = {}
        if not whole:
            self.setup = setup
            self._write(line)
            return
        self.setup = parse_json(Setup, whole[0], f"{path}, line 1")
        there = self.setup.seeds
        if there[0] == setup.seeds[0] and there[1] < setup.seeds[1]:
            self.setup = replace(self.setup, seeds=setup.seeds)
        here = {name: value for name, value in asdict(setup).items() if name in OF_THE_RUN}
        check_same("--out", folder, "a run", asdict(self.setup), here)
        for number, line in enumerate(whole[1:], start=2):
            entry = parse_json(LogEntry, line, f"{path}, line {number}")
            self.entries[entry.episode.env, entry.episode.seed] = entry
        if self.setup.seeds != there:
            self._rewrite([_line_of(self.setup), *whole[1:]])

    def elapsed(self, env_id: str) -> float:
        """Wall time spent on an environment so far, in all parts of the run, s."""
        spent = [entry.elapsed for (env, _), entry in self.entries.items() if env == env_id]
        return max(spent, default=0.0)

    def add(self, entry: LogEntry) -> None:
        """Keep a finished episode.

        Raises:
            ValueError: It could not be read again.
            OSError: It cannot be written.
        """
        self._write(_line_of(entry))
        self.entries[entry.episode.env, entry.episode.seed] = entry

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _rewrite(self, lines: list[bytes]) -> None:
        """Put other lines in the place of all, whole or not at all."""
        self._replaced = self._file  # stays locked, for who has opened it but not yet locked it
        with replacing(Path(self._file.name)) as scratch:
            self._file = scratch.open("a+b")
            lock(self._file)
            self._file.write(b"".join(lines))
            self._file.flush()

    def close(self) -> None:
        """Let another run have the file."""
        self._file.close()


def _line_of(record: Setup | LogEntry) -> bytes:
    """A line of the log.

    Raises:
        ValueError: The record could not be read again, as one with half a character in a text.
    """
    line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
    parse_json(type(record), line, "setup" if isinstance(record, Setup) else "episode")
    return line
