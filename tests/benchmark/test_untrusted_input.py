"""Inputs from strangers: only clean errors, and nothing of theirs is run or written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT, Command
from fuzz_loaders import Mute
from orphans import SECONDS, Orphaning

from benchmark.evaluation import rollout
from benchmark.evaluation.rollout import Evaluator
from komo_envs.utils.workers import ATTEMPTS, Workers
from policies import load_policy

ENV = "KomoPush-v0"

INPUTS = 60
"""Mutants of each loader. ``tests/tools/fuzz_loaders.py`` has tried ten thousand."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A good input of each loader, in a folder of its own."""
    folder = tmp_path_factory.mktemp("good")
    scored, env = folder / "scored", ("--env", "KomoPush-v0")
    words = ("--policy", "expert", *env, "--episodes", 2)
    assert command("benchmark.run", *words, "--out", scored).returncode == 0
    (folder / "result").mkdir()
    for name in ("result.json", "highlights.json"):
        (scored / name).rename(folder / "result" / name)
    file = folder / "result" / "result.json"
    words = (
        "--name",
        "row",
        "--authors",
        "us",
        "--training-data",
        "none",
        "--training-compute",
        "none",
    )
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
    words = ("--demos", demos, "--steps", 5, "--n-eval-episodes", 1, "--out", folder / "students")
    assert command("policies.train", *words).returncode == 0
    (folder / "checkpoint").mkdir()
    for name in ("policy.json", "model.safetensors"):
        (folder / "students" / "seed0" / name).rename(folder / "checkpoint" / name)
    (folder / "onnx").mkdir()
    words = (folder / "checkpoint", "--out", folder / "onnx" / "student.onnx")
    assert command("policies.export_onnx", *words).returncode == 0
    (folder / "message").mkdir()
    said = {"type": "hello", "version": 1, "name": "x", "sha256": "0" * 64, "privileged": False}
    said |= {"env_options": {"obs_mode": "rgb"}, "action": {"dtype": "float32", "shape": [2, 3]}}
    (folder / "message" / "message.json").write_text(json.dumps(said))
    (folder / "action").mkdir()
    (folder / "action" / "action.json").write_text("0")
    return folder


LOADERS = ["result", "row", "checkpoint", "onnx", "demos", "message", "action"]


@pytest.mark.parametrize("loader", LOADERS)
def test_mutants_are_refused_cleanly(loader, good):
    words = ["tests/tools/fuzz_loaders.py", loader, good / loader, INPUTS]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{loader}: {INPUTS} inputs" in done.stdout
    refused = int(done.stdout.split(", ")[1].split()[0])
    assert refused > INPUTS / 2, "most mutants are no good input any more"


class Rogue:
    """A policy that asks for no action, but does something."""

    env_options: Any = {"control_mode": "ee_delta"}  # noqa: RUF012

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        return self.act(), None


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    evaluator = Evaluator("expert", tmp_path_factory.mktemp("videos"))
    yield evaluator
    evaluator.close()


