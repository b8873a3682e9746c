"""Reinforcement learning: the README's lines, the command, and what it does when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import wait_for
from conftest import PROJECT, Command, RunPython, run_module

from experts.dataset.format import DemoFile

pytest.importorskip("sb3_contrib")
from stable_baselines3.common.save_util import load_from_zip_file

from policies.rl import agent, config

ENV = "KomoPush-v0"
SMALL = ("--env", ENV, "--steps", 240, "--n-evals", 3, "--n-eval-episodes", 1)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demos") / "push.h5"
    words = ("--env", ENV, "--episodes", "3", "--image-size", "48", "--out", str(out))
    subprocess.run(
        [sys.executable, "-m", "experts.collect", *words], check=True, cwd=PROJECT, timeout=300
    )
    return out


def train(*words: object) -> list[str]:
    return [sys.executable, "-m", "policies.train_rl", *map(str, words)]


def finish(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(train(*words), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def weights(folder: Path) -> dict[str, torch.Tensor]:
    _, parameters, _ = load_from_zip_file(folder / "policy.zip", device="cpu")
    return parameters["policy"]


def test_the_lines_of_the_readme_learn(run_python: RunPython, tmp_path: Path) -> None:
    readme = (PROJECT / "README.md").read_text()
    [lines] = re.findall(r"```python\n(import gymnasium[^`]*?import SAC[^`]*)```", readme)
    assert lines.count("\n") <= 12
    assert "torch.set_num_threads(1)" in lines, "else it takes many times as long"
    lines = (
        lines.replace("40_000", "200")
        .replace("=2000", "=160")
        .replace('"push.zip"', f'"{tmp_path}/push.zip"')
    )
    done = run_python(lines)
    assert done.returncode == 0, done.stderr
    [stated] = re.findall(r"--policy push.zip --env KomoPush-v0 (.*?)`", readme)
    model = ("--policy", tmp_path / "push.zip", *stated.split())
    once = ("--env", ENV, "--episodes", 1, "--no-report", "--workers", 1)
    done = run_module("run", *model, *once, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


def test_what_was_killed_goes_on_and_ends_with_the_same_policy(demos: Path, tmp_path: Path) -> None:
    words = (*SMALL, "--her", "--demos", demos)
    calm_one = subprocess.Popen(train(*words, "--out", tmp_path / "calm"), cwd=PROJECT)
    killed = subprocess.Popen(
        train(*words, "--out", tmp_path / "killed"), cwd=PROJECT, stderr=subprocess.DEVNULL
    )
    folder = tmp_path / "killed" / "seed0"
    wait_for((folder / "state.pkl").exists, 200)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "training.json").exists()
    done = finish(*words, "--out", tmp_path / "killed")
    assert "step 80 of 240" not in done.stderr, "it goes on, and does not begin anew"
    assert calm_one.wait() == 0
    calm, there = weights(tmp_path / "calm" / "seed0"), weights(folder)
    assert calm.keys() == there.keys()
    assert all(torch.equal(calm[name], there[name]) for name in calm)
    said = json.loads((folder / "training.json").read_text())
    assert (said["step"], said["demonstrations"]["used"]) == (240, 3)
    assert not (folder / "state.pkl").exists()
    assert (folder / "curves.png").stat().st_size > 10_000
    # It is done, and says so again.
    assert finish(*words, "--out", tmp_path / "killed").stdout == done.stdout


SLOW = """
import time
from pathlib import Path
from typing import NamedTuple
from policies.training.multi_seed import train_and_tell

class Job(NamedTuple):
    seed: int
    steps: int = 100
    outcome: Path = Path("never")

def train(job, report):
    report(20 + job.seed, "", saved=True)
    report(50, "half of it")
    time.sleep(60)

if __name__ == "__main__":
    train_and_tell([Job(0), Job(7)], train, str, Path(), "slow")
