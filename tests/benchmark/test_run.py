"""The run: the same result whatever happens to it, and one clear line when it cannot begin."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
from chaos import disturbed
from common import remount, small_disk, wait_for, workers_of

from benchmark.evaluation import rollout
from benchmark.evaluation.episode_log import EpisodeLog
from benchmark.evaluation.rollout import Evaluator
from benchmark.evaluation.session import folder_name
from benchmark.records.result import Setup
from experts import make_expert
from komo_envs.suite import ENVS, TEST
from komo_envs.utils.json_records import parse_json
from policies import load_policy
from policies.rollout import rollout as play

ROOT = Path(__file__).resolve().parents[2]
ENV = "KomoPush-v0"
EPISODES = 8


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmark.run", "--no-report", *map(str, arguments)]


def run(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=env, check=False
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


EXPERT = ("--policy", "expert", "--env", ENV, "--episodes", EPISODES)
ZERO = ("--policy", "zero", "--env", ENV)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the expert, with one worker, with a video of its first episode."""
    folder = tmp_path_factory.mktemp("undisturbed")
    score(folder, *EXPERT, "--workers", 1, "--videos", 1)
    return folder


def test_the_number_of_workers_and_videos_change_nothing(undisturbed, tmp_path):
    alone, together = read(undisturbed), score(tmp_path, *EXPERT, "--workers", 2)
    assert together["workers"] == 2
    assert together["episodes"] == alone["episodes"]  # distances too, to the last bit
    assert [e["seed"] for e in alone["episodes"]] == list(TEST[:EPISODES])
    assert alone["tasks"][ENV]["successes"] >= EPISODES - 1
    assert all(0 < e["distance"] < 0.5 and 1 < e["steps"] <= 150 for e in alone["episodes"])


def test_with_no_env_the_whole_suite_is_played(tmp_path):
    folder = tmp_path / "whole"
    done = run("--policy", "expert", "--episodes", 2, "--workers", 2, "--out", folder)
    assert done.returncode == 0, done.stderr
    result = read(folder)
    assert result["envs"] == list(result["tasks"]) == list(ENVS)
    for env_id in ENVS:
        assert result["tasks"][env_id]["successes"] == 2, done.stdout
        assert f"2 of 2 episodes of {env_id} (100.0%" in done.stdout

    # Each environment's episodes are what they are without the others.
    alone = ("--policy", "expert", "--env", ENVS[-1], "--episodes", 2, "--workers", 1)
    assert score(tmp_path / "alone", *alone)["episodes"] == result["episodes"][-2:]


def test_an_episode_depends_on_its_seed_alone(tmp_path):
    arguments = ("--policy", "random", "--env", "KomoShelf-v0")
    full = score(tmp_path / "a", *arguments, "--episodes", 4, "--workers", 1)["episodes"]
    seeds = f"{TEST[2]}:{TEST[4]}"
    part = score(tmp_path / "b", *arguments, "--seeds", seeds, "--workers", 2)["episodes"]
    assert part == full[2:]
    assert all(episode["failure"] == "timeout" for episode in full)

    # What a policy draws, too: random actions move no object far enough to tell by.
    env = gym.make("KomoShelf-v0", disable_env_checker=True)
    policy = load_policy("random", "KomoShelf-v0")

    def arm(seed):
        return [env.unwrapped.state.q.tolist() for _ in play(policy, env, seed)]

    first, other, again = arm(5), arm(6), arm(5)
    env.close()
    assert again == first
    assert other[1:] != first[1:]


