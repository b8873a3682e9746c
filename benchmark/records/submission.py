"""A row of the leaderboard: a folder with a result, its submission, and its verification.

``result.json`` has the measurements. ``submission.json`` has the method, its authors, and the cost
of its training. ``verification.json``, if it is there, says which episodes were played again, and
how they came out. The latter two name the result and the policy by hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic.dataclasses
from pydantic import AfterValidator, ConfigDict, Field

from benchmark.records.result import Commit, Count, Result, Sha256, Versions, load_result
from komo_envs.suite import ENVS, PAPER_ENVS, SUITE, TEST
from komo_envs.utils.files import write_text
from komo_envs.utils.json_records import parse_json
from komo_envs.utils.stats import excess

RESULT, SUBMISSION, VERIFICATION = "result.json", "submission.json", "verification.json"

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Words = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S[^\r\n]*$")]


def _check_link(text: str) -> str:
    """Refuse what leads nowhere, and what would be more than a link in a table of Markdown."""
    host = r"https://([A-Za-z0-9-]+\.)+[A-Za-z][A-Za-z0-9-]+(:\d+)?"
    if not re.fullmatch(rf'{host}(/[^\s()<>|\\`\[\]"]*)?', text):
        raise ValueError("expected a link: https://, the name of a host, a path")
    return text


def _check_commit(text: str) -> str:
    if not re.search("[0-9a-f]{7}", text):
        raise ValueError("expected a link with the hash of the commit that was scored in it")
    return text


Link = Annotated[str, Field(max_length=500), AfterValidator(_check_link)]
CodeLink = Annotated[Link, AfterValidator(_check_commit)]


@pydantic.dataclasses.dataclass(frozen=True, config=_CONFIG)
class Submission:
    """Description of a scored method."""

    schema: Literal[2]
    method: Words
    """Name on the leaderboard."""
    authors: Annotated[tuple[Words, ...], Field(min_length=1, max_length=50)]
    links: Annotated[tuple[Link, ...], Field(max_length=10)]
    """A paper, a page."""
    code: CodeLink | None
    """Where the method's code is, at the commit that was scored; None if it is this project's."""
    training_data: Words
    """Data that it was trained on; "none" if it was not trained."""
    training_compute: Words
    """Duration and hardware of the training; "none" if it was not trained."""
    result_sha256: Sha256
    """Hash of ``result.json``."""
    policy_sha256: Sha256
    """Hash of the policy, as in the result."""


@pydantic.dataclasses.dataclass(frozen=True, config=_CONFIG)
class Verification:
    """Episodes of a result that were played again."""

    schema: Literal[2]
    result_sha256: Sha256
    """Hash of ``result.json``."""
    policy_sha256: Sha256
    """Hash of the policy that played again; the same as the result's."""
    seeds: dict[str, tuple[Count, ...]]
    """Seeds that were played again, by environment."""
    identical: Count
    """Episodes that came out the same in every number."""
    equivalent: Count
    """Other episodes with the same outcome."""
    mismatches: tuple[tuple[str, Count], ...]
    """Environment and seed of the episodes with another outcome."""
    versions: Versions
    machine: dict[str, str | int | float]
    commit: Commit | None
    date: str
    other_hardware: tuple[str, ...] = ()
    """Differences in hardware and versions that can change floating-point results, in words; empty
    if there are none."""
    regressions: Count = 0
    """Number of mismatches that succeed in the result but not in the re-run."""

    @property
    def passed(self) -> bool:
        """Whether the result is confirmed: all outcomes are the same, and there are any.

        On other hardware, floating-point differences can change contact-rich episodes. There, most
        outcomes must be the same, and the re-run must not have lost significantly many successes
        (exact sign test, one-sided, at 5 %).
        """
        same = self.identical + self.equivalent
        if not self.other_hardware:
            return not self.mismatches and same > 0
        return same > len(self.mismatches) and self.p >= 0.05

    @property
    def p(self) -> float:
        """P-value of the sign test: probability of at least so many regressions among the
        mismatches by chance."""
        return excess(self.regressions, len(self.mismatches) - self.regressions)


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard, read and checked."""

    folder: Path
    result: Result
    submission: Submission
    verification: Verification | None


def load_rows(folder: Path) -> list[Row]:
    """All rows in ``folder``, by name.

    Raises:
        ValueError: There are none, or one of them cannot stand on the board.
        OSError: A file cannot be read.
    """
    rows = [load_row(part) for part in sorted(folder.glob("*/")) if not part.name.startswith(".")]
    if not rows:
        raise ValueError(f"--results {folder}: expected folders with results, there are none")
    return rows


def load_row(folder: Path) -> Row:
    """Read a row, and check that it may stand on the board.

    Raises:
        ValueError: It may not; the message names the file, the field and what was expected.
        OSError: A file cannot be read.
    """
    file = folder / RESULT
    sha256 = hash_file(file)
    result = check_result(file)
    text = (folder / SUBMISSION).read_bytes()
    submission = parse_json(Submission, text, str(folder / SUBMISSION))
    records: list[tuple[str, Submission | Verification]] = [(SUBMISSION, submission)]
    verification = None
    if (folder / VERIFICATION).exists():
        text = (folder / VERIFICATION).read_bytes()
        verification = parse_json(Verification, text, str(folder / VERIFICATION))
        records.append((VERIFICATION, verification))
    for name, record in records:
        if record.result_sha256 != sha256:
            raise ValueError(
                f"{folder / name}: result_sha256: is that of another result; {file} has {sha256}"
            )
        if record.policy_sha256 != result.policy.sha256:
            raise ValueError(
                f"{folder / name}: policy_sha256: {record.policy_sha256}; the policy of {file} has "
                f"{result.policy.sha256}"
            )
    if verification is not None:
        _check_seeds(verification, result, folder / VERIFICATION)
    return Row(folder, result, submission, verification)


def _check_seeds(verification: Verification, result: Result, file: Path) -> None:
    played = {(env_id, seed) for env_id, seeds in verification.seeds.items() for seed in seeds}
    there = {(episode.env, episode.seed) for episode in result.episodes}
    counts = verification.identical + verification.equivalent + len(verification.mismatches)
    total = sum(len(seeds) for seeds in verification.seeds.values())
    if verification.regressions > len(verification.mismatches):
        raise ValueError(
            f"{file}: regressions: {verification.regressions}; expected at most "
            f"{len(verification.mismatches)}, the number of mismatches"
        )
    if not played <= there or not len(played) == total == counts or not counts:
        raise ValueError(
            f"{file}: seeds: expected different ones of the result's, and as many as there are "
            f"outcomes, {counts}"
        )


def check_result(file: Path) -> Result:
    """A result, if it is one that rows can be compared by.

    Raises:
        ValueError: It is not.
        OSError: It cannot be read.
    """
    result = load_result(file)
    if result.suite != SUITE:
        raise ValueError(f"{file}: suite: expected {SUITE}, got {result.suite}; score it again")
    if result.backend != "sim" or result.lab is not None:
        raise ValueError(f"{file}: backend: expected sim without a lab, got {result.backend}")
    first, end = result.seeds
    if first != TEST.start or end > TEST.stop:
        raise ValueError(
            f"{file}: seeds: expected test seeds from the first, {TEST.start}, on; "
            f"got {first}:{end}"
        )
    for env_id in result.envs:
        if env_id not in (*ENVS, *PAPER_ENVS):
            raise ValueError(
                f"{file}: envs: expected those of the suite, {ENVS}, or {PAPER_ENVS}; got {env_id}"
            )
    return result


Record = TypeVar("Record", Submission, Verification)


def save_record(record: Record, path: Path) -> None:
    """Write a submission or a verification.

    Raises:
        OSError: It cannot be written.
    """
    write_text(path, json.dumps(asdict(record), indent=2, allow_nan=False) + "\n")


def hash_file(path: Path) -> str:
    """The sha256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()
