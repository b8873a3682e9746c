"""Two policies compared: the statistics against published numbers, the command on real results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import PROJECT

from benchmark.records.result import load_result, save_result, score
from benchmark.reporting.sim_vs_real import mmrv, pearson
from komo_envs.utils.stats import barnard, holm, mcnemar, newcombe, newcombe_paired

RESULTS = PROJECT / "benchmark" / "results"
EXPERT = RESULTS / "expert" / "result.json"
RANDOM = RESULTS / "random" / "result.json"


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def test_statistics_are_the_published_ones():
    # Newcombe 1998, table II, method 10, examples (a) and (d).
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(5, 56, 0, 29) == pytest.approx((-0.0381, 0.1926), abs=5e-5)
    # Barnard 1945's own table, 3 of 3 against 0 of 3: p = 1/32 where both rates are 1/2.
    assert barnard(3, 3, 0, 3) == pytest.approx(1 / 32, abs=1e-6)
    assert barnard(5, 5, 9, 9) == 1
    assert mcnemar(9, 0) == pytest.approx(2 / 2**9)
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1
    # Holm 1979: the least of three counts thrice, and no later one less than an earlier one.
    assert holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1, 1]


@pytest.mark.parametrize("shares", [(0.1, 0.05, 0.7, 0.15), (0.008, 0.0, 0.99, 0.002)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(shares):
    rng = np.random.default_rng(1)
    inside, only_a, only_b = 0, shares[0], shares[1]
    for a, b, both, neither in rng.multinomial(500, shares, 1000).tolist():
        low, high = newcombe_paired(both, a, b, neither)
        inside += low <= only_a - only_b <= high
    assert 0.935 <= inside / 1000 <= 0.995


def test_an_interval_has_a_width_even_where_nothing_varies():
    low, high = newcombe_paired(500, 0, 0, 0)
    assert low == pytest.approx(-high)
    assert 0 < high < 0.02, "never having differed, they may still differ a little"
    low, high = newcombe_paired(0, 500, 0, 0)
    assert 0.98 < low < high == 1
    # As the test, it does not find a difference in four scenes.
    assert newcombe_paired(496, 4, 0, 0)[0] < 0 < 0.05 < mcnemar(4, 0)


def test_two_results_are_compared_scene_by_scene(tmp_path):
    picture = tmp_path / "curves.png"
    done = compare(EXPERT, RANDOM, "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "A: expert\nB: random" in done.stdout
    [row] = [line for line in done.stdout.splitlines() if line.startswith("KomoShelfHard-v0")]
    assert row.split()[1:3] == ["99.2%", "0.0%"]
    assert row.split()[-3:-1] == ["496", "0"]
    assert "On KomoPush-v0, A solves 100.0 points more than B" in done.stdout
    assert "its p corrected for 4 comparisons (Holm)" in done.stdout
    assert imageio.imread(picture).std() > 10
    turned = compare(RANDOM, EXPERT)
    assert "On KomoPush-v0, B solves 100.0 points more than A" in turned.stdout
    same = compare(EXPERT, EXPERT)
    assert same.stdout.count("does not show that they differ") == 4


def test_counts_are_compared_too():
    done = compare("47/50", "40/50")
    assert done.returncode == 0, done.stderr
    assert "A solves 14.0 points more than B, 95 % interval 0.5 to 27.6" in done.stdout
    assert "Barnard's exact test" in done.stdout


def fields(**changed: Any) -> Any:
    return lambda result: {**result, **changed}


def other_scene(result: Any) -> Any:
    result["episodes"][7]["scene"]["puck"][0] += 1e-6
    return result


def other_seeds(result: Any) -> Any:
    [first, *_] = result["envs"]
    task, episodes = result["tasks"][first], result["episodes"]
    result = {**result, "envs": [first], "tasks": {first: task}, "seeds": [2000500, 2001000]}
    moved = [{**episode, "seed": episode["seed"] + 500} for episode in episodes[:500]]
    return {**result, "episodes": moved}


def test_scenes_that_only_one_has_played_are_left_out(tmp_path, command):
    full = load_result(EXPERT)
    first, end = full.seeds[0] + 100, full.seeds[0] + 120
    episodes = tuple(each for each in full.episodes if first <= each.seed < end)
    tasks = {
        env_id: score([each for each in episodes if each.env == env_id], 1) for env_id in full.envs
    }
    part = tmp_path / "part.json"
    save_result(replace(full, seeds=(first, end), episodes=episodes, tasks=tasks), part)
    done = command("benchmark.compare", part, RANDOM, "--plot", tmp_path / "curves.png")
    assert done.returncode == 0, done.stderr
    said = "over the 20 scenes that both have played (A has 20, B has 500; the others are left out)"
    assert done.stdout.count(said) == 4
    [row] = [line for line in done.stdout.splitlines() if line.startswith("KomoPush-v0")]
    assert row.split()[1:3] == ["100.0%", "0.0%"]
    assert row.split()[-3:-1] == ["20", "0"]
    assert imageio.imread(tmp_path / "curves.png").std() > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fields(suite="0.1"), "suite: 0.2 and 0.1; expected the same"),
        (other_seeds, "seeds: 2000000:2000500 and 2000500:2001000 have none in common"),
        (fields(versions={"robotic": "0.0.1"}), "versions.robotic: "),
        (other_scene, "KomoPush-v0, seed 2000007: the scenes differ"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, command, change, message):
    file: Path = tmp_path / "other.json"
    file.write_text(json.dumps(change(json.loads(RANDOM.read_text()))))
    done = command("benchmark.compare", EXPERT, file)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("51/50", "40/50"), "51/50: expected K/N"),
        (("40/50", EXPERT), "one environment; it has 4"),
        (("40/50", "nothing.json"), "nothing.json: there is no such file; expected a result file"),
        (("40/50", EXPERT.parent), "is a folder; expected a result file"),
        (("40/50", "41/50", "--plot", "x.png"), "expected two result files"),
        ((EXPERT, RANDOM, "--plot", "x.pdf"), "ends in .png"),
    ],
)
def test_bad_arguments_are_one_clear_error(command, arguments, message):
    done = command("benchmark.compare", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_one_backend_is_compared_with_another(tmp_path):
    # Li et al. 2024: a pair in the wrong order costs each of the two what it is apart in reality.
    assert mmrv(np.array([[0.9, 0.8], [0.5, 0.4], [0.1, 0.2]])) == 0
    assert mmrv(np.array([[0.9, 0.4], [0.5, 0.8], [0.1, 0.2]])) == pytest.approx(0.8 / 3)
    assert pearson(np.array([[0.9, 0.9], [0.5, 0.5], [0.1, 0.1]])) == pytest.approx(1)
    assert np.isnan(pearson(np.array([[0.9, 0.9], [0.9, 0.5]])))
    for side in ("one", "other"):
        for file in (EXPERT, RANDOM, RESULTS / "zero" / "result.json"):
            (tmp_path / side / file.parent.name).mkdir(parents=True)
            shutil.copy(file, tmp_path / side / file.parent.name)
    done = compare("--sim-vs-real", tmp_path / "one", tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert "KomoPush-v0: Pearson's r 1.00 [1.00, 1.00], mean maximum rank violation 0.000" in (
        done.stdout
    )
    assert "of 3 policies on 500 scenes" in done.stdout
    for words, why in (
        (
            (tmp_path / "one", RANDOM, "--plot", tmp_path / "x.png"),
            "expected none with --sim-vs-real",
        ),
        ((tmp_path, EXPERT), "expected one result of"),
        ((tmp_path / "one" / "zero", EXPERT), "expected the same policy on the same scenes"),
        ((tmp_path / "nothing", EXPERT), "there is no such file"),
    ):
        done = compare("--sim-vs-real", *words)
        assert done.returncode == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