@pytest.fixture
def play(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Play an episode of a policy."""

    def play(policy: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "load_policy", lambda *_: policy)
            evaluator._policies.clear()
            evaluator._attached.clear()
            return evaluator.run(ENV, 2_000_000)

    return play


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def fork() -> Any:
    """Let a fork of the process come back first."""
    if child := os.fork():
        os.waitpid(child, 0)
        raise RuntimeError("in one process")
    raise RuntimeError("in two processes")


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        (
            lambda: [1, [2, 3], 4],
            "ActionError: action: expected an array, got a list: ValueError: ",
        ),
        (lambda: np.ma.masked_array([0.0] * 3, [1, 0, 0]), "ActionError: .* got masked ones"),
        (raising(SystemExit(0)), "SystemExit: 0"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (raising(GeneratorExit()), "GeneratorExit: "),
        (raising(Mute()), "Mute: its message cannot be had: RuntimeError"),
        (raising(ValueError("caf\udce9 \ud800")), r"ValueError: caf\\udce9 \\ud800"),
        (
            raising(ValueError("a\0b\x1b[31mc\n d\u202e")),
            r"ValueError: a\\x00b\\x1b\[31mc d\\u202e",
        ),
        (raising(ValueError("x" * 10**7)), "ValueError: x{181}"),
        (fork, "RuntimeError: in one process"),
    ],
)
def test_whatever_a_policy_does_fails_its_episode(act, failure, play, monkeypatch):
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a worker
    try:
        episode = play(Rogue(act))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert re.match(f"error: {failure}", episode.failure), episode.failure
    assert episode.failure.isprintable()
    assert len(episode.failure) <= 200


@pytest.mark.parametrize(
    ("name", "value", "failure"),
    [
        ("failure", np.zeros(2), "error: TypeError: failure: expected a str or None, got ndarray"),
        ("failure", 3, "error: TypeError: failure: expected a str or None, got int"),
        ("failure", "caf\udce9\x1b[31m", r"caf\udce9\x1b[31m"),
        ("failure", property(raising(KeyError(1))), "error: TypeError: "),
        ("set_random_seed", property(raising(KeyError(1))), "error: TypeError: "),
        ("attach", raising(KeyError(1)), "error: TypeError: "),
    ],
)
def test_whatever_a_policy_has_fails_its_episode(name, value, failure, play):
    kind = type("Kind", (Rogue,), {name: value, "privileged": True})
    assert play(kind(lambda: np.zeros(3))).failure.startswith(failure)


def test_whatever_a_policy_does_to_the_process_is_undone(play, tmp_path):
    before = os.getcwd(), sys.stdout, signal.getsignal(signal.SIGTERM)

    class Vandal(Rogue):
        def predict(self, obs, state=None, episode_start=None, deterministic=True):
            for value in obs.values():
                value[...] = np.nan
            os.chdir("/")
            sys.stdout = None  # type: ignore[assignment]
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return np.zeros(3), None

    assert play(Vandal(None)) == play(Rogue(lambda: np.zeros(3)))
    assert (os.getcwd(), sys.stdout, signal.getsignal(signal.SIGTERM)) == before


def test_a_dead_worker_is_seen_though_its_fork_lives():
    started = time.monotonic()
    with Workers(1, Orphaning) as workers:
        [result] = workers.run([(1,)])
    assert result.given_up == f"{ATTEMPTS} worker processes died, the last one with signal 9"
    assert time.monotonic() - started < SECONDS


ENDING = {
    "exits": "import sys\nsys.exit(0)\n",
    "parses": "import argparse\nargparse.ArgumentParser().parse_args()\n",
    "skips": "import pytest\npytest.skip('x', allow_module_level=True)\n",
    "mute": "class Mute(Exception):\n    def __str__(self): return 1\nraise Mute\n",
}


@pytest.mark.parametrize("module", ENDING)
@pytest.mark.parametrize("option", ["--policy", "--env"])
def test_code_that_ends_the_process_ends_in_one_line(
    module, option, tmp_path, command, monkeypatch
):
    (tmp_path / f"{module}.py").write_text(ENDING[module])
    monkeypatch.syspath_prepend(str(tmp_path))
    words = {"--policy": "zero", "--env": ENV, "--out": tmp_path / "out"}
    words[option] = tmp_path / f"{module}.py:P" if option == "--policy" else f"{module}:X-v0"
    done = command("benchmark.run", "--trust-code", *[w for pair in words.items() for w in pair])
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert re.match("benchmark.run: .*cannot be (made|imported): (SystemExit|Skipped|Mute): ", said)


def test_a_policy_file_imports_what_is_beside_it(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "beside_it.py").write_text(f"NAME = {name!r}\n")
        (folder / "later.py").write_text("")
        (folder / "policy.py").write_text(
            "import beside_it\n"
            "class P:\n"
            "    name = beside_it.NAME\n"
            "    def __init__(self, env_id): pass\n"
            "    def predict(self, *_, **__): import later\n"
        )
    policy: Any = load_policy(f"{tmp_path}/a/policy.py:P", ENV, trust_code=True)
    assert policy.name == "a"
    policy.predict({})
    with pytest.raises(ValueError, match=r"has a module beside_it, and a policy of .*/a has"):
        load_policy(f"{tmp_path}/b/policy.py:P", ENV, trust_code=True)


NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that lets flock fail, as on file systems that have none."""
    folder = tmp_path_factory.mktemp("no_locks")
    (folder / "no_locks.c").write_text(NO_LOCKS)
    build = ["gcc", "-shared", "-fPIC", "-o", folder / "no_locks.so", folder / "no_locks.c"]
    try:
        subprocess.run(build, check=True)
    except FileNotFoundError:
        pytest.skip("needs gcc")
    return folder / "no_locks.so"


BESIDE = """
from beside_me import NAME
class Policy:
    name = NAME
    def __init__(self, env_id): pass
    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        raise ValueError("caf\\udce9")
"""


def test_a_strange_disk_and_no_terminal_stop_nothing(tmp_path, no_locks):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "policy.py").write_text(BESIDE)
    (folder / "beside_me.py").write_text("NAME = 'beside'\n")
    python = [sys.executable, "-m"]
    policy = ["--policy", f"{folder}/policy.py:Policy", "--trust-code"]
    scored = ["benchmark.run", *policy, "--env", ENV, "--out", folder / "run"]
    demos = ["experts.collect", "--env", ENV, "--image-size", "16", "--out", folder / "demos.h5"]
    few = ["--episodes", "1", "--workers", "1"]

    def run(words: list[Any], closed: str, number: int) -> subprocess.CompletedProcess[str]:
        environment = {"LD_PRELOAD": str(no_locks), "FLOCK_ERRNO": str(number)}
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *python, *words, *few]
        return subprocess.run(
            shell, env=os.environ | environment, cwd=PROJECT, capture_output=True, text=True
        )

    first = run(scored, "<&-", 524)
    assert first.returncode == 0, first.stderr
    assert "episodes.jsonl: cannot be locked here" in first.stderr
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["policy"]["spec"] == "policy.py:Policy"
    assert result["policy"]["name"] == "beside"
    assert result["episodes"][0]["failure"] == r"error: ValueError: caf\udce9"
    assert (folder / "run" / "report.html").exists()
    for words, closed in ((scored, "2>&-"), (demos, "2>&-"), (demos, "<&- >&- 2>&-")):
        done = run(words, closed, 37)
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing to do" in done.stdout or words is demos
    assert (folder / "demos.h5").exists()
    assert (folder / "demos.md").exists()


def test_a_path_that_a_library_cannot_take_is_refused_first(good, tmp_path, command):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(good / "checkpoint", folder)
    demos = good / "demos" / "demos.h5"
    train = ("policies.train", "--demos", demos, "--steps", 5, "--out", folder / "students")
    export = ("experts.export", demos, folder / "lerobot", "--to", "lerobot")
    score = ("benchmark.run", "--policy", folder, "--env", ENV, "--out", tmp_path / "run")
    for words in (train, export, score):
        done = command(*words)
        assert done.returncode == 2
        assert re.search(r"caf\\udce9.*: expected names in UTF-8", done.stderr), done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["model.safetensors", "policy.json"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["policies", "experts"])
def test_a_package_of_ones_own_in_place_of_ours_is_named(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("")
    command = [sys.executable, "-m", "benchmark.run", "--help"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"Python imports {tmp_path}/{name}.py as {name}, and needs " in done.stderr
