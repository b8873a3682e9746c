"""What the README says runs."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import PROJECT, RunPython


def test_the_readmes_python_runs_as_it_stands(run_python: RunPython, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    blocks.pop()  # learns for a while; tests/policies/test_rl.py runs it
    for block in blocks:
        done = run_python(block)
        assert (done.returncode, done.stderr) == (0, "")
    assert "feasible plan of" in done.stdout
    assert done.stdout.endswith("pulled out\n")
    assert (tmp_path / "cwd" / "shelf.png").stat().st_size > 10_000


def test_the_readmes_test_command_is_what_ci_calls() -> None:
    command = "./setup.sh --dev && .venv/bin/python -m pytest"
    assert command in (PROJECT / "README.md").read_text()
    called = (PROJECT / ".ci" / "run").read_text().splitlines()
    assert {*command.split(" && ")} <= {*called}
