"""Kill a run and its workers at random moments.

Usage: ``python tests/tools/chaos.py TIMES [POLICY] [SEED]``.

Each kill -9 hits the run or one of its workers. A run that was hit is started again with the same
command, until it ends. Its episodes have to be those of a run that was left alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import workers_of

PROJECT = Path(__file__).parents[2]
PAUSE = (0.2, 2.0)
"""s until the next kill, at least and at most: it comes while imports run, or some episodes on."""


def command(policy: str, episodes: int, out: Path) -> list[str]:
    """Of a run with two workers with videos of two episodes."""
    words = ["--policy", policy, "--env", "KomoPush-v0", "--episodes", str(episodes)]
    words += ["--workers", "2", "--videos", "2", "--out", str(out)]
    return [sys.executable, "-m", "benchmark.run", "--no-report", *words]


def disturbed(run: list[str], times: int, rng: random.Random) -> Counter[str]:
    """Run a command to its end with so many kills on the way; returns how often what was hit."""
    hits: Counter[str] = Counter()
    while True:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = subprocess.Popen(run, cwd=PROJECT, text=True, **quiet)  # type: ignore[call-overload]
        while hits.total() < times:
            time.sleep(rng.uniform(*PAUSE))
            if process.poll() is not None:
                break
            workers = workers_of(process.pid)
            what = rng.choice(["run", "worker"]) if workers else "run"
            os.kill(rng.choice(workers) if what == "worker" else process.pid, signal.SIGKILL)
            hits[what] += 1
        _, errors = process.communicate(timeout=600)
        if process.returncode == 0:
            return hits
        assert process.returncode == -signal.SIGKILL, errors


def outcome(out: Path) -> dict[str, Any]:
    """What of a run must not depend on what happened to it."""
    result = json.loads((out / "result.json").read_text())
    scores = {
        env_id: {key: value for key, value in task.items() if key != "episodes_per_minute"}
        for env_id, task in result["tasks"].items()
    }
    videos = sorted(path.name for path in (out / "videos").iterdir())
    return {"episodes": result["episodes"], "tasks": scores, "videos": videos}


def main(times: str, policy: str = "expert", seed: str = "0") -> None:
    """The command."""
    with tempfile.TemporaryDirectory() as scratch:
        alone, hit = Path(scratch, "alone"), Path(scratch, "hit")
        episodes = 10 * int(times)
        subprocess.run(command(policy, episodes, alone), cwd=PROJECT, check=True)
        hits = disturbed(command(policy, episodes, hit), int(times), random.Random(int(seed)))
        replaced = json.loads((hit / "result.json").read_text())["workers_replaced"]
        same = outcome(hit) == outcome(alone)
    print(f"killed {dict(hits)}; {replaced} episodes lost a worker; the same result: {same}")
    sys.exit(not same or hits.total() != int(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
