"""Make a row of the leaderboard: ``python -m benchmark.submit RESULT --name NAME ...``."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark.leaderboard import leaderboard
from benchmark.records.result import Result
from benchmark.records.submission import (
    ENTRY,
    RESULT,
    Entry,
    check_result,
    hash_file,
    load_row,
    save_record,
)
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable, write_text
from komo_envs.utils.json_records import parse_json

MODULE = "benchmark.submit"


@dataclass(frozen=True)
class Arguments:
    """Put a result on the leaderboard: a folder with the result and its entry, and the board.

    What a student of this project learned from, and what it cost, its result says already.
    """

    result: tyro.conf.Positional[Path]
    """The result file, of test seeds."""
    name: str
    """Of the row's folder: letters, digits, dots, dashes."""
    authors: tuple[str, ...]
    """Their names."""
    method: str | None = None
    """Its name on the board; that of the policy in the result if not given."""
    links: tuple[str, ...] = ()
    """To a paper, a page: https://..."""
    code: str | None = None
    """Link to the method's code at the commit that was scored; not for this project's own."""
    data: str | None = None
    """What it learned from."""
    training: str | None = None
    """What its training cost: how long, and on what."""
    results: Path = Path("benchmark/results")
    """Folder of the rows."""
    board: Path = Path("leaderboard.md")
    """The leaderboard, which is generated anew."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        row = submit(arguments)
    except (ValueError, OSError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{row} is written"):
        print(f"Wrote {row} and {arguments.board}")


def submit(arguments: Arguments) -> Path:
    """Write the row and the board; returns the row's folder.

    Raises:
        ValueError: Something cannot stand on the board. Nothing is written.
        OSError: A file cannot be read or written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}", arguments.name):
        raise ValueError(f"--name {arguments.name}: expected letters, digits, dots and dashes")
    row = arguments.results / arguments.name
    check_writable("--board", arguments.board)
    for other in arguments.results.glob("[!.]*/"):
        if other != row:
            load_row(other)  # refuses what is there already, if that does not check
    result = check_result(arguments.result)
    entry = entry_of(arguments, result)
    scratch, old = (arguments.results / f".{arguments.name}.{part}" for part in ("new", "old"))
    try:
        # What one that was killed may have left.
        shutil.rmtree(scratch, ignore_errors=True)
        if old.exists() and not row.exists():
            old.rename(row)
        shutil.rmtree(old, ignore_errors=True)
        scratch.mkdir(parents=True)
        shutil.copyfile(arguments.result, scratch / RESULT)
        save_record(entry, scratch / ENTRY)
        load_row(scratch)
        if row.exists():  # a row is replaced as a whole: what was verified was another result
            row.rename(old)
        scratch.rename(row)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_text(arguments.board, leaderboard(arguments.results))
    return row


def entry_of(arguments: Arguments, result: Result) -> Entry:
    """The entry that the arguments and the result make together.

    Raises:
        ValueError: Something is missing, or not as it should be.
    """
    data, training = arguments.data, arguments.training
    if (learning := result.policy.learning) is not None:
        data = data or f"{learning.demonstrations} demonstrations"
        training = training or f"{learning.minutes:.0f} min on {learning.hardware}"
    for option, value in (("--data", data), ("--training", training)):
        if value is None:
            raise ValueError(f'{option}: the result does not say; expected words, or "none"')
    said = {
        "schema": 1,
        "method": arguments.method or result.policy.name,
        "authors": list(arguments.authors),
        "links": list(arguments.links),
        "code": arguments.code,
        "data": data,
        "training": training,
        "result_sha256": hash_file(arguments.result),
        "policy_sha256": result.policy.sha256,
    }
    return parse_json(Entry, json.dumps(said), "entry")


if __name__ == "__main__":
    main()
