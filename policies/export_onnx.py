"""Export a student to ONNX: ``python -m policies.export_onnx STUDENT --out FILE``.

The file also holds ``policy.json``, so that it is a policy like the folder, and acts faster.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tyro.conf import Positional

from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.extras import missing
from komo_envs.utils.files import check_writable, replacing
from policies.spec import split_spec
from policies.student.checkpoint import CARDS, Card, load_checkpoint
from policies.student.network import Student
from policies.student.onnx_student import CARD_KEY, INPUT_NAMES, OnnxStudent

MODULE = "policies.export_onnx"


@dataclass(frozen=True)
class Arguments:
    """Export a student to an ONNX file, and check that its actions are the same."""

    student: Positional[str]
    """Folder of a checkpoint, or pretrained:NAME."""
    out: Path
    """Output file, .onnx."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.out.suffix != ".onnx":
            raise ValueError(f"--out {arguments.out}: expected a name that ends in .onnx")
        check_writable("--out", arguments.out)
        student, card = load_checkpoint(split_spec(arguments.student)[0])
        difference = write(student, card, arguments.out)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{arguments.out} is written"):
        print(f"{arguments.out}: the same actions as {arguments.student}, within {difference:.1e}")


def write(student: Student, card: Card, out: Path) -> float:
    """Write a student, and return the largest difference of its actions.

    Raises:
        ValueError: The student has a DINOv2 encoder, which is not exported.
        OSError: The file cannot be written.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if card.architecture.encoder == "dinov2":
        raise ValueError("a student with DINOv2 cannot be exported: its backbone is not its own")
    try:
        import onnx
        import onnxscript  # noqa: F401 - what PyTorch exports with
    except ImportError as error:
        raise missing("ONNX", "onnx", error) from error
    inputs = _random_inputs(student, 2)
    batch = torch.export.Dim("batch")
    # The exporter warns of packages that a student does not need, and of its own code.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                student,
                inputs,
                input_names=INPUT_NAMES,
                output_names=["actions"],
                dynamic_shapes={name: {0: batch} for name in INPUT_NAMES},
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {CARD_KEY: CARDS.dump_json(card).decode()})
    with replacing(out) as scratch:
        onnx.save(model, scratch)
    written = OnnxStudent(out)
    differences = []
    for count in (1, 3):
        inputs = _random_inputs(student, count)
        with torch.inference_mode():
            ours = student(*inputs)
        differences.append(float((ours - written(*inputs)).abs().max()))
    return max(differences)


def _random_inputs(student: Student, count: int) -> tuple[Tensor, ...]:
    a, features = student.architecture, student.features
    normalizers = (student.state_normalizer, student.agent_pos_normalizer, student.goal_normalizer)
    state, agent_pos, goal = (
        torch.randn(count, a.n_obs_steps, len(normalizer.mean)) for normalizer in normalizers
    )
    width = features.image_size * len(features.cameras)
    pixels = (count, a.n_obs_steps, features.image_size, width)
    images = {
        "rgb": torch.randint(256, (*pixels, 3), dtype=torch.uint8),
        "depth": torch.rand(*pixels, 1),
    }
    noise = torch.randn(count, a.chunk_size, features.action_size)
    return (state if a.encoder == "state" else images[a.modality]), agent_pos, goal, noise


if __name__ == "__main__":
    main()
