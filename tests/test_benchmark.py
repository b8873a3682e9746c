"""The run: the same result whatever happens to it, and one clear line when it cannot begin."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from benchmark import rollout
from benchmark.protocol import TEST
from benchmark.rollout import Player

ROOT = Path(__file__).resolve().parent.parent
ENV = "KomoPush-v0"
EPISODES = 8


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmark.run", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, check=False
    )


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a run in a process group of its own, as a terminal does."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*arguments), stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True
    )


def score(folder: Path, *arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--out", folder)
    assert done.returncode == 0, done.stderr
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def log_lines(folder: Path) -> list[str]:
    log = folder / "episodes.jsonl"
    return log.read_text().splitlines() if log.exists() else []


def wait_for(condition, seconds: float = 60) -> Any:
    """What ``condition()`` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def workers_of(pid: int) -> list[int]:
    """The worker processes of a run that are alive."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


EXPERT = ("--policy", "expert", "--episodes", EPISODES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the expert, with one worker, that filmed its first episode."""
    folder = tmp_path_factory.mktemp("undisturbed")
    score(folder, *EXPERT, "--workers", 1, "--videos", 1)
    return folder


def test_the_number_of_workers_and_filming_change_nothing(undisturbed, tmp_path):
    alone, together = read(undisturbed), score(tmp_path, *EXPERT, "--workers", 2)
    assert together["workers"] == 2
    assert together["episodes"] == alone["episodes"]  # distances too, to the last bit
    assert [e["seed"] for e in alone["episodes"]] == list(TEST[:EPISODES])
    assert alone["tasks"][ENV]["successes"] >= EPISODES - 1
    assert all(0 < e["distance"] < 0.5 and 1 < e["steps"] <= 150 for e in alone["episodes"])


def test_an_episode_depends_on_its_seed_alone(tmp_path):
    arguments = ("--policy", "random", "--env", ENV)
    full = score(tmp_path / "a", *arguments, "--episodes", 4, "--workers", 1)["episodes"]
    seeds = f"{TEST[2]}:{TEST[4]}"
    part = score(tmp_path / "b", *arguments, "--seeds", seeds, "--workers", 2)["episodes"]
    assert part == full[2:]
    assert len({episode["distance"] for episode in full}) == 4
    assert all(episode["failure"] == "timeout" for episode in full)


def test_the_video_shows_the_episode(undisturbed):
    first = read(undisturbed)["episodes"][0]
    outcome = "success" if first["success_at_end"] else "failure"
    [file] = (undisturbed / "videos").iterdir()
    assert file.name == f"{ENV}-{TEST[0]}-{outcome}.mp4"
    frames = imageio.imread(file)
    assert frames.shape == (first["steps"] + 1, 480, 640, 3)
    assert imageio.immeta(file)["fps"] == 10
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50  # something has moved


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_where_it_stopped(how, undisturbed, tmp_path):
    process = start(*EXPERT, "--workers", 2, "--out", tmp_path)
    wait_for(lambda: len(log_lines(tmp_path)) >= 4)
    workers = workers_of(process.pid)
    if how == signal.SIGKILL:
        process.kill()  # the run alone: its workers have to notice
    else:
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    _, errors = process.communicate(timeout=20)
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    assert not (tmp_path / "result.json").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"the same command with --out {tmp_path} goes on" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    finished = log_lines(tmp_path)
    with (tmp_path / "episodes.jsonl").open("a") as log:
        log.write('{"episode": {"env"')  # half a line, as a kill in the midst of a write leaves

    assert score(tmp_path, *EXPERT)["episodes"] == read(undisturbed)["episodes"]
    assert log_lines(tmp_path)[: len(finished)] == finished
    assert len(log_lines(tmp_path)) == 1 + EPISODES  # none was played twice


def test_a_worker_that_dies_is_replaced(undisturbed, tmp_path):
    process = start(*EXPERT, "--workers", 2, "--out", tmp_path)
    wait_for(lambda: len(log_lines(tmp_path)) >= 2)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert read(tmp_path)["workers_replaced"] == 1
    assert read(tmp_path)["episodes"] == read(undisturbed)["episodes"]
    assert read(undisturbed)["workers_replaced"] == 0


def test_an_episode_that_kills_every_worker_fails_and_the_run_ends(tmp_path):
    process = start("--policy", "zero", "--episodes", 1, "--out", tmp_path)
    killed: list[int] = []
    while len(killed) < 3:
        [worker] = wait_for(lambda: [w for w in workers_of(process.pid) if w not in killed])
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    [episode] = read(tmp_path)["episodes"]
    assert episode["failure"] == "error: 3 worker processes died, the last one with signal 9"
    assert not episode["success_at_end"]
    assert read(tmp_path)["workers_replaced"] == 3


