"""Policies of a Python file. Loading one runs what its author wrote, so it is done only if the user
has said so.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from policies.base import Policy


def load_python(path: Path, class_name: str, env_id: str) -> Policy:
    """Make ``Class(env_id)`` of a Python file.

    Raises:
        ValueError: The file cannot be run, has no such class, or it makes no policy.
    """
    name = f"komo_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"policy {path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
        policy = getattr(module, class_name)(env_id)
    except Exception as error:  # of any kind: the code is someone else's
        raise ValueError(
            f"policy {path}:{class_name}: cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(policy, "predict", None)):
        raise ValueError(f"policy {path}:{class_name}: has no method predict; see policies/base.py")
    return policy
