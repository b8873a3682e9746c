"""Inputs from strangers: only clean errors, and nothing of theirs is run or written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, Command

INPUTS = 60
"""Mutants of each loader. Ten thousand were tried with ``tests/hostile.py`` by itself."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A good input of each loader, in a folder of its own."""
    folder = tmp_path_factory.mktemp("good")
    scored, env = folder / "scored", ("--env", "KomoPush-v0")
    words = ("--policy", "expert", *env, "--episodes", 2)
    assert command("benchmark.run", *words, "--out", scored).returncode == 0
    (folder / "result").mkdir()
    for name in ("result.json", "films.json"):
        (scored / name).rename(folder / "result" / name)
    file = folder / "result" / "result.json"
    words = ("--name", "row", "--authors", "us", "--data", "none", "--training", "none")
    here = ("--results", folder / "rows", "--board", folder / "board.md")
    assert command("benchmark.submit", file, *words, *here).returncode == 0
    row = folder / "rows" / "row"
    assert command("benchmark.verify", row / "result.json", "--policy", "expert").returncode == 0
    row.rename(folder / "row")
    demos = folder / "demos" / "demos.h5"
    demos.parent.mkdir()
    words = (*env, "--episodes", 2, "--image-size", 48, "--out", demos)
    assert command("experts.collect", *words).returncode == 0
    for picture in demos.parent.glob("demos.[mp]*"):
        picture.unlink()
    words = ("--demos", demos, "--steps", 5, "--validation", 1, "--out", folder / "students")
    assert command("policies.train", *words).returncode == 0
    (folder / "checkpoint").mkdir()
    for name in ("policy.json", "model.safetensors"):
        (folder / "students" / "seed0" / name).rename(folder / "checkpoint" / name)
    (folder / "onnx").mkdir()
    words = (folder / "checkpoint", "--out", folder / "onnx" / "student.onnx")
    assert command("policies.onnx", *words).returncode == 0
    (folder / "message").mkdir()
    said = {"type": "hello", "version": 1, "name": "x", "sha256": "0" * 64, "privileged": False}
    said |= {"env_options": {"obs_mode": "rgb"}, "action": {"dtype": "float32", "shape": [2, 3]}}
    (folder / "message" / "message.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("loader", ["result", "row", "checkpoint", "onnx", "demos", "message"])
def test_mutants_are_refused_cleanly(loader, good):
    words = ["tests/hostile.py", loader, good / loader, INPUTS]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{loader}: {INPUTS} inputs" in done.stdout
    refused = int(done.stdout.split(", ")[1].split()[0])
    assert refused > INPUTS / 2, "most mutants are no good input any more"
