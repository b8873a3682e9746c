"""On a Ray cluster the results are those of one machine, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import wait_for
from conftest import PROJECT

from komo_envs.utils.workers import descendants

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)
ENV = "KomoPush-v0"
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Makes Ray take 127.0.0.1 as the address of a node."""

CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

def add(folder):
    paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": paths}, include_dashboard=False)
    return node, node.all_processes["raylet"][0].process.pid

cluster = Cluster()
add(sys.argv[1])
print(cluster.address, flush=True)
for line in sys.stdin:
    node, raylet = add(line.strip())
    print(raylet, flush=True)
    sys.stdin.readline()
    cluster.remove_node(node, allow_graceful=False)
    print("gone", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster of one node with one CPU, and another that comes and goes.

    Args:
        modules: Folder of modules that both find.
    """

    def __init__(self, modules: Path) -> None:
        self.modules = modules
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=modules,
            env=os.environ | LOOPBACK,
        )
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def add(self, modules: Path | None = None) -> int:
        """Start the second node, with these modules if any are given; the pid of its raylet."""
        return int(self._tell(str(modules or self.modules)))

    def kill(self) -> None:
        """Kill it."""
        self._tell("kill")

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path_factory.mktemp("modules"))
    yield cluster
    cluster.close()


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def start(address: str, module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a command on a cluster, in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        command(module, *arguments, "--executor", "ray"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | LOOPBACK | {"RAY_ADDRESS": address},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it said on stderr."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def local(module: str, *arguments: object) -> None:
    subprocess.run(command(module, *arguments), cwd=PROJECT, capture_output=True, check=True)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


GATED = """
import os, pathlib, time
import numpy as np

class Gated:
    \"\"\"Goes to the goal, but not before the gate is open; says which process it is in.\"\"\"
    name = "gated"
    env_options = {"control_mode": "ee"}

    def __init__(self, env_id):
        self.gate = pathlib.Path(__file__).parent

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        (self.gate / f"{os.getpid()}.pid").touch()
        while not (self.gate / "open").exists():
            time.sleep(0.02)
        return np.array([*obs["goal"][:2], 0.75], np.float32), None
"""


def test_nodes_change_nothing(nodes: Nodes, tmp_path: Path) -> None:
    # A path that means something only in the folder of the run, which is not the nodes'.
    policy = ("--policy", "examples/my_policy.py:MyPolicy", "--trust-code")
    mine = (*policy, "--env", ENV, "--episodes", 2, "--no-report")
    here, there = tmp_path / "here", tmp_path / "there"
    local("benchmark.run", *mine, "--out", here)
    nodes.add()
    errors = finish(start(nodes.address, "benchmark.run", *mine, "--out", there))
    nodes.kill()
    assert read(there)["episodes"] == read(here)["episodes"]
    assert (read(there)["workers"], read(there)["nodes"]) == (2, 2)
    assert read(here)["nodes"] == 1
    how, *bars = errors.splitlines()
    assert how.startswith(f"my policy in {ENV}: obs_mode rgb")
    assert bars
    assert all(line.startswith(f"{ENV}: ") for line in bars), "Ray is quiet"


def test_a_node_that_dies_in_the_middle_changes_nothing(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    gate = tmp_path / "open"
    policy = ("--policy", tmp_path / "gated.py:Gated", "--trust-code")
    gated = (*policy, "--env", ENV, "--episodes", 4, "--videos", 1, "--no-report")
    gate.touch()
    local("benchmark.run", *gated, "--out", tmp_path / "here")
    for file in (gate, *tmp_path.glob("*.pid")):
        file.unlink()
    raylet = nodes.add()
    process = start(nodes.address, "benchmark.run", *gated, "--out", tmp_path / "there")
    wait_for(lambda: plays_on(raylet, tmp_path), 120)
    for each in (raylet, *descendants(raylet)):  # all at once, as when a machine fails
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    nodes.kill()
    gate.touch()
    finish(process)
    here, there = read(tmp_path / "here"), read(tmp_path / "there")
    assert there["episodes"] == here["episodes"]
    assert there["workers_replaced"] == 1
    scores = [{**each["tasks"][ENV], "episodes_per_minute": None} for each in (here, there)]
    assert scores[0] == scores[1]
    [one], [other] = ([*(tmp_path / name / "videos").iterdir()] for name in ("here", "there"))
    assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())


def plays_on(raylet: int, gate: Path) -> bool:
    """Whether a process on this node waits at the gate."""
    waiting = {int(file.stem) for file in gate.glob("*.pid")}
    return not waiting.isdisjoint(descendants(raylet))


def test_a_collection_that_is_killed_ends_with_the_same_file(nodes: Nodes, tmp_path: Path) -> None:
    small = ("--env", ENV, "--episodes", 5, "--image-size", 16)
    here, there = tmp_path / "here.h5", tmp_path / "there.h5"
    local("experts.collect", *small, "--out", here)
    process = start(nodes.address, "experts.collect", *small, "--out", there)
    parts = there.with_name("there.h5.parts")
    wait_for(lambda: len(list(parts.glob("[0-9]*.h5"))) >= 2, 120)
    process.kill()
    process.communicate()
    assert not there.exists()
    finish(start(nodes.address, "experts.collect", *small, "--out", there))
    assert there.read_bytes() == here.read_bytes()


def test_a_node_with_other_code_is_refused(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import gymnasium as gym\n"
        "from komo_envs.registration import ENTRY_POINT\n"
        "task = {'task': 'komo_envs.tasks.push:Push'}\n"
        "gym.register('Elsewhere-v0', ENTRY_POINT, max_episode_steps=150, kwargs=task)\n"
    )
    (nodes.modules / "elsewhere.py").write_text(source)
    (tmp_path / "elsewhere.py").write_text(f"{source}# and more\n")
    monkeypatch.setenv("PYTHONPATH", str(nodes.modules))
    nodes.add(tmp_path)
    out = tmp_path / "out"
    zero = ("--policy", "zero", "--env", "elsewhere:Elsewhere-v0", "--episodes", 2, "--out", out)
    process = start(nodes.address, "benchmark.run", *zero)
    _, errors = process.communicate(timeout=120)
    nodes.kill()
    assert process.returncode == 2
    assert re.fullmatch(
        r"benchmark.run: --executor ray: node \S+ \(127.0.0.1\) has another elsewhere_sources: "
        r"[0-9a-f]{64} there, [0-9a-f]{64} here; expected the same on all nodes\n",
        errors,
    ), errors
    assert not out.exists()


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    expert = ("--policy", "expert", "--env", ENV, "--episodes", 50, "--workers", 2)
    process = start("local", "benchmark.run", *expert, "--out", tmp_path)
    log = tmp_path / "episodes.jsonl"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, 120)
    family = list(descendants(process.pid))
    assert listening(family)
    assert set(listening(family)) == {"127.0.0.1"}, "nobody else can reach it"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"the same command with --out {tmp_path} goes on" in errors.splitlines()[-1]
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in family))


def listening(family: list[int]) -> list[str]:
    """The IPv4 address of each TCP socket that processes listen on."""
    sockets = set()
    for each in family:
        for file in Path(f"/proc/{each}/fd").glob("*"):
            try:
                sockets.add(os.readlink(file))
            except OSError:  # closed meanwhile
                continue
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                last = bytes.fromhex(address.partition(":")[0][-8:])  # IPv4, also as mapped to IPv6
                found.append(".".join(str(byte) for byte in reversed(last)))
    return found


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    zero = ("--policy", "zero", "--env", ENV, "--episodes", 1, "--out", tmp_path / "out")
    process = start("127.0.0.1:1", "benchmark.run", *zero)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("benchmark.run: RAY_ADDRESS 127.0.0.1:1: ")
    assert errors.count("\n") == 1
    for module, arguments in (
        ("benchmark.run", zero),
        ("experts.collect", ("--env", ENV, "--episodes", 1, "--out", tmp_path / "x.h5")),
    ):
        without = (
            "import sys, runpy; sys.modules['ray'] = None; "
            f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        )
        words = [sys.executable, "-c", without, *map(str, arguments), "--executor", "ray"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, check=False)
        assert done.returncode == 2, module
        install = "pip install -e '.[ray]' -c constraints.txt"
        assert done.stderr == f"{module}: --executor ray needs ray: {install}\n"
    assert not list(tmp_path.iterdir())
