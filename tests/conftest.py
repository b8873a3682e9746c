"""Running a program in a process of its own, as a user would."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from komo_envs.suite import ENVS

PROJECT = Path(__file__).parents[1]
HELPERS = [PROJECT / "tests", *filter(Path.is_dir, (PROJECT / "tests").iterdir())]
# Who starts the tests in the background may have it ignored, which the programs that they start
# would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# There is a process for each core already: with more threads than cores, learning takes 20 times as
# long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a script in a fresh process and an empty directory, as a user would."""

    def run(
        script: str, *arguments: str, timeout: float = 300, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        paths = [str(PROJECT), *map(str, HELPERS), os.environ.get("PYTHONPATH", "")]
        variables: dict[str, Any] = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **environment,
        }
        directory = tmp_path / "cwd"
        directory.mkdir(exist_ok=True)
        file = tmp_path / "script.py"
        file.write_text(script)
        return subprocess.run(
            [sys.executable, str(file), *arguments],
            cwd=directory,
            env={k: v for k, v in variables.items() if v is not None},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> Command:
    """Run ``python -m MODULE ...`` in the project's folder, in this process, which is fast."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [module, *map(str, arguments)]
        out, err, code = io.StringIO(), io.StringIO(), 0
        handler = signal.getsignal(signal.SIGTERM)
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", words)
            patch.chdir(PROJECT)
            try:
                importlib.import_module(module).main()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                signal.signal(signal.SIGTERM, handler)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run


def run_module(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the benchmark in the project's folder."""
    command = [sys.executable, "-m", f"benchmark.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


@pytest.fixture(scope="session")
def result_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of four episodes of the zero policy in each of two environments."""
    folder = tmp_path_factory.mktemp("zero")
    arguments = ("--policy", "zero", "--env", *ENVS[:2], "--episodes", 4)
    done = run_module("run", "--no-report", *arguments, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder / "result.json"
