"""Packages that only some commands need."""

from __future__ import annotations

import shlex
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
"""Where this package is: the project's folder, or where pip has put it."""


def missing(what: str, extra: str, error: ImportError) -> ImportError:
    """The error for users where an import failed.

    Args:
        what: The part of the project that needs the import, in words.
        extra: The extra of ``pyproject.toml`` that has it.
        error: What Python said.
    """
    if not isinstance(error, ModuleNotFoundError):  # it is there, and lacks something else
        return ImportError(f"{what}: {error}")
    return ImportError(f"{what} needs {error.name}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """The command that installs an extra, for a checkout or else for an installed package."""
    if not (CHECKOUT / "constraints.txt").exists():
        return f"pip install 'komo-envs[{extra}]'"
    if Path.cwd() == CHECKOUT:
        return f"pip install -e '.[{extra}]' -c constraints.txt"
    constraints = shlex.quote(str(CHECKOUT / "constraints.txt"))
    return f"pip install -e '{CHECKOUT}[{extra}]' -c {constraints}"
