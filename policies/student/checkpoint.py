"""A trained student as a folder: ``policy.json`` says what it is, ``model.safetensors`` is it.

Loading one runs no code of its author's, whatever the files hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, FiniteFloat, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from komo_envs.utils.files import check_utf8, replacing, write_text
from policies.spec import CARD, WEIGHTS
from policies.student.config import Architecture, Training
from policies.student.network import Student
from policies.training.data import Layout, Scale, Scales

MOST_BYTES = 2**20
"""A longer policy.json is none."""

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class Origin:
    """How a student came about."""

    demos: dict[str, JsonValue]
    """Of each file of demonstrations, by its name: the env, how many were used, and its recipe."""
    demonstrations: Annotated[int, Field(ge=1)]
    """How many there were in all."""
    training: Training
    seed: int
    """Of the training."""
    step: int
    """Of the optimiser, at which these weights were taken."""
    minutes: FiniteFloat
    """That training took until its end."""
    hardware: str
    """What it was trained on, in words."""
    validation: tuple[int, int]
    """Successes and episodes on validation seeds, by which the step was chosen."""
    versions: dict[str, str]
    commit: str | None

    @property
    def shadows(self) -> bool:
        """Whether the images that it learned from had soft shadows."""
        files = [file for file in self.demos.values() if isinstance(file, dict)]
        sceneries = [scenery for file in files if isinstance(scenery := file.get("scenery"), dict)]
        return any(scenery.get("shadows") is True for scenery in sceneries)


@dataclass(frozen=True, config=_CONFIG)
class Card:
    """What ``policy.json`` holds."""

    format: Literal["komo-envs student"]
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    architecture: Architecture
    parameters: Annotated[int, Field(ge=1)]
    """How many numbers were learned."""
    layout: Layout
    scales: dict[str, dict[str, JsonValue]]
    """Mean and deviation of each of ``data.Scales``."""
    origin: Origin


CARDS = TypeAdapter(Card)


def save_checkpoint(
    folder: Path, name: str, student: Student, scales: Scales, origin: Origin
) -> None:
    """Write a student into a folder, which is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    card = Card(
        format="komo-envs student",
        version=1,
        name=name,
        architecture=student.architecture,
        parameters=sum(part.numel() for part in student.parameters()),
        layout=student.layout,
        scales={
            key: {"mean": scale.mean.tolist(), "deviation": scale.deviation.tolist()}
            for key, scale in vars(scales).items()
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
    """What a checkpoint says of itself.

    Raises:
        ValueError: It is none.
        OSError: It cannot be read.
    """
    file = folder / CARD
    if not folder.exists():
        raise ValueError(f"{folder}: is not there; expected the folder of a checkpoint")
    if not file.is_file():
        raise ValueError(f"{folder}: is no checkpoint: it has no {CARD}")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file}: is larger than {MOST_BYTES} bytes; expected a checkpoint's card")
    return parse_card(file.read_bytes(), file)


def parse_card(content: bytes, file: Path) -> Card:
    """The card that a file holds.

    Raises:
        ValueError: It is none.
    """
    try:
        return CARDS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {where or 'content'}: {first['msg']}") from None


def load_checkpoint(folder: Path) -> tuple[Student, Card]:
    """Read a student.

    Raises:
        ValueError: It is no checkpoint, a damaged one, or weights and card do not fit.
        OSError: It cannot be read.
    """
    card = read_card(folder)
    file = folder / WEIGHTS
    check_utf8("checkpoint", folder)
    if not file.is_file():
        raise ValueError(f"{folder}: is no whole checkpoint: it has no {WEIGHTS}")
    scales = _scales(card.scales, folder / CARD)
    try:
        with torch.device("meta"):  # shapes alone: a card may claim any size
            expected = Student(card.architecture, card.layout, scales).state_dict()
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
    student = Student(card.architecture, card.layout, scales)
    weights = load_file(file)
    for key, value in weights.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(f"{file}: {key}: expected finite float32, got {value.dtype}")
    student.load_state_dict(weights)
    return student.eval(), card


def _scales(values: Mapping[str, Mapping[str, Any]], file: Path) -> Scales:
    try:
        scales = {
            key: Scale(
                np.array(values[key]["mean"], np.float32),
                np.array(values[key]["deviation"], np.float32),
            )
            for key in Scales.__dataclass_fields__
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: scales: {type(error).__name__}: {error}") from None
    for key, scale in scales.items():
        same = scale.mean.shape == scale.deviation.shape
        if not same or not np.isfinite(scale.mean).all() or not (scale.deviation > 0).all():
            raise ValueError(f"{file}: scales.{key}: expected finite means, deviations above 0")
    return Scales(**scales)