def test_the_video_shows_the_episode(undisturbed):
    first = read(undisturbed)["episodes"][0]
    outcome = "success" if first["success_at_end"] else "failure"
    file = undisturbed / "videos" / f"{ENV}-{TEST[0]}-{outcome}.mp4"
    frames = imageio.imread(file)
    assert frames.shape == (first["steps"] + 1, 480, 640, 3)
    assert imageio.immeta(file)["fps"] == 10
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50  # something has moved


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_where_it_stopped(how, undisturbed, tmp_path):
    process = start(*EXPERT, "--workers", 2, "--out", tmp_path)
    wait_for(lambda: len(log_lines(tmp_path)) >= 4)
    workers = workers_of(process.pid)
    if how == signal.SIGKILL:
        process.kill()  # the run alone: its workers have to notice
    else:
        os.killpg(process.pid, how)  # what Ctrl-C does, or a scheduler
    _, errors = process.communicate(timeout=20)
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    assert not (tmp_path / "result.json").exists()
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert f"the same command with --out {tmp_path} goes on" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    setup, *entries = log_lines(tmp_path)
    entries = [json.dumps(json.loads(entry) | {"elapsed": 3600.0}) for entry in entries]
    finished = [setup, *entries]  # in an hour, as if it had been a long run
    half = '{"episode": {"env"'  # as a kill in the midst of a write leaves it
    (tmp_path / "episodes.jsonl").write_text("\n".join([*finished, half]))

    result = score(tmp_path, *EXPERT)
    assert result["episodes"] == read(undisturbed)["episodes"]
    assert 3600 < result["wall_seconds"] < 3700
    assert log_lines(tmp_path)[: len(finished)] == finished
    assert len(log_lines(tmp_path)) == 1 + EPISODES  # none was played twice


@pytest.mark.parametrize(
    "name", ["suite", "policy", "envs", "seeds", "videos", "versions", "machine"]
)
def test_a_run_does_not_go_on_with_another_setup(name, undisturbed, tmp_path):
    shutil.copy(undisturbed / "episodes.jsonl", tmp_path)
    setup = parse_json(Setup, log_lines(undisturbed)[0], "log")
    others = {
        "suite": "0.0",
        "policy": replace(setup.policy, sha256=64 * "0"),
        "envs": (ENV, "KomoPushPixels-v0"),
        "seeds": (TEST.start, TEST.start + EPISODES - 1),
        "videos": 2,
        "versions": setup.versions | {"benchmark_sources": 64 * "0"},
        "machine": setup.machine | {"cpu": "another"},
    }
    with pytest.raises(ValueError, match=f"holds a run with other {name}: .*another --out"):
        EpisodeLog(tmp_path, replace(setup, **{name: others[name]}))
    EpisodeLog(tmp_path, replace(setup, date="later", command="another way to say it")).close()


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (("--env", "KomoPushPixels-v0"), {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}, "EGL"),
        (("--env", ENV, "--videos", 1), {"IMAGEIO_FFMPEG_EXE": "/nonexistent"}, "VideoError"),
    ],
)
def test_a_broken_machine_is_not_the_policys_failure(arguments, environment, reason, tmp_path):
    zero = ("--policy", "zero", "--episodes", 1, *arguments)
    done = run(*zero, "--out", tmp_path, **environment)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2  # the first line says how the policy is played
    assert re.search(rf"stopped: .*seed {TEST[0]}.*{reason}.* 0 finished .*goes on", done.stderr)
    assert len(log_lines(tmp_path)) == 1  # the setup: nothing is held against the policy


def test_workers_that_cannot_start_end_the_run(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv: os._exit(7)\n"
    )
    done = run(*ZERO, "--episodes", 4, "--out", tmp_path / "out", PYTHONPATH=tmp_path)
    assert done.returncode == 1
    assert "stopped: a worker process ended with code 7 before it was ready" in done.stderr
    assert done.stderr.count("\n") == 2
    assert len(log_lines(tmp_path / "out")) == 1


def test_a_worker_that_dies_is_replaced(undisturbed, tmp_path):
    process = start(*EXPERT, "--workers", 2, "--out", tmp_path)
    wait_for(lambda: len(log_lines(tmp_path)) >= 2)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert read(tmp_path)["workers_replaced"] == 1
    assert read(tmp_path)["episodes"] == read(undisturbed)["episodes"]
    assert read(undisturbed)["workers_replaced"] == 0


