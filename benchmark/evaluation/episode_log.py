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

OF_A_PART = ("schema", "commit", "date", "command")
"""The fields of a setup that may differ between the parts of a run."""
SAME = tuple(field.name for field in fields(Setup) if field.name not in OF_A_PART)


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Entry:
    """A line of the log."""

    episode: Episode
    deaths: int
    """How many workers died on the episode."""
    elapsed: float
    """Seconds of wall time that the run had worked on this environment by then."""


class EpisodeLog:
    """``DIR/episodes.jsonl``: the setup of a run, then a line for every finished episode.

    Opening it begins a run, or goes on with the one that is there, to which seeds may be added.

    Args:
        folder: Made if it is not there.
        setup: Of the run that is wanted.

    Attributes:
        folder: Where the run is kept.
        setup: As it was when the run began.
        entries: By environment and seed.

    Raises:
        ValueError: The folder cannot be written to, or holds another run, or one that is still
            going on; or the setup is none that could be read again.
    """

    def __init__(self, folder: Path, setup: Setup) -> None:
        path, line = folder / "episodes.jsonl", _line_of(setup)
        for left in ("result.json", "films.json", "videos"):
            if (folder / left).exists() and not path.exists():  # they are of another run
                raise ValueError(
                    f"--out {folder}: holds a {left} without its episodes.jsonl; "
                    "expected an unfinished run or a folder without one"
                )
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise ValueError(f"--out {folder}: cannot be written to: {error.strerror}") from None
        try:
            lock(self._file)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"--out {folder}: another run is writing there") from None
        self._file.seek(0)
        # A run that was killed while it wrote may leave half a line, which is dropped.
        lines = self._file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._file.truncate(sum(map(len, whole)))
        self.entries: dict[tuple[str, int], Entry] = {}
        if not whole:
            self.setup = setup
            self._write(line)
            return
        self.setup = parse_json(Setup, whole[0], f"{path}, line 1")
        there = self.setup.seeds
        if there[0] == setup.seeds[0] and there[1] < setup.seeds[1]:
            self.setup = replace(self.setup, seeds=setup.seeds)
        self._check_same(folder, setup)
        for number, line in enumerate(whole[1:], start=2):
            entry = parse_json(Entry, line, f"{path}, line {number}")
            self.entries[entry.episode.env, entry.episode.seed] = entry
        if self.setup.seeds != there:
            self._rewrite([_line_of(self.setup), *whole[1:]])

    def _check_same(self, folder: Path, setup: Setup) -> None:
        there, now = asdict(self.setup), asdict(setup)
        for name in SAME:
            if there[name] == now[name]:
                continue
            old, new = there[name], now[name]
            if isinstance(old, dict):
                old = {key: value for key, value in old.items() if new.get(key) != value}
                new = {key: new.get(key) for key in old}
            raise ValueError(
                f"--out {folder}: holds a run with other {name}: {old} there, {new} here; "
                "choose another folder"
            )

    def elapsed(self, env_id: str) -> float:
        """Seconds of wall time spent on an environment so far, all parts of the run together."""
        spent = [entry.elapsed for (env, _), entry in self.entries.items() if env == env_id]
        return max(spent, default=0.0)

    def add(self, entry: Entry) -> None:
        """Keep a finished episode.

        Raises:
            ValueError: It is none that could be read again.
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


def _line_of(record: Setup | Entry) -> bytes:
    """A line of the log.

    Raises:
        ValueError: The record could not be read again, as one with half a character in a text.
    """
    line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
    parse_json(type(record), line, type(record).__name__.lower())
    return line
