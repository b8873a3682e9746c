"""Messages of setup.sh before it does anything. The test command itself shows that it works."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import PROJECT

SYSTEM_PYTHON = "/usr/bin/python3"
"""One that every user can run; that of the tests may lie in a home."""


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--help",), 0, "./setup.sh --cpu "),
        (("--devel",), 2, "setup: ./setup.sh --devel: expected --dev, --cpu, --cuda or --help"),
        (("--dev", "--cpu", "--cuda"), 2, "expected one of --cpu and --cuda"),
    ],
)
def test_options_are_explained_or_refused(options, code, said):
    done = subprocess.run(
        [PROJECT / "setup.sh", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)
    assert bool(done.stdout) != bool(done.stderr)


def test_a_user_without_sudo_is_told_what_root_has_to_run():
    """With a Python that finds no libEGL, in a folder that any user can read."""
    check = [SYSTEM_PYTHON, "-c", "import ensurepip, venv"]
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run(check, check=False).returncode:
        pytest.skip("needs a Python of the system with venv")
    folder = Path(tempfile.mkdtemp())
    try:
        for file in ("setup.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(PROJECT / file, folder)
        python = folder / "python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *libEGL.so.1) exit 1 ;; esac\nexec {SYSTEM_PYTHON} "$@"\n'
        )
        (folder / "bin").mkdir()
        for tool in (
            "bash",
            "cat",
            "dirname",
            "env",
            "flock",
            "id",
            "mktemp",
            "rm",
            "uname",
            "apt-get",
        ):
            if (found := shutil.which(tool)) is None:
                pytest.skip(f"needs {tool}")
            (folder / "bin" / tool).symlink_to(found)
        for part in (folder, python):
            part.chmod(0o755)
        command = ["bash", str(folder / "setup.sh")]
        if os.geteuid() == 0:
            command = [*["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], *command]
        environment = {"PATH": str(folder / "bin"), "PYTHON": str(python)}
        command[0] = shutil.which(command[0]) or command[0]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 1
        assert (
            "Have root run this, then run ./setup.sh again: apt-get update && "
            "apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri\n"
        ) in done.stderr
        assert not (folder / ".venv").exists()
    finally:
        shutil.rmtree(folder)
