"""Policy specs: the words and paths by which commands name a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from komo_envs.utils.words import near

BUILT_IN = ("expert", "random", "zero")
REMOTE = "tcp://"
"""Beginning of the address of a policy in another process."""
CARD, WEIGHTS = "policy.json", "model.safetensors"
"""Files of a checkpoint."""
TRAINING = "training.json"
"""File that policies.train_rl writes beside a policy: how that was trained."""
PRETRAINED = Path(__file__).parent / "pretrained"
"""Checkpoints that come with the project: a folder each."""
PRETRAINED_PREFIX = "pretrained:"
"""Beginning of the name of one of them, as in ``pretrained:push``."""


def split_spec(spec: str) -> tuple[Path, str]:
    """The path, and the name of the class in ``"file.py:Class"``; else an empty one."""
    if spec.startswith(PRETRAINED_PREFIX):
        return PRETRAINED / spec.removeprefix(PRETRAINED_PREFIX), ""
    file, colon, class_name = spec.rpartition(":")
    if colon and file.endswith(".py") and class_name.isidentifier():
        return Path(file), class_name
    return Path(spec), ""


def canonical_spec(spec: str) -> str:
    """The spec as results record it: ``pretrained:NAME`` in place of the path of a folder."""
    if spec in BUILT_IN or spec.startswith(REMOTE):
        return spec
    path = split_spec(spec)[0].resolve()
    known = path.parent == PRETRAINED.resolve() and path.is_dir()
    return f"{PRETRAINED_PREFIX}{path.name}" if known else spec


def check_spec(spec: str, trust_code: bool = False) -> None:
    """Refuse a spec that names no policy, or one with code that is not trusted.

    Raises:
        ValueError: The message says what ``spec`` is and what was expected.
    """
    if spec in BUILT_IN or spec.startswith(REMOTE):
        return
    names = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())
    if spec.startswith(PRETRAINED_PREFIX):
        name = spec.removeprefix(PRETRAINED_PREFIX)
        if name not in names:
            raise ValueError(
                f"policy {spec!r}: expected {PRETRAINED_PREFIX} and one of {', '.join(names)}"
                f"{near(name, names)}"
            )
        return
    path, class_name = split_spec(spec)
    built_in = ", ".join(BUILT_IN)
    if not path.exists():
        raise ValueError(
            f"policy {spec!r}: expected {built_in}, {PRETRAINED_PREFIX}NAME or a path, and "
            f"{path} is not there{_nearest(spec, names)}"
        )
    if path.is_dir():
        if not (path / CARD).is_file():
            raise ValueError(f"policy {spec!r}: is no checkpoint: the folder has no {CARD}")
        return
    if path.suffix not in (".onnx", ".py", ".zip"):
        raise ValueError(
            f"policy {spec!r}: no kind of policy is kept in files ending in {path.suffix!r}; "
            f"expected {built_in}, the folder of a checkpoint, an .onnx file, file.py:Class, or a "
            ".zip of Stable-Baselines3"
        )
    if path.suffix == ".py" and not class_name:
        raise ValueError(f"policy {spec!r}: expected file.py:Class, the name of a class after it")
    if path.suffix != ".onnx" and not trust_code:
        raise ValueError(
            f"policy {spec!r}: loading it runs code of its author; say --trust-code if you trust it"
        )


def _nearest(spec: str, names: Sequence[str]) -> str:
    """The nearest built-in policy or pretrained checkpoint, as the end of a message."""
    last = Path(spec).name
    if last in names:
        return f"; did you mean {PRETRAINED_PREFIX}{last}?"
    if Path(spec).parent.name == PRETRAINED.name:
        return f"; there are {', '.join(names)}{near(last, names)}"
    return near(spec, (*BUILT_IN, *(f"{PRETRAINED_PREFIX}{name}" for name in names)))
