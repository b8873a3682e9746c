"""Curves of a training: for TensorBoard, and as an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from komo_envs.utils.files import replacing


class Curves:
    """Values by step.

    Args:
        folder: Folder of the TensorBoard events.
        rows: Values so far, if the training is resumed; later events are purged.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]]) -> None:
        self.rows = rows
        purge = int(rows[-1]["step"]) + 1 if rows else 0
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""
        self.rows.append({"step": step, **values})
        self.log(step, values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step, for TensorBoard alone."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def plot(self, path: Path, title: str) -> None:
        """Plot all curves into an image file.

        Raises:
            OSError: The file cannot be written.
        """
        self._writer.close()
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in self.rows:
            for name, value in row.items():
                if name != "step":
                    points[name].append((row["step"], value))
        figure = Figure(figsize=(4.0 * len(points), 3.0), layout="constrained")
        for axes, (name, pairs) in zip(
            figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True
        ):
            axes.plot(*zip(*pairs, strict=True), marker="o" if len(pairs) < 20 else None)
            axes.set(title=name, xlabel="step")
            if "loss" in name:
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.05)
            axes.grid(alpha=0.3)
            axes.locator_params(axis="x", nbins=5)
        figure.suptitle(title)
        with replacing(path) as scratch:
            figure.savefig(scratch, dpi=120)