def test_a_terminal_sees_a_bar_with_the_success_rate(tmp_path):
    ours, terminal = os.openpty()
    arguments = ("--policy", "zero", "--episodes", 2, "--workers", 1, "--out", tmp_path)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        command(*arguments), stdout=subprocess.PIPE, stderr=terminal, env=environment, cwd=ROOT
    )
    os.close(terminal)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(ours, 1 << 20).decode())
    os.close(ours)
    assert done.returncode == 0, shown
    assert re.search(rf"{ENV} .*━ 2/2 0\.0% success", shown), shown


def test_a_finished_run_is_not_played_again_nor_overwritten(undisturbed):
    before = (undisturbed / "result.json").read_bytes()
    same = run(*EXPERT, "--videos", 1, "--out", undisturbed)
    assert same.returncode == 0, same.stderr
    assert "nothing to do" in same.stdout
    other = run("--policy", "zero", "--episodes", EPISODES, "--videos", 1, "--out", undisturbed)
    assert other.returncode == 2
    assert "holds a run with other policy" in other.stderr
    assert "Traceback" not in other.stderr
    assert (undisturbed / "result.json").read_bytes() == before


def test_two_runs_cannot_share_a_folder(tmp_path):
    process = start(*EXPERT, "--out", tmp_path)
    wait_for(lambda: log_lines(tmp_path))
    second = run(*EXPERT, "--out", tmp_path)
    process.kill()
    process.communicate(timeout=20)
    assert second.returncode == 2
    assert "another run is writing there" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "--policy"),
        (("--policy", "zero", "--frames", "3"), "--frames"),
        (("--policy", "zero", "--episodes", "many"), "--episodes: .*'many'"),
        (("--policy", "genius"), "policy 'genius': expected expert, random, zero or a path"),
        (("--policy", "tests"), "policy 'tests': folders cannot be scored by this version"),
        (("--policy", "zero", "--env", "KomoPull-v0"), "--env KomoPull-v0: no such environment"),
        (("--policy", "zero", "--env", "CartPole-v1"), "--env CartPole-v1: no such environment"),
        (("--policy", "zero", "--env", ENV, ENV), f"--env {ENV}: named 2 times"),
        (("--policy", "zero", "--seeds", "1-5"), "--seeds 1-5: expected A:B"),
        (("--policy", "zero", "--seeds", "5:5"), "--seeds 5:5: expected A:B with 0 <= A < B"),
        (("--policy", "zero", "--seeds", "0:9999999999"), "--seeds 0:9999999999: expected A:B"),
        (("--policy", "zero", "--episodes", "0"), "--episodes 0: expected 1 to 10000"),
        (
            ("--policy", "zero", "--seeds", "0:3", "--episodes", "4"),
            "--episodes 4: expected 1 to 3",
        ),
        (("--policy", "zero", "--workers", "0"), "--workers 0: expected 1 or more"),
        (("--policy", "zero", "--episodes", "2", "--videos", "3"), "--videos 3: expected 0 to 2"),
        (("--policy", "zero", "--out", "/proc/no"), "--out /proc/no: cannot be written to"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(arguments, reason, tmp_path):
    done = run(*arguments, *(() if "--out" in arguments else ("--out", tmp_path / "out")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(reason, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


class Faulty:
    """A policy that does nothing at first, then the wrong thing."""

    def __init__(self, fault: str | None, reason: str | None = None) -> None:
        self.fault = fault
        self.failure = reason
        self.steps = 0

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        self.steps = 1 if episode_start[0] else self.steps + 1
        action = np.array([0.0, 0.2, 0.77], np.float32)
        if self.steps > 5 and self.fault == "raises":
            raise KeyError("what I forgot")
        if self.steps > 5 and self.fault == "NaN":
            action[1] = np.nan
        return action, state


@pytest.mark.parametrize(
    ("policy", "failure", "steps"),
    [
        (Faulty("raises"), "error: KeyError: 'what I forgot'", 5),
        (Faulty("NaN"), "error: ValueError: .*", 5),
        (Faulty(None), "timeout", 150),
        (Faulty(None, "gave up"), "gave up", 150),
        (Faulty("raises", "gave up"), "error: KeyError: 'what I forgot'", 5),
    ],
)
def test_a_failed_episode_says_why_and_the_next_is_untouched(
    policy, failure, steps, tmp_path, monkeypatch
):
    player = Player("expert", tmp_path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "load_policy", lambda *_: policy)
            episode = player.play(ENV, TEST[0])
            again = player.play(ENV, TEST[0])
    finally:
        player.close()
    assert re.fullmatch(failure, episode.failure)
    assert (episode.steps, episode.success_once, episode.success_at_end) == (steps, False, False)
    assert 0.05 < episode.distance < 0.5
    assert set(episode.scene) == {"puck", "target"}
    assert again == episode
