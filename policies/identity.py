"""Which policy a score belongs to."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from policies.load import check_spec

SOURCES = {"expert": "experts", "random": "policies.trivial", "zero": "policies.trivial"}
"""The package or module whose source defines each built-in policy."""


def hash_policy(spec: str) -> str:
    """The sha256 of all that defines the behaviour of the policy that ``spec`` names.

    Raises:
        ValueError: There is no such policy.
    """
    check_spec(spec)
    return hash_sources(SOURCES[spec])


def hash_sources(module: str, without: str | None = None) -> str:
    """The sha256 over the names and contents of the files of a module or package.

    Nothing is imported. Of a package, all files count, in the order of their names: its data are
    part of what it does. Hidden files and bytecode do not.

    Args:
        module: Its dotted name.
        without: A folder in the package that does not count either.

    Raises:
        ModuleNotFoundError: There is no such module.
    """
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{module}: there is no such module", name=module)
    if found.submodule_search_locations:
        root = Path(found.submodule_search_locations[0])
        files = [file for file in root.rglob("*") if file.is_file()]
        files = [file for file in files if _counts(file.relative_to(root), without)]
        files.sort(key=lambda file: file.relative_to(root).as_posix())
    else:
        root, files = Path(found.origin).parent, [Path(found.origin)]
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        # The length keeps two files apart that could otherwise be cut elsewhere into the same.
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _counts(file: Path, without: str | None) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in file.parts)
    return not hidden and file.parts[0] != without
