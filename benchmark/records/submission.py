"""A row of the leaderboard: a folder with a result, its entry, and the record of its verification.

``result.json`` is what the harness measured. ``entry.json`` says what the method is, who made it,
and what it took. ``verification.json``, if it is there, says that part of the episodes were played
again and came out the same. The latter two name the files they are about by hash.
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

RESULT, ENTRY, VERIFICATION = "result.json", "entry.json", "verification.json"

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
class Entry:
    """What a result alone does not say."""

    schema: Literal[1]
    method: Words
    """Its name on the board."""
    authors: Annotated[tuple[Words, ...], Field(min_length=1, max_length=50)]
    links: Annotated[tuple[Link, ...], Field(max_length=10)]
    """A paper, a page."""
    code: CodeLink | None
    """Where the method's code is, at the commit that was scored; None if it is this project's."""
    data: Words
    """What it learned from; "none" if it did not learn."""
    training: Words
    """What its training cost: how long, and on what; "none" if there was none."""
    result_sha256: Sha256
    """Of ``result.json``."""
    policy_sha256: Sha256
    """Of the checkpoint, or of the policy's source, as in the result."""


@pydantic.dataclasses.dataclass(frozen=True, config=_CONFIG)
class Verification:
    """Episodes of a result that were played again."""

    schema: Literal[1]
    result_sha256: Sha256
    """Of ``result.json``."""
    policy_sha256: Sha256
    """Of the policy that played again; the same as the result's."""
    seeds: dict[str, tuple[Count, ...]]
    """Those that were played again, by environment."""
    identical: Count
    """Episodes that came out the same in everything."""
    alike: Count
    """Others with the same outcome."""
    different: tuple[tuple[str, Count], ...]
    """Environment and seed of those whose outcome is another."""
    versions: Versions
    machine: dict[str, str | int | float]
    commit: Commit | None
    date: str
    elsewhere: tuple[str, ...] = ()
    """In what those who played again had other things than the result, of those on which the last
    digits depend, in words."""
    lost: Count = 0
    """Of the different ones, how many succeed in the result alone."""

    @property
    def passed(self) -> bool:
        """Whether all outcomes are the same, and there are any.

        Elsewhere the last digits are others, and where things touch, a few episodes end otherwise
        for that: as many this way as that. Then it is whether most are the same, and no more than
        chance would have it succeed in the result alone (exact sign test, one-sided, at 5 %).
        """
        same = self.identical + self.alike
        if not self.elsewhere:
            return not self.different and same > 0
        return same > len(self.different) and self.p >= 0.05

    @property
    def p(self) -> float:
        """How probable it is that so many, or more, of the different ones succeed in the result
        alone, if either is as probable."""
        return excess(self.lost, len(self.different) - self.lost)


@dataclass(frozen=True)
class Row:
    """A row, read and checked."""

    folder: Path
    result: Result
    entry: Entry
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
    entry = parse_json(Entry, (folder / ENTRY).read_bytes(), str(folder / ENTRY))
    records: list[tuple[str, Entry | Verification]] = [(ENTRY, entry)]
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
    return Row(folder, result, entry, verification)


def _check_seeds(verification: Verification, result: Result, file: Path) -> None:
    played = {(env_id, seed) for env_id, seeds in verification.seeds.items() for seed in seeds}
    there = {(episode.env, episode.seed) for episode in result.episodes}
    counts = verification.identical + verification.alike + len(verification.different)
    total = sum(len(seeds) for seeds in verification.seeds.values())
    if verification.lost > len(verification.different):
        raise ValueError(f"{file}: lost: {verification.lost}; expected at most those different")
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
    if result.world != "sim" or result.lab is not None:
        raise ValueError(f"{file}: world: expected sim without a lab, got {result.world}")
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


Record = TypeVar("Record", Entry, Verification)


def save_record(record: Record, path: Path) -> None:
    """Write an entry or a verification.

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
