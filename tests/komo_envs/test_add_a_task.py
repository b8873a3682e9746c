"""A task of someone else's, the example of how to add one, works as ours do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from common import random_rollout
from conftest import PROJECT, RunPython
from gymnasium.utils.env_checker import check_env

ENV = "nudge:Nudge-v0"
EXAMPLE = PROJECT / "examples" / "add_a_task" / "nudge.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the example's module is, and a user might be."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(PROJECT)]))
    return tmp_path


def score(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.run", "--env", ENV, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "options",
    [
        {"mass": 0.5},
        {"obs_mode": "rgb", "control_mode": "ee_delta", "reward_mode": "dense"},
        {"obs_mode": "rgbd", "control_mode": "joint", "cameras": ("front", "wrist")},
    ],
    ids=lambda options: options.get("obs_mode", "state"),
)
def test_it_passes_gymnasiums_checker_and_is_deterministic(
    options: dict[str, Any], folder: Path, run_python: RunPython
) -> None:
    env = gym.make(ENV, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(env.unwrapped, skip_render_check=True)
    expected = random_rollout(env, 7, 30)
    env.close()
    assert len(set(expected)) == 31, "the arm moves"
    done = run_python(
        "import json, sys, gymnasium as gym\n"
        "from common import random_rollout\n"
        f"env = gym.make({ENV!r}, **json.loads(sys.argv[1]))\n"
        "print(json.dumps(random_rollout(env, 7, 30)))",
        json.dumps(options),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_the_harness_scores_it(folder: Path) -> None:
    arguments = ("--policy", "expert", "--seeds", "0:4", "--workers", 2, "--videos", 1)
    done = score(folder, *arguments, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert f"expert solves 4 of 4 episodes of {ENV}" in done.stdout
    assert (folder / "out/videos/nudge-Nudge-v0-0-success.mp4").exists()
    result = json.loads((folder / "out/result.json").read_text())
    assert set(result["versions"]) > {"nudge_sources"}
    report = (folder / "out/report.html").read_text()
    assert report.count('<g class="mark') == 4  # a map, though nobody drew one

    random = score(folder, "--policy", "random", "--seeds", "0:1", "--no-report", "--out", "random")
    assert random.returncode == 0, random.stderr
    assert f"{ENV}: 1 x timeout" in random.stdout

    # Its demonstrations are collected and replayed like any others, if its code may run.
    def experts(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    done = experts("experts.collect", "--env", ENV, "--episodes", "2", "--out", "demos.h5")
    assert done.returncode == 0, done.stderr
    done = experts("experts.replay", "demos.h5")
    assert done.returncode == 2
    assert "demos.h5: is of nudge:Nudge-v0, which would import the module 'nudge'" in done.stderr
    done = experts("experts.replay", "demos.h5", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 demonstrations come out the same" in done.stdout

    # An interrupted run goes on, unless the task has changed.
    (folder / "out/result.json").unlink()
    log = folder / "out/episodes.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    done = score(folder, *arguments, "--out", "out")
    assert done.returncode == 0, done.stderr
    again = json.loads((folder / "out/result.json").read_text())
    assert again["episodes"] == result["episodes"]
    with (folder / "nudge.py").open("a") as module:
        module.write("\nLINE = 0.47\n")
    other = score(folder, *arguments, "--out", "out")
    assert other.returncode == 2
    assert "holds a run with other versions" in other.stderr
    assert "nudge_sources" in other.stderr


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "--env nudge:Nudge-v0: module 'nudge' cannot be imported: ModuleNotFoundError: "),
        ("1 / 0", "--env nudge:Nudge-v0: module 'nudge' cannot be imported: ZeroDivisionError: "),
        (
            "",
            "--env nudge:Nudge-v0: module 'nudge' registers no 'Nudge-v0'; there are KomoPush-v0, ",
        ),
        (
            "import gymnasium\ngymnasium.register('Nudge-v0', 'nudge:Nudge')",
            "--env nudge:Nudge-v0: is registered with 'nudge:Nudge', which cannot be scored; ",
        ),
        (
            "import gymnasium\ngymnasium.register('Nudge-v0', 'komo_envs.env:KomoEnv')",
            "--env nudge:Nudge-v0: is registered without max_episode_steps",
        ),
        (
            "import gymnasium\n"
            "task = {'task': 'nudge:B'}\n"
            "gymnasium.register('Nudge-v0', 'komo_envs.env:KomoEnv', "
            "max_episode_steps=9, kwargs=task)",
            "--env nudge:Nudge-v0: cannot be made: AttributeError: ",
        ),
        (
            "import gymnasium\n"
            "from komo_envs.tasks.push import Push\n"
            "class Nudge(Push): pass\n"
            "task = {'task': 'nudge:Nudge'}\n"
            "gymnasium.register('Nudge-v0', 'komo_envs.env:KomoEnv', "
            "max_episode_steps=9, kwargs=task)",
            "env: 'nudge:Nudge-v0' has no expert: its task, 'nudge:Nudge', is not in EXPERTS",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    module: str | None, reason: str, folder: Path
) -> None:
    if module is None:
        (folder / "nudge.py").unlink()
    else:
        (folder / "nudge.py").write_text(module)
    done = score(folder, "--policy", "expert", "--episodes", 1, "--out", "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"benchmark.run: {reason}")
    assert done.stderr.count("\n") == 1
    assert not (folder / "out").exists()
