"""Make a row of the leaderboard: ``python -m benchmark.submit RESULT --name NAME ...``."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark.records.result import Result
from benchmark.records.submission import (
    RESULT,
    SUBMISSION,
    Submission,
    check_result,
    hash_file,
    load_row,
    save_record,
)
from benchmark.reporting.leaderboard_page import leaderboard_page
from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.files import check_writable, write_text
from komo_envs.utils.json_records import parse_json

MODULE = "benchmark.submit"


@dataclass(frozen=True)
class Arguments:
    """Put a result on the leaderboard: make a folder with the result and its submission.

    Training data and compute of a student of this project are in its result already.
    """

    result: tyro.conf.Positional[Path]
    """Result file, on test seeds."""
    name: str
    """Name of the row's folder: letters, digits, dots, dashes."""
    authors: tuple[str, ...]
    """Names of the authors."""
    method: str | None = None
    """Name on the leaderboard; the policy's name in the result if not given."""
    links: tuple[str, ...] = ()
    """Links to a paper or a page: https://..."""
    code: str | None = None
    """Link to the method's code at the commit that was scored; not for this project's own."""
    training_data: str | None = None
    """Data that the policy was trained on."""
    training_compute: str | None = None
    """Duration and hardware of the training."""
    results: Path = Path("benchmark/results")
    """Folder of the rows."""
    board: Path = Path("leaderboard.md")
    """File of the leaderboard, which is generated again."""


def main() -> None:
    """Run the command."""
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
            load_row(other)  # refuses rows that are there and do not check
    result = check_result(arguments.result)
    submission = submission_of(arguments, result)
    scratch, old = (arguments.results / f".{arguments.name}.{part}" for part in ("new", "old"))
    try:
        # Remains of a command that was killed.
        shutil.rmtree(scratch, ignore_errors=True)
        if old.exists() and not row.exists():
            old.rename(row)
        shutil.rmtree(old, ignore_errors=True)
        scratch.mkdir(parents=True)
        shutil.copyfile(arguments.result, scratch / RESULT)
        save_record(submission, scratch / SUBMISSION)
        load_row(scratch)
        if row.exists():  # a row is replaced as a whole: its verification is of another result
            row.rename(old)
        scratch.rename(row)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_text(arguments.board, leaderboard_page(arguments.results))
    return row


def submission_of(arguments: Arguments, result: Result) -> Submission:
    """The submission of the arguments and the result.

    Raises:
        ValueError: Something is missing, or not as it should be.
    """
    data, compute = arguments.training_data, arguments.training_compute
    if (training := result.policy.training) is not None:
        data = data or f"{training.demonstrations} demonstrations"
        compute = compute or f"{training.minutes:.0f} min on {training.hardware}"
    for option, value in (("--training-data", data), ("--training-compute", compute)):
        if value is None:
            raise ValueError(f'{option}: the result has none; expected words, or "none"')
    fields = {
        "schema": 2,
        "method": arguments.method or result.policy.name,
        "authors": list(arguments.authors),
        "links": list(arguments.links),
        "code": arguments.code,
        "training_data": data,
        "training_compute": compute,
        "result_sha256": hash_file(arguments.result),
        "policy_sha256": result.policy.sha256,
    }
    return parse_json(Submission, json.dumps(fields), "submission")


if __name__ == "__main__":
    main()