def test_kills_at_random_moments_change_nothing(undisturbed, tmp_path):
    longer = command(*EXPERT[:-1], 40, "--workers", 2, "--out", tmp_path)
    assert disturbed(longer, 3, random.Random(0)).total() == 3
    assert read(tmp_path)["episodes"][:EPISODES] == read(undisturbed)["episodes"]


def test_a_full_or_read_only_disk_loses_nothing_that_was_finished(undisturbed, tmp_path):
    more = (*EXPERT[:-1], EPISODES + 4, "--workers", 1)
    with small_disk(tmp_path / "disk", "4k") as disk:
        full = run(*more, "--out", disk)
        kept = log_lines(disk)[: len(log_lines(disk)) - 1]  # the last one is not whole
        remount(disk, "ro")
        read_only = run(*more, "--out", disk)
        remount(disk, "rw,size=1m")
        again = run(*more, "--out", disk)
        assert again.returncode == 0, again.stderr
        assert log_lines(disk)[: len(kept)] == kept
        assert read(disk)["episodes"][:EPISODES] == read(undisturbed)["episodes"]
    assert 1 < len(kept) < EPISODES + 4
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    said = full.stderr.splitlines()[-1]
    assert f"No space left on device; {len(kept) - 1} finished episodes are kept" in said
    assert (read_only.returncode, read_only.stderr.count("\n")) == (2, 1)
    assert "cannot be written to: Read-only file system" in read_only.stderr


def test_an_episode_that_kills_every_worker_fails_and_the_run_ends(tmp_path):
    process = start(*ZERO, "--episodes", 1, "--out", tmp_path)
    killed: list[int] = []
    while len(killed) < 3:
        [worker] = wait_for(lambda: set(workers_of(process.pid)) - set(killed))
        # Not before it plays: then its simulation has a thread of its own.
        wait_for(lambda worker=worker: len(os.listdir(f"/proc/{worker}/task")) > 1)
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
    arguments = (*ZERO, "--episodes", 2, "--workers", 1, "--out", tmp_path)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=terminal, env=environment, cwd=ROOT
    )
    os.close(terminal)
    said = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while some := os.read(ours, 4096):
                said.extend(some)

    listener = threading.Thread(target=listen)
    listener.start()
    code = process.wait(timeout=120)
    listener.join(timeout=20)
    os.close(ours)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert code == 0, shown
    assert re.search(rf"{ENV} .* 0/2 starting 1 worker ", shown), shown
    assert re.search(rf"{ENV} .*━ 2/2 0\.0% success", shown), shown


def test_a_finished_run_goes_on_to_more_episodes(undisturbed, tmp_path):
    for name in ("episodes.jsonl", "result.json"):
        shutil.copy(undisturbed / name, tmp_path)
    (tmp_path / "report.html").write_text("of fewer episodes")
    more = (*EXPERT[:-1], EPISODES + 1, "--videos", 1, "--workers", 1, "--out", tmp_path)
    done = run(*more)
    assert done.returncode == 0, done.stderr
    result, before = read(tmp_path), read(undisturbed)
    assert result["seeds"] == [TEST.start, TEST.start + EPISODES + 1]
    assert result["episodes"][:-1] == before["episodes"]
    assert log_lines(tmp_path)[1:-1] == log_lines(undisturbed)[1:]
    assert not (tmp_path / "report.html").exists()
    assert "nothing to do" in run(*more).stdout
    fewer = run(*EXPERT, "--videos", 1, "--out", tmp_path)
    assert fewer.returncode == 2
    assert "holds a run with other seeds" in fewer.stderr


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("expert", "expert"),
        ("policies/pretrained/push", "push"),
        ("pretrained:push", "push"),
        ("students/push/seed0", "push-seed0"),
        ("rl/push/seed1/policy.zip", "push-seed1"),
        ("push.zip", "push"),
        ("student.onnx", "student"),
        ("examples/my_policy.py:MyPolicy", "MyPolicy"),
        ("tcp://127.0.0.1:5555", "my-policy-1"),
    ],
)
def test_the_folder_of_a_run_is_called_after_its_policy(spec, name):
    assert folder_name(spec, "my policy/1") == name


