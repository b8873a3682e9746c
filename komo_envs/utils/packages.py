"""The packages of the project stand beside each other, under names that a user's own may have."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def installed_command() -> str:
    """The name of the running program if it is an installed command of ours, else an empty one."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("komo-") else ""


def check_packages(importing: str, *names: str) -> None:
    """Find out whether Python would import another package or module in place of one of ours.

    ``python -m`` and our commands then end with exit code 2 and one line on stderr.

    Args:
        importing: The package that needs the others.
        names: Of the others.

    Raises:
        ImportError: It would; the message names the other, and says what to do.
    """
    for name in names:
        ours, found = ROOT / name / "__init__.py", importlib.util.find_spec(name)
        theirs = str(found.origin) if found else "nothing"
        if Path(theirs).resolve() == ours:
            continue
        message = (
            f"{importing}: Python imports {theirs} as {name}, and needs {ours}: rename yours, or "
            "run the installed command (komo-run, ...) instead of python -m, without this folder "
            "on PYTHONPATH"
        )
        # "-m": Python imports the package of a module that it is to run.
        if sys.argv[0] == "-m" or installed_command():
            print(message, file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(message, name=name)
