"""Rollouts, what they observe compared bit for bit, processes to watch, displays, small disks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import komo_envs  # noqa: F401 - registers the ids


def digest(value: Any) -> str:
    """Hash of an observation, bit for bit, with nested dicts in the order of their keys."""
    sha = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, dict):
            for key in sorted(item):
                sha.update(key.encode())
                feed(item[key])
        else:
            array = np.asarray(item)
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(array.tobytes())

    feed(value)
    return sha.hexdigest()


def random_rollout(env: gym.Env[Any, Any], seed: int, steps: int) -> list[str]:
    """Digests of the observations of an episode with actions drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    observation, _ = env.reset(seed=seed)
    digests = [digest(observation)]
    for _ in range(steps):
        action = rng.uniform(low, high).astype(np.float32)
        observation, reward, *_ = env.step(action)
        digests.append(digest({"observation": observation, "reward": reward}))
    return digests


def wait_for(condition, seconds: float = 60) -> Any:
    """What ``condition()`` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def workers_of(pid: int) -> list[int]:
    """The worker processes of a run that are alive."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


@contextlib.contextmanager
def virtual_display(folder: Path) -> Iterator[str]:
    """A screen that nobody sees: its DISPLAY. Its pixels are in the file ``Xvfb_screen0``."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb, which setup.sh --dev installs")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-fbdir", folder],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as displays:
            yield f":{displays.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own at ``folder``, with room for ``size``: ``"256k"``."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system: ``"ro"``, ``"size=1m"``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write a file, and say where it is."""
    path.write_text(json.dumps(content))
    return path
