"""What a run leaves behind: statistics and result files; and who may read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import run_module

from benchmark.data_scaling import lines_of, means_in_words
from benchmark.evaluation.protocol import choose_seeds, split_of
from benchmark.records.result import Episode, load_result, save_result, score
from komo_envs.provenance import commit
from komo_envs.suite import ENVS, TEST, TRAIN, VALIDATION
from komo_envs.utils.stats import wilson

ROOT = Path(__file__).resolve().parents[2]
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")


def test_wilson_intervals_are_the_published_ones():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for counts, interval in published.items():
        assert wilson(*counts) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(counts):
    with pytest.raises(ValueError, match="impossible"):
        wilson(*counts)


def test_seeds_are_disjoint_and_the_first_test_seeds_are_the_default():
    splits = sorted((TRAIN, VALIDATION, TEST), key=lambda split: split.start)
    assert all(a.stop <= b.start for a, b in pairwise(splits))
    assert choose_seeds(None, None) == TEST[:500]
    assert choose_seeds(None, 600) == TEST[:600]
    assert choose_seeds("5:9", None) == range(5, 9)
    assert choose_seeds("5:9", 2) == range(5, 7)
    assert split_of(range(5, 9)) == "train"
    assert split_of(TEST) == "test"
    assert split_of(range(TRAIN.stop - 1, TRAIN.stop + 1)) is None


def test_score_counts_success_at_the_end_and_failures_by_reason():
    def episode(seed: int, end: bool, distance: float | None, steps: int, failure: str | None):
        return Episode(ENVS[0], seed, {}, end or seed == 1, end, distance, steps, failure)

    episodes = [
        episode(0, True, 0.005, 10, None),
        episode(1, False, 0.03, 30, "timeout"),
        episode(2, False, 0.2, 20, "timeout"),
        episode(3, False, None, 0, "error: ValueError: no"),
    ]
    task = score(episodes, minutes=2)
    assert (task.episodes, task.successes, task.successes_once) == (4, 1, 2)
    assert task.success_rate == 0.25
    assert task.ci95 == wilson(1, 4)
    assert task.within == {"0.01": 0.25, "0.02": 0.25, "0.05": 0.5}
    assert task.steps_median == 15
    assert task.failures == {"timeout": 2, "error: ValueError: no": 1}
    assert task.episodes_per_minute == 2


def test_a_result_survives_writing_and_reading(result_file, tmp_path):
    result = load_result(result_file)
    assert [episode.seed for episode in result.episodes] == 2 * list(TEST[:4])
    save_result(result, tmp_path / "again.json")
    assert load_result(tmp_path / "again.json") == result
    assert (tmp_path / "again.json").read_bytes() == result_file.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again.json"]


def test_a_result_names_what_it_was_made_with_and_no_host(result_file):
    text = result_file.read_text()
    result = load_result(result_file)
    assert result.policy.spec == "zero"
    assert not result.policy.privileged
    assert {"python", "robotic", "numpy"} <= set(result.versions)
    hashes = {f"{package}_sources" for package in ("komo_envs", "policies", "benchmark")}
    assert hashes <= set(result.versions)
    assert {"platform", "cpu", "cores", "memory_gib", "renderer"} == set(result.machine)
    assert f'"{socket.gethostname()}"' not in text
    assert str(result_file.parent) not in text
    assert result.command.endswith("--episodes 4 --out DIR")


def _set(path: str, value: object):
    """An edit of a result: set the entry at a dotted path."""

    def edit(data: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key)] if isinstance(data, list) else data[key]
        data[last] = value

    return edit


TAMPERED = {
    "a later schema": (_set("schema", 3), "schema: .*2, got 3"),
    "an earlier schema": (_set("schema", 1), "schema: .*2, got 1"),
    "a word for a number": (_set("workers", "two"), "workers: .*integer.*got 'two'"),
    "an unknown field": (_set("sponsor", "me"), "sponsor: "),
    "a field left out": (lambda data: data.pop("versions"), "versions: Field required"),
    "a success made up": (_set("tasks.KomoPush-v0.successes", 1), "tasks.KomoPush-v0.successes"),
    "a rate made up": (_set("tasks.KomoPush-v0.success_rate", 0.9), ".*success_rate: .*got 0.9"),
    "no time taken": (
        _set("tasks.KomoPush-v0.episodes_per_minute", 0.0),
        ".*positive number, got 0.0",
    ),
    "a success that never was": (
        lambda data: data["episodes"][0].update(success_at_end=True, failure=None),
        "episodes.0: .*success_once",
    ),
    "a failure without a reason": (_set("episodes.0.failure", None), "episodes.0: .*failure: "),
    "a negative distance": (_set("episodes.0.distance", -0.1), "episodes.0.distance: "),
    "negative steps": (_set("episodes.0.steps", -1), "episodes.0.steps: "),
    "no workers": (_set("workers", 0), "workers: "),
    "negative videos": (_set("videos", -1), "videos: "),
    "no time in all": (_set("wall_seconds", 0.0), "wall_seconds: "),
    "no hash": (_set("policy.sha256", ""), "policy.sha256: "),
    "no versions": (_set("versions", {}), "versions: "),
    "an infinite distance": (_set("episodes.0.distance", float("inf")), "episodes.0.distance"),
    "an episode twice": (_set("episodes.1.seed", TEST.start), "episodes: expected one for every"),
    "an episode left out": (lambda data: data["episodes"].pop(), "episodes: expected one"),
    "no seeds at all": (_set("seeds", [5, 5]), "episodes: expected one for every"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_result_that_is_not_whole_is_refused(case, result_file, tmp_path):
    edit, reason = TAMPERED[case]
    data = json.loads(result_file.read_text())
    edit(data)
    file = tmp_path / "tampered.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"tampered.json: {reason}"):
        load_result(file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": 1}'])
def test_what_is_no_result_is_refused(content, tmp_path):
    file = tmp_path / "other.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.json: "):
        load_result(file)


def test_the_commit_is_that_of_the_code_whatever_git_is_told(monkeypatch):
    expected = commit()
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert commit() == expected


@needs_git
def test_the_commit_of_another_owners_checkout_is_recorded(tmp_path, monkeypatch):
    """Git's own tests pretend with this variable that every checkout is of another owner."""
    expected, git = commit(), tmp_path / "git"
    real = shutil.which("git")
    git.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    refused = subprocess.run(["git", "-C", ROOT, "status"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert commit() == expected is not None
    git.write_text("#!/bin/sh\necho fatal: no luck >&2; exit 128\n")
    with pytest.warns(UserWarning, match="no commit is recorded for .*: fatal: no luck"):
        assert commit() is None


@needs_git
def test_a_checkout_has_the_same_bytes_whatever_git_does_with_line_ends(tmp_path):
    for name in ("true", "false"):
        clone = ["git", "clone", "-q", "-c", f"core.autocrlf={name}", str(ROOT), tmp_path / name]
        subprocess.run(clone, check=True)
    files = [file for file in (tmp_path / "false").rglob("*") if file.is_file()]
    files = [name for f in files if (name := f.relative_to(tmp_path / "false")).parts[0] != ".git"]
    assert Path("setup.sh") in files
    for file in files:
        assert (tmp_path / "true" / file).read_bytes() == (tmp_path / "false" / file).read_bytes()
    subprocess.run(["bash", "-n", tmp_path / "true" / "setup.sh"], check=True)


def test_speed_finds_out_first_whether_it_can_write():
    done = run_module("speed", "--out", "/proc/speed.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--out /proc/speed.json: cannot be written to" in done.stderr


def test_speed_measures_every_mode_and_the_experts_of_both_tasks(tmp_path):
    file = tmp_path / "speed.json"
    done = run_module(
        "speed", "--rounds", 1, "--steps", 20, "--num-envs", 1, 2, "--episodes", 2, "--out", file
    )
    assert done.returncode == 0, done.stderr
    envs = json.loads(file.read_text())["envs"]
    assert list(envs) == ["KomoPush-v0", "KomoShelf-v0"]
    for env_id, speed in envs.items():
        assert list(speed["steps"]) == ["state", "rgb 96", "rgb 128", "rgbd 96", "rgbd 128"]
        for mode, numbers in speed["steps"].items():
            assert numbers["physics_ms"] > 0
            assert (numbers["rendering_ms"] > 0) == (mode != "state")
            assert numbers["overhead_ms"] > 0
            assert numbers["steps_per_second"] == pytest.approx(1000 / numbers["step_ms"])
        for numbers in speed["vectors"].values():
            assert list(numbers) == ["1", "2"]
            assert all(numbers[number][kind] > 0 for number in "12" for kind in ("sync", "async"))
        expert = speed["expert"]
        assert 1 < expert["first_plan_ms"] <= expert["first_plan_ms_95"]
        assert expert["first_plan_ms"] <= expert["planning_ms"] + 1e-9
        assert expert["plans"] >= 1
        assert speed["students"]
        for student in speed["students"].values():
            assert 0 < student["predicting"] < 1
            assert 0 < student["chunk_ms_in_batch"] < student["chunk_ms"]
        rate = speed["steps"]["rgb 96"]["steps_per_second"]
        assert re.search(rf"{env_id} +rgb 96 +{rate:.0f} ", done.stdout)
        assert re.search(rf"{env_id} +{expert['first_plan_ms']:.0f} ", done.stdout)


def test_data_scaling_is_plotted_of_students_alone(tmp_path):
    results, out = ROOT / "benchmark" / "results", tmp_path / "curve.png"
    students = sorted(results.glob("*-rgb-*/result.json"))
    done = run_module("data_scaling", *students, "--out", out)
    assert done.returncode == 0, done.stderr
    name = "ResNet-18 RGB, transformer, preset light, 3000 steps"
    assert re.search(rf"KomoPush-v0: {name}  100: 55\.4%.*  1300: .*\n", done.stdout)
    # Three seeds are one point, their mean; each is a dot.
    seeds = [load_result(file) for file in results.glob("KomoPush-v0-rgb-*-1300-?/result.json")]
    [(_, points)] = lines_of(seeds).items()
    assert [count for count, *_ in points] == [1300] * 3
    assert means_in_words(points) == ["1300: 98.9% (3 seeds)"]
    assert out.read_bytes().startswith(b"\x89PNG")
    refused = run_module(
        "data_scaling", results / "expert" / "result.json", "--out", tmp_path / "no.png"
    )
    assert refused.returncode == 2
    assert "expert was not trained on demonstrations" in refused.stderr
    assert not (tmp_path / "no.png").exists()