"""


def test_an_interrupted_training_says_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "slow.py"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    halves = [process.stderr.readline() for _ in range(2)]
    assert sorted(halves) == [f"seed {seed}: 50 of 100 steps, half of it\n" for seed in (0, 7)]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == (
        "slow: interrupted; seed 0 is kept up to step 20 of 100, seed 7 is kept up to step 27 of "
        "100; the same command goes on from there\n"
    )


@pytest.mark.parametrize(
    "words", [("--algo", "ppo"), ("--algo", "tqc", "--her", "--reward", "dense")]
)
def test_any_algorithm_learns_on_any_task_and_is_scored(
    words: tuple[str, ...], tmp_path: Path, command: Command
) -> None:
    task = ("--env", "KomoShelf-v0", "--steps", 200, "--n-evals", 1, "--n-eval-episodes", 1)
    seeds = (3,) if "ppo" in words else (3, 4)
    done = command("policies.train_rl", *task, *words, "--seeds", *seeds, "--out", tmp_path / "rl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of 1 validation episodes") == len(seeds)
    policies = [tmp_path / "rl" / f"seed{seed}" / "policy.zip" for seed in seeds]
    # In the env that it learned, as the file beside it says, which knows its name, too.
    model = ("--policy", policies[-1], "--trust-code", "--episodes", 1)
    done = run_module("run", *model, "--no-report", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["envs"] == ["KomoShelf-v0"]
    assert result["policy"]["name"].startswith(f"{words[1].upper()}")
    assert result["policy"]["name"].endswith(f"dense reward, seed {seeds[-1]}")
    assert result["policy"]["privileged"]
    assert len({policy.read_bytes() for policy in policies}) == len(seeds)


def test_a_replay_buffer_holds_the_demonstrations(demos: Path) -> None:
    setting = config.Setting(ENV, "sac", True, "sparse", 1000, 0)
    envs = agent.make_envs(setting)
    buffer: Any = agent.make_model(setting, envs, demos, 2).replay_buffer
    with DemoFile(demos) as file:
        both = [file[index] for index in range(2)]
    count = sum(map(len, both))
    assert buffer.pos == count
    rewards = np.concatenate([demo.rewards for demo in both])
    assert np.array_equal(buffer.rewards[:count, 0], rewards)
    goals = np.concatenate([demo.obs["goal"][:-1] for demo in both])
    assert np.array_equal(buffer.observations["desired_goal"][:count, 0, :2], goals)
    proprioception = np.concatenate([demo.obs["agent_pos"][1:] for demo in both])
    assert np.array_equal(buffer.next_observations["observation"][:count, 0, :20], proprioception)
    envs.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--env", "KomoPull-v0"), "KomoPull-v0: no such environment"),
        (("--algo", "ppo", "--her"), "--her: ppo has no replay buffer; expected sac or tqc"),
        (("--steps", 0), "--steps 0: expected 1 to"),
        (("--n-evals", 0), "--n-evals 0: expected 1 to 240"),
        (("--seeds", 1, 1), "--seeds (1, 1): expected different seeds"),
        (("--demos", "none.h5"), "none.h5: expected a file of demonstrations; there is none"),
        (("--demos", "DEMOS", "--env", "KomoShelf-v0"), "is of KomoPush-v0; expected KomoShelf-v0"),
        (("--demos", "DEMOS", "--num-demos", 4), "--num-demos 4: "),
        (("--her",), "holds a training with other her: False there, True here"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[object, ...], why: str, demos: Path, tmp_path: Path, command: Command
) -> None:
    if words == ("--her",):
        folder = tmp_path / "out" / "seed0"
        folder.mkdir(parents=True)
        there = {"env_id": ENV, "algorithm": "sac", "her": False}
        (folder / "setup.json").write_text(json.dumps(there))
    given = {**dict(zip(SMALL[::2], SMALL[1::2], strict=True)), "--out": tmp_path / "out"}
    extra = [str(demos) if word == "DEMOS" else word for word in words]
    if "--env" in extra:
        del given["--env"]
    for option in ("--steps", "--n-evals"):
        if option in extra:
            del given[option]
    named = [part for pair in given.items() for part in pair]
    done = command("policies.train_rl", *named, *extra)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
