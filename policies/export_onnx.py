"""A student as one ONNX file, which acts faster: ``python -m policies.export_onnx STUDENT``.

The file holds the student's ``policy.json`` too, so that it is a policy like the folder.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional

from komo_envs.utils.cli import fail, parse, printing
from komo_envs.utils.extras import missing
from komo_envs.utils.files import check_writable, replacing
from policies.student.checkpoint import CARDS, Card, load_checkpoint, parse_card
from policies.student.network import Student

MODULE = "policies.export_onnx"
CARD_KEY = "policy"
"""Of the file's metadata."""


@dataclass(frozen=True)
class Arguments:
    """Write a student as an ONNX file, and check that it gives the same actions."""

    student: Positional[Path]
    """Folder of a checkpoint."""
    out: Path
    """The file, .onnx."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        if arguments.out.suffix != ".onnx":
            raise ValueError(f"--out {arguments.out}: expected a name that ends in .onnx")
        check_writable("--out", arguments.out)
        student, card = load_checkpoint(arguments.student)
        difference = write(student, card, arguments.out)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    with printing(MODULE, f"{arguments.out} is written"):
        print(f"{arguments.out}: the same actions as {arguments.student}, within {difference:.1e}")


NAMES = ("seen", "agent_pos", "goal", "noise")
"""Of the file's inputs, as in ``Student.forward``."""


def write(student: Student, card: Card, out: Path) -> float:
    """Write a student, and return by how much its actions differ, at most.

    Raises:
        ValueError: It has another encoder's features for input: DINOv2 is not exported.
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
                input_names=NAMES,
                output_names=["actions"],
                dynamic_shapes={name: {0: batch} for name in NAMES},
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
    a, layout = student.architecture, student.layout
    sizes = [len(scale.mean) for scale in (student.state_scale, student.agent_pos_scale)]
    sizes.append(len(student.goal_scale.mean))
    state, agent_pos, goal = (torch.randn(count, a.context, size) for size in sizes)
    width = layout.image_size * len(layout.cameras)
    pixels = (count, a.context, layout.image_size, width)
    seen = {
        "rgb": torch.randint(256, (*pixels, 3), dtype=torch.uint8),
        "depth": torch.rand(*pixels, 1),
    }
    noise = torch.randn(count, a.chunk, layout.action_size)
    return (state if a.encoder == "state" else seen[a.modality]), agent_pos, goal, noise


class OnnxStudent:
    """A student in an ONNX file, run by ONNX Runtime on one thread.

    Raises:
        ValueError: It is no such file.
        ImportError: onnxruntime is not installed.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("ONNX", "onnx", error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            # Its content: ONNX Runtime takes no name that is not UTF-8.
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common parent but this
            raise ValueError(f"{path}: is no ONNX file: {' '.join(str(error).split())}") from error
        said = self._session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if said is None:
            raise ValueError(f"{path}: is of no student: its metadata has no {CARD_KEY!r}")
        self.card = parse_card(said.encode(), path)
        self.architecture, self.layout = self.card.architecture, self.card.layout

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The actions (B, N, A) of inputs in the order of ``NAMES``."""
        there = {part.name for part in self._session.get_inputs()}
        feed = {
            name: np.ascontiguousarray(value.numpy())
            for name, value in zip(NAMES, inputs, strict=True)
            if name in there  # what a head does not need is left out
        }
        [actions] = self._session.run(None, feed)
        return torch.from_numpy(np.asarray(actions))


if __name__ == "__main__":
    main()
