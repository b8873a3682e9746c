"""Policies in Python files. Loading one runs code of its author, so the user has to allow it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from komo_envs.utils.foreign_code import ForeignError, foreign_code
from policies.base import Policy


def load_python(path: Path, class_name: str, env_id: str) -> Policy:
    """Make ``Class(env_id)`` of a Python file.

    Raises:
        ValueError: The file cannot be run, or has no such class, or the class is no policy.
    """
    name = f"komo_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"policy {path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        with foreign_code(), _importing_beside(path):
            spec.loader.exec_module(module)
            policy = getattr(module, class_name)(env_id)
            can_act = callable(getattr(policy, "predict", None))
    except ForeignError as error:
        raise ValueError(f"policy {path}:{class_name}: cannot be made: {error}") from error
    if not can_act:
        raise ValueError(f"policy {path}:{class_name}: has no method predict; see policies/base.py")
    return policy


_beside: dict[str, Path] = {}
"""Folders of the modules that policy files have imported from beside them, by module name."""


@contextlib.contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """Context in which a policy file imports the modules beside it first.

    Afterwards its folder is last in the search path: its late imports are found, and do not shadow
    ours.

    Raises:
        ImportError: The file of another policy, which is loaded already, has imported a module of
            the same name from beside it, which Python would give to both.
    """
    folder = path.resolve().parent

    def is_beside(name: str) -> bool:
        return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()

    for name, other in _beside.items():
        if other != folder and is_beside(name):
            raise ImportError(
                f"{folder} has a module {name}, and a policy of {other} has imported its own; "
                "expected modules of different names"
            )
    before = {*sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file itself may have removed it
            sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        new = {name for name in {*sys.modules} - before if "." not in name}
        _beside.update(dict.fromkeys(filter(is_beside, new), folder))
