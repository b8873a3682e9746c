"""Where a result comes from: versions, commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from benchmark.result import Commit
from komo_envs.ids import find_spec
from policies.identity import hash_sources

PACKAGES = ("komo-envs", "robotic", "gymnasium", "numpy", "scipy", "moderngl")

ROOT = Path(__file__).resolve().parent.parent

CODE = ("komo_envs", "experts", "policies", ":(glob)benchmark/*.py")
"""What a score depends on: changes elsewhere leave it the commit's own."""


def versions(envs: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that a score on ``envs`` depends on.

    ``komo_envs_sources`` and its like are hashes of the project's own files, which tell two states
    of them apart whatever version they carry. The experts are a policy's, and in its hash. Of tasks
    from elsewhere, the module that registers the id, as in ``"module:Id"``, is hashed too, and
    that of the task.
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
    return found | {
        "komo_envs_sources": hash_sources("komo_envs"),
        "policies_sources": hash_sources("policies"),
        "benchmark_sources": hash_sources("benchmark", without="results"),
        **{f"{module}_sources": hash_sources(module) for module in sorted(modules)},
    }


def commit() -> Commit | None:
    """The commit of the repository that this code lies in, or None if there is none."""
    if _git("rev-parse", "--show-toplevel") != str(ROOT):
        return None  # no repository, or one that this code is only installed in
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *CODE)
    if head is None or changes is None:
        return None
    return Commit(id=head, modified=bool(changes))


def _git(*arguments: str) -> str | None:
    """What a git command prints, or None if it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    # GIT_DIR and its like, which git sets for its hooks, would lead to another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, str | int | float]:
    """What ran the code, in words that name no host and no user."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": f"{_distribution()}, {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
    }


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
