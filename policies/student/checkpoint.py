"""Checkpoints of students: a folder with ``policy.json`` and ``model.safetensors``.

Loading one runs no code of its author, whatever the files hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, FiniteFloat, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from komo_envs.utils.files import check_utf8, replacing, write_text
from policies.spec import CARD, WEIGHTS
from policies.student.config import Architecture, Training
from policies.student.features import DatasetStats, Features, Stats
from policies.student.network import Student

FORMAT: Final = "komo-envs student"
VERSION: Final = 2
"""Format and version of ``policy.json``."""
MAX_BYTES = 2**20
"""Size limit of ``policy.json``."""

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class Origin:
    """Training of a student: its data, hyperparameters and outcome."""

    demos: dict[str, JsonValue]
    """Files of demonstrations, by name: the env, how many were used, recipe, and camera options."""
    demonstrations: Annotated[int, Field(ge=1)]
    """Number of demonstrations in all."""
    training: Training
    seed: int
    """Seed of the training."""
    step: int
    """Optimizer step at which these weights were saved."""
    minutes: FiniteFloat
    """Duration of the whole training."""
    hardware: str
    """Training hardware, in words."""
    validation: tuple[int, int]
    """Successes and episodes on validation seeds, by which the step was chosen."""
    versions: dict[str, str]
    commit: str | None

    @property
    def shadows(self) -> bool:
        """Whether the images of the demonstrations had soft shadows."""
        files = [file for file in self.demos.values() if isinstance(file, dict)]
        options = [part for file in files if isinstance(part := file.get("camera_options"), dict)]
        return any(part.get("shadows") is True for part in options)


@dataclass(frozen=True, config=_CONFIG)
class Card:
    """Contents of ``policy.json``."""

    format: Literal["komo-envs student"]
    version: Literal[2]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    architecture: Architecture
    parameters: Annotated[int, Field(ge=1)]
    """Number of trained parameters."""
    features: Features
    stats: dict[str, dict[str, JsonValue]]
    """Mean and std of each of ``DatasetStats``."""
    origin: Origin


CARDS = TypeAdapter(Card)


def save_checkpoint(
    folder: Path, name: str, student: Student, stats: DatasetStats, origin: Origin
) -> None:
    """Write a student into a folder, which is created if needed.

    Raises:
        OSError: The folder cannot be written to.
    """
    card = Card(
        format=FORMAT,
        version=VERSION,
        name=name,
        architecture=student.architecture,
        parameters=sum(part.numel() for part in student.parameters()),
        features=student.features,
        stats={
            key: {"mean": part.mean.tolist(), "std": part.std.tolist()}
            for key, part in vars(stats).items()
        },
        origin=origin,
    )
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in student.state_dict().items()}
    with replacing(folder / WEIGHTS) as scratch:
        save_file(weights, scratch)
        scratch.chmod(0o644)  # as any other file, for those who are given it
    write_text(folder / CARD, CARDS.dump_json(card, indent=1).decode())


def read_card(folder: Path) -> Card:
    """The card of a checkpoint.

    Raises:
        ValueError: The folder holds no checkpoint.
        OSError: The card cannot be read.
    """
    file = folder / CARD
    if not folder.exists():
        raise ValueError(f"{folder}: is not there; expected the folder of a checkpoint")
    if not file.is_file():
        raise ValueError(f"{folder}: is no checkpoint: it has no {CARD}")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: is larger than {MAX_BYTES} bytes; expected a checkpoint's card")
    return parse_card(file.read_bytes(), file)


def parse_card(content: bytes, file: Path) -> Card:
    """The card in the content of a file, which errors name.

    Raises:
        ValueError: The content is no card, or one of another version.
    """
    try:
        return CARDS.validate_json(content)
    except ValidationError as error:
        errors = error.errors()
        version = [each for each in errors if each["loc"] == ("version",)]
        first = (version or errors)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        if version and first["type"] != "missing":
            raise ValueError(
                f"{file}: version: {first['input']!r:.40}; expected {VERSION}: train the student "
                "again, or use the version of komo-envs that wrote it"
            ) from None
        raise ValueError(f"{file}: {where}: {first['msg']}") from None


def load_checkpoint(folder: Path) -> tuple[Student, Card]:
    """Read a student.

    Raises:
        ValueError: The folder holds no checkpoint, a damaged one, or weights and card do not fit.
        OSError: A file cannot be read.
    """
    card = read_card(folder)
    file = folder / WEIGHTS
    check_utf8("checkpoint", folder)
    if not file.is_file():
        raise ValueError(f"{folder}: is no whole checkpoint: it has no {WEIGHTS}")
    stats = _dataset_stats(card.stats, folder / CARD)
    try:
        with torch.device("meta"):  # shapes alone: a card may claim any size
            expected = Student(card.architecture, card.features, stats).state_dict()
    except (ValueError, RuntimeError, AssertionError, IndexError) as error:
        raise ValueError(f"{folder / CARD}: describes no student: {error}") from None
    try:
        with safe_open(file, "pt") as opened:
            found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: is damaged: {error}") from None
    for key in sorted(found.keys() | expected.keys()):
        shape = tuple(expected[key].shape) if key in expected else None
        if found.get(key) != shape:
            raise ValueError(f"{file}: {key}: expected shape {shape}, got {found.get(key)}")
    student = Student(card.architecture, card.features, stats)
    weights = load_file(file)
    for key, value in weights.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(f"{file}: {key}: expected finite float32, got {value.dtype}")
    student.load_state_dict(weights)
    return student.eval(), card


def _dataset_stats(values: Mapping[str, Mapping[str, Any]], file: Path) -> DatasetStats:
    try:
        stats = {
            key: Stats(
                np.array(values[key]["mean"], np.float32),
                np.array(values[key]["std"], np.float32),
            )
            for key in DatasetStats.__dataclass_fields__
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: stats: {type(error).__name__}: {error}") from None
    for key, part in stats.items():
        same = part.mean.shape == part.std.shape
        if not same or not np.isfinite(part.mean).all() or not (part.std > 0).all():
            raise ValueError(f"{file}: stats.{key}: expected finite means, std above 0")
    return DatasetStats(**stats)
