"""The wheel, installed where the user's own modules have the names of our packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

PACKAGES = ("benchmark", "experts", "komo_envs", "policies")
POLICY = """
import numpy as np

class Still:
    name = "still"

    def __init__(self, env_id): pass

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        return np.array([0.35, -0.1], np.float32), None
"""


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not [*metadata.distributions(name="hatchling")]:
        pytest.skip("needs hatchling, which setup.sh --dev installs")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, PROJECT)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of an environment with the wheel, and with all that it needs from the tests' own."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    pip("--python", folder / "bin" / "python", "install", "-q", "--no-deps", wheel)
    paths = {"base": str(folder), "platbase": str(folder)}
    ours = Path(sysconfig.get_path("purelib", vars=paths))
    # A folder that a .pth file names is searched, but its own .pth files, of which one is that of
    # an editable install, are not read.
    (ours / "tests.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def run(bin_folder: Path, tmp_path: Path) -> Any:
    """Run a program of the environment in a folder with modules named as our packages."""
    for name in PACKAGES[:2] + PACKAGES[3:]:
        (tmp_path / f"{name}.py").write_text("raise AssertionError('not ours')")

    def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        environment["RAY_ADDRESS"] = "local"
        command = [bin_folder / program, *map(str, words)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_the_wheel_has_what_the_packages_need(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    for needed in (
        *(f"{package}/py.typed" for package in PACKAGES),
        "benchmark/reporting/templates/report.html",
        "komo_envs/rendering/panda.npz",
        "policies/pretrained/push/model.safetensors",
    ):
        assert needed in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES}
    assert not any(name.startswith("benchmark/results/") for name in names)


def test_every_command_is_installed(bin_folder, run):
    made = {
        ".".join(file.relative_to(PROJECT).with_suffix("").parts)
        for package in PACKAGES
        for file in (PROJECT / package).rglob("*.py")
        if "parse(Arguments, MODULE" in file.read_text()
    }
    [site] = bin_folder.parent.glob("lib/python*/site-packages")
    [distribution] = metadata.distributions(name="komo-envs", path=[str(site)])
    assert {entry.value for entry in distribution.entry_points} == {f"{m}:main" for m in made}
    assert {entry.name for entry in distribution.entry_points} == {
        path.name for path in bin_folder.glob("komo-*")
    }
    assert all(callable(entry.load()) for entry in distribution.entry_points)
    done = run("komo-run", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: komo-run" in done.stdout


@pytest.mark.parametrize(
    ("policy", "executor"), [("zero", "local"), ("pretrained:push", "local"), ("zero", "ray")]
)
def test_commands_find_ours_where_the_user_has_modules_of_our_names(
    run, tmp_path, policy, executor
):
    if executor == "ray":
        pytest.importorskip("ray")
    arguments = ("--env", "KomoPush-v0", "--episodes", 2, "--workers", 2, "--executor", executor)
    done = run("komo-run", "--policy", policy, *arguments, "--no-report", "--out", "scored")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scored" / "result.json").read_text())
    assert len(result["episodes"]) == 2


def test_a_policy_of_such_a_file_is_loaded(run, tmp_path):
    (tmp_path / "policies.py").write_text(POLICY)
    arguments = ("--env", "KomoPush-v0", "--episodes", 1, "--workers", 1, "--no-report")
    policy = ("--policy", "policies.py:Still", "--trust-code")
    done = run("komo-run", *policy, *arguments, "--out", "scored")
    assert done.returncode == 0, done.stderr


def test_python_m_says_what_stands_in_the_way(run, tmp_path):
    (tmp_path / "benchmark.py").unlink()
    done = run("python", "-m", "benchmark.run", "--help")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/experts.py" in done.stderr
    assert "komo-run" in done.stderr


def test_contributing_names_files_that_are_there():
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    named = re.findall(
        r"`((?:benchmark|docs|examples|experts|komo_envs|policies|tests)/[^` ]*)`", text
    )
    assert len(named) > 40
    assert [name for name in named if not (PROJECT / name).exists()] == []
