"""Provenance of a result or a data set: versions, commit and machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import warnings
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec as find_module
from pathlib import Path

from komo_envs.registration import find_spec

PACKAGES = ("komo-envs", "robotic", "gymnasium", "numpy", "scipy", "moderngl", "torch")

ROOT = Path(__file__).resolve().parents[1]

OUTCOMES = ("results", "pretrained")
"""Folders of a package that hold outcomes of its code, and are no part of it."""

CODE = ("komo_envs", "experts", "policies", "benchmark", ":(exclude)benchmark/results")
"""Paths of the code that runs: changes elsewhere do not count as modifications."""


def versions(envs: Iterable[str], sources: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that what happens in ``envs`` depends on.

    ``komo_envs_sources`` and its like are hashes of the project's own packages, ``sources``, which
    tell two states of them apart whatever version they carry. Of tasks from elsewhere, the module
    that registers the id, as in ``"module:Id"``, is hashed too, and that of the task.
    """
    modules = {env_id.rpartition(":")[0] for env_id in envs}
    modules |= {find_spec(env_id).kwargs["task"].partition(":")[0] for env_id in envs}
    modules = {module for module in modules if module and not module.startswith("komo_envs.")}
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"  # komo-envs run from a folder that was never installed
    hashed = [*sources, *sorted(modules)]
    return found | {f"{name}_sources": hash_sources(name, without=OUTCOMES) for name in hashed}


def hash_sources(module: str, without: tuple[str, ...] = ()) -> str:
    """The sha256 over the names and contents of the files of a module or package.

    Nothing is imported. Of a package, all files count, in the order of their names: its data are
    part of what it does. Hidden files and bytecode do not.

    Args:
        module: Its dotted name.
        without: Folders in the package that do not count either.

    Raises:
        ModuleNotFoundError: There is no such module.
    """
    found = find_module(module)
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


def _counts(file: Path, without: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in file.parts)
    return not hidden and file.parts[0] not in without


def commit() -> tuple[str, bool] | None:
    """The commit of the repository that this code lies in, or None if there is none.

    A checkout in which git does not work is named in a warning, with what git says.

    Returns:
        Its id, and whether files that git follows differ from it.
    """
    try:
        if _git("rev-parse", "--show-toplevel") != str(ROOT):
            return None  # the code is only installed in that repository
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError) as error:
        if (ROOT / ".git").exists():
            said = " ".join((getattr(error, "stderr", None) or str(error)).split())
            warnings.warn(f"no commit is recorded for {ROOT}: {said}", stacklevel=2)
        return None


def _git(*arguments: str) -> str:
    """The output of a git command.

    Raises:
        OSError: There is no git.
        subprocess.CalledProcessError: The command fails.
    """
    # Git refuses the checkout of another owner, as bind-mounted ones in containers are. Its code
    # runs already, so it is trusted.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    # GIT_DIR and its like, which git sets for its hooks, would lead to another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, str | int | float]:
    """The machine, in words that name no host and no user."""
    from komo_envs.rendering.renderer import (
        driver,  # which takes a while, and a library for graphics
    )

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": f"{_distribution()}, {platform.machine()}",
        "cpu": _cpu_model(),
        "renderer": driver(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
    }


KIND = ("platform", "cpu", "renderer")
"""The entries of ``machine`` that the last digits of an episode depend on."""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