def test_a_finished_run_is_not_played_again_nor_overwritten(undisturbed):
    before = (undisturbed / "result.json").read_bytes()
    same = run(*EXPERT, "--videos", 1, "--out", undisturbed)
    assert same.returncode == 0, same.stderr
    assert "nothing to do" in same.stdout
    other = run(*ZERO, "--episodes", EPISODES, "--videos", 1, "--out", undisturbed)
    assert other.returncode == 2
    assert "holds a run with other policy" in other.stderr
    assert "Traceback" not in other.stderr
    assert (undisturbed / "result.json").read_bytes() == before


def test_scores_that_cannot_be_printed_are_kept(undisturbed):
    again = command(*EXPERT, "--videos", 1, "--out", undisturbed)
    with open("/dev/full", "w") as full:
        done = subprocess.run(again, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "result.json is complete, but cannot be printed: No space left" in done.stderr
    ours, theirs = os.pipe()
    os.close(ours)  # a reader that has gone
    done = subprocess.run(again, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


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
        (("--policy", ""), "run: --policy: expected a value, got ''"),
        (("--policy", "zero", "--out="), "run: --out: expected a value, got ''"),
        (
            ("--policy", "policies/pretrained/push", "--device", "gpu"),
            "--device gpu: expected cpu, cuda or cuda:N$",
        ),
        (("--policy", "push"), "did you mean pretrained:push[?]"),
        (
            ("--policy", "policies/pretrained/shlef"),
            "there are push, .*, shelf-hard; did you mean shelf[?]",
        ),
        (
            ("--policy", "pretrained:shlef"),
            "expected pretrained: and one of push, .*, shelf-hard; did you mean shelf[?]",
        ),
        (("--policy", "zero", "--env", "komopush-v0"), "did you mean KomoPush-v0[?]"),
        (
            ("--policy", "zero", "--backend", "botop", "--lab", "no.json"),
            "run: no.json: No such",
        ),
        (("--policy", "expert", "--device", "cuda"), "--device cuda: expected cpu with 'expert'"),
        (("--policy", "zero", "--seeds=1:2", "--seeds", "1:3"), "--seeds: given 2 times"),
        (("--policy", "zero", "--env", "--episodes", "1"), "--env: expected one id or more"),
        (("--policy", "genius"), "policy 'genius': expected expert, random, zero, pretrained:"),
        (("--policy", "tests"), "policy 'tests': is no checkpoint: the folder has no"),
        (("--policy", "zero", "--env", "KomoPull-v0"), "--env KomoPull-v0: no such environment"),
        (("--policy", "zero", "--env", "CartPole-v1"), "--env CartPole-v1: is registered with "),
        (("--policy", "zero", "--env", ENV, ENV), f"--env {ENV}: named 2 times"),
        (("--policy", "zero", "--env", ENV, "--env", ENV), f"--env {ENV}: named 2 times"),
        (("--policy", "zero", "--env", f"komo_envs:{ENV}", ENV), f"--env {ENV}: named 2 times"),
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
def test_a_wrong_command_is_refused_in_one_line(arguments, reason, tmp_path, command):
    if not any(word.startswith("--out") for word in arguments):
        arguments = (*arguments, "--out", tmp_path / "out")
    done = command("benchmark.run", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(reason, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "Missing from python -m benchmark.run: .*--policy STR"),
        (("--policy", "zero", "--episode", "3"), "Unrecognized options: --episode.*--episodes INT"),
        (("--policy", "zero", "--episodes", "many"), "parsing --episodes: .* INT .*'many'"),
        (
            ("--policy", "zero", "--backend", "moon"),
            "choice 'moon' for argument '--backend'.*'sim'",
        ),
    ],
)
def test_what_cannot_be_parsed_is_named(arguments, reason, command):
    """The parser's own message names the option, the value and what was expected."""
    done = command("benchmark.run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    said = " ".join(done.stderr.replace("│", "").split())
    assert re.search(reason, said), done.stderr


def test_help_is_for_readers(command):
    for module in ("benchmark.run", "benchmark.compare", "benchmark.data_scaling"):
        done = command(module, "--help")
        assert done.returncode == 0
        assert f"Example: python -m {module} " in done.stdout
        assert "None}" not in done.stdout
    ours, theirs = os.pipe()
    os.close(ours)  # a reader that has gone
    words = [sys.executable, "-m", "benchmark.compare", "--help"]
    done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_error_is_plain_in_any_locale(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": 0, "PYTHONCOERCECLOCALE": 0}
    done = run("--policy", "zero", "--workers", "1.5", "--out", tmp_path, **ascii_only)
    assert done.returncode == 2
    assert "Error parsing --workers: no type matching INT" in done.stderr
    assert done.stderr.isascii()


def test_ids_may_follow_one_env_or_many(tmp_path):
    ids = ["KomoPush-v0", "KomoPushPixels-v0", "KomoPushFixed-v0"]
    zero = ("--policy", "zero", "--episodes", 1, "--env", *ids[:2], "--env", ids[2])
    done = run(*zero, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("Result:")[0]
    assert all(len(line) <= 80 for line in table.splitlines())
    for env_id in ids:
        assert f"\n{env_id} " in table
        assert f"\n{env_id}: 1 x timeout\n" in table
    assert list(read(tmp_path)["tasks"]) == ids
    assert read(tmp_path)["command"].endswith("--env KomoPushFixed-v0 --out DIR")


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
        (Faulty("NaN"), "error: ActionError: action: expected finite numbers, .*", 5),
        (Faulty(None), "timeout", 150),
        (Faulty(None, "gave up"), "gave up", 150),
        (Faulty("raises", "gave up"), "error: KeyError: 'what I forgot'", 5),
    ],
)
def test_a_failed_episode_says_why_and_the_next_is_untouched(
    policy, failure, steps, tmp_path, monkeypatch
):
    evaluator = Evaluator("expert", tmp_path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "load_policy", lambda *_: policy)
            episode = evaluator.run(ENV, TEST[0])
            again = evaluator.run(ENV, TEST[0])
    finally:
        evaluator.close()
    assert re.fullmatch(failure, episode.failure)
    assert (episode.steps, episode.success_once, episode.success_at_end) == (steps, False, False)
    assert 0.05 < episode.distance < 0.5
    assert set(episode.scene) == {"puck", "target"}
    assert again == episode


class Spoiler:
    """The expert, until it has succeeded; then the puck is shoved on."""

    privileged = True

    def __init__(self) -> None:
        self._expert = make_expert(ENV)

    def attach(self, env):
        self._env = env.unwrapped
        self._expert.attach(env)

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        if episode_start[0]:
            self._shove = None
        gap = np.linalg.norm(obs["achieved_goal"][:2] - obs["desired_goal"][:2])
        if self._shove is None and gap < 0.02 and obs["achieved_goal"][2]:
            tip, puck = obs["observation"][14:17], obs["observation"][27:29]
            away = (puck - tip[:2]) / np.linalg.norm(puck - tip[:2])
            self._shove = np.array([*(puck + 0.1 * away), tip[2]])
        if self._shove is not None:
            space = self._env.action_space
            return np.clip(self._shove, space.low, space.high), state
        return self._expert.predict(obs, state, episode_start)


def test_success_once_is_not_success_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(rollout, "load_policy", lambda *_: Spoiler())
    evaluator = Evaluator("expert", tmp_path)
    episode = evaluator.run(ENV, TEST[0])
    evaluator.close()
    assert episode.distance > 0.03
    assert (episode.success_once, episode.success_at_end) == (True, False)
    assert episode.failure == "timeout"
