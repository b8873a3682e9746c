"""Students in ONNX files, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from komo_envs.utils.extras import missing
from policies.student.checkpoint import parse_card

CARD_KEY = "policy"
"""Key of ``policy.json`` in the file's metadata."""
INPUT_NAMES = ("obs", "agent_pos", "goal", "noise")
"""Inputs of the file, as of ``Student.forward``."""


class OnnxStudent:
    """A student in an ONNX file, on one thread.

    Raises:
        ValueError: The file is none of a student.
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
        card = self._session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if card is None:
            raise ValueError(f"{path}: is of no student: its metadata has no {CARD_KEY!r}")
        self.card = parse_card(card.encode(), path)
        self.architecture = self.card.architecture
        self.features = self.card.features

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Actions (B, N, A) of inputs in the order of ``INPUT_NAMES``."""
        used = {part.name for part in self._session.get_inputs()}
        feed = {
            name: np.ascontiguousarray(value.numpy())
            for name, value in zip(INPUT_NAMES, inputs, strict=True)
            if name in used  # the exporter drops inputs that a head does not use
        }
        [actions] = self._session.run(None, feed)
        return torch.from_numpy(np.asarray(actions))
