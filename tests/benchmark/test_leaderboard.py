"""The leaderboard: rows that are submitted, verified, checked, and drawn up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import run_module

from benchmark.records.result import Episode, Result, load_result, save_result, score
from benchmark.reporting.leaderboard_page import leaderboard_page
from benchmark.submit import Arguments, submit
from komo_envs.suite import ENVS, PAPER_ENVS, TEST

ROOT = Path(__file__).resolve().parents[2]


SUBMITTED = ("--name", "nil", "--authors", "Ada Lovelace", "B. Pascal", "--training-data", "none")
SUBMITTED += ("--training-compute", "none", "--links", "https://example.org/paper")
SUBMITTED += ("--code", "https://example.org/code/tree/1a2b3c4", "--method", "Doing nothing")


def test_a_row_is_submitted_and_verified(result_file, tmp_path):
    results, board = tmp_path / "results", tmp_path / "leaderboard.md"
    here = ("--results", results, "--board", board)
    done = run_module("submit", result_file, *SUBMITTED, *here)
    assert done.returncode == 0, done.stderr
    row = results / "nil"
    assert (row / "result.json").read_bytes() == result_file.read_bytes()
    assert "[Doing nothing](benchmark/results/nil/result.json)" in board.read_text()
    assert "[code](https://example.org/code/tree/1a2b3c4)" in board.read_text()
    assert "| Ada Lovelace, B. Pascal | no |" in board.read_text()

    again = run_module("verify", row / "result.json", "--policy", "zero", "--fraction", 0.5)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 of 4 episodes have the same outcome, 4 of them are the same" in again.stdout
    assert run_module("leaderboard", "--results", results, "--out", board).returncode == 0
    assert board.read_text().count("| [2](benchmark/results/nil/verification.json) |") == 2

    # One that was verified, and is another result now, stands on no board.
    said = {"authors": ("us",), "training_data": "none", "training_compute": "none"}
    other = tmp_path / "other.json"
    save_result(replace(load_result(result_file), wall_seconds=1.0), other)
    (row / "result.json").write_bytes(other.read_bytes())
    with pytest.raises(
        ValueError, match=r"submission\.json: result_sha256: is that of another result"
    ):
        leaderboard_page(results)
    # Submitted again, it is not verified yet.
    submit(Arguments(other, name="nil", results=results, board=board, **said))
    assert "verification.json" not in board.read_text()


def test_a_tampered_result_is_found_out(result_file, tmp_path):
    honest = load_result(result_file)
    lying = replace(_succeeding(honest, "zero", 2, 4), policy=honest.policy)
    file = tmp_path / "result.json"
    save_result(lying, file)
    done = run_module("verify", file, "--policy", "zero", "--fraction", 1)
    assert done.returncode == 1
    for seed in (TEST.start, TEST.start + 1):
        said = f"{ENVS[0]}, seed {seed}: another outcome: success at 0.0010 m"
        assert said in done.stdout
    assert "2 of 4 episodes have the same outcome" in done.stdout
    record = json.loads((tmp_path / "verification.json").read_text())
    assert record["mismatches"] == [[ENVS[0], TEST.start], [ENVS[0], TEST.start + 1]]
    boasting = replace(lying, policy=replace(honest.policy, name="Nought"))
    save_result(boasting, file)
    of_another = run_module("verify", file, "--policy", "zero")
    assert of_another.returncode == 2
    assert "its name is zero" in of_another.stderr
    of_another = run_module("verify", file, "--policy", "random")
    assert of_another.returncode == 2
    assert "another policy, or another state of its code" in of_another.stderr
    moved = tuple(replace(e, scene={**e.scene, "puck": [0.0, 0.3]}) for e in lying.episodes)
    save_result(replace(lying, episodes=moved), file)
    done = run_module("verify", file, "--policy", "zero", "--fraction", 0.25)
    assert done.returncode == 1
    assert "another scene" in done.stdout


def test_another_kind_of_machine_verifies_the_rate(result_file, tmp_path):
    honest = load_result(result_file)
    other_machine = replace(honest, machine={**honest.machine, "cpu": "Abacus"})
    file = tmp_path / "result.json"
    # As it may come out where the last digits are others.
    first, *others = other_machine.episodes
    end = replace(first, distance=first.distance + 0.01)
    save_result(_with(other_machine, [end, *others]), file)
    done = run_module("verify", file, "--policy", "zero", "--fraction", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 episodes have the same outcome, 7 of them are the same" in done.stdout
    assert f"cpu: {honest.machine['cpu']}, not Abacus" in done.stdout
    record = json.loads((tmp_path / "verification.json").read_text())
    assert (record["mismatches"], record["regressions"]) == ([], 0)
    assert len(record["other_hardware"]) == 1

    success = {"success_once": True, "success_at_end": True, "distance": 0.001, "failure": None}
    save_result(_with(other_machine, [replace(e, **success) for e in other_machine.episodes]), file)
    done = run_module("verify", file, "--policy", "zero", "--fraction", 1)
    assert done.returncode == 1
    assert "8 succeed in the result alone, 0 here alone (p = 0.0039" in done.stdout
    assert "the result is not confirmed" in done.stdout


def _with(result: Result, episodes: list[Episode]) -> Result:
    """What ``result`` would be if its episodes were these."""
    tasks = {
        env_id: score([each for each in episodes if each.env == env_id], minutes=1)
        for env_id in result.envs
    }
    return replace(result, episodes=tuple(episodes), tasks=tasks)


BAD = {
    "a name that leads elsewhere": (("--name", "../evil"), "--name ../evil: expected letters"),
    "a link that forges cells": (("--links", "https://x|us|no|100.0%"), "submission: links.0: "),
    "a link that is none": (("--links", "javascript:alert(1)"), "submission: links.0: "),
    "a link of the docs": (("--links", "https://..."), "expected a link: https://, the name of a"),
    "code at no commit": (
        ("--code", "https://example.org/code/tree/COMMIT"),
        "submission: code: expected a link with the hash of the commit",
    ),
    "an author of two lines": (("--authors", "a\nb"), "submission: authors.0: "),
    "no authors": (("--authors", ""), "authors"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_stand_on_the_board_is_refused(case, result_file, tmp_path, command):
    change, message = BAD[case]
    words = list(SUBMITTED)
    at = words.index(change[0])
    words[at : at + (3 if change[0] == "--authors" else 2)] = change
    here = ("--results", tmp_path / "results", "--board", tmp_path / "leaderboard.md")
    done = command("benchmark.submit", result_file, *words, *here)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "leaderboard.md").exists()
    assert not [*tmp_path.glob("results/*")]
    assert not (tmp_path / "evil").exists()


EDITS: dict[str, Any] = {
    "another schema": ("submission", "schema", 1),
    "an unknown field": ("submission", "rank", 1),
    "another policy": ("submission", "policy_sha256", "0" * 64),
    "seeds of no episode": ("verification", "seeds", {ENVS[0]: [1], ENVS[1]: [2]}),
    "more outcomes than seeds": ("verification", "identical", 99),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_row_that_was_edited_is_refused(case, result_file, tmp_path):
    name, field, value = EDITS[case]
    results = tmp_path / "results"
    _add_row(load_result(result_file), results, "nil")
    if name == "verification":
        words = (results / "nil" / "result.json", "--policy", "zero")
        assert run_module("verify", *words).returncode == 0
    file = results / "nil" / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    named = "seeds" if field == "identical" else field
    with pytest.raises(ValueError, match=rf"{name}\.json: {named}"):
        leaderboard_page(results)


def test_the_leaderboard_is_generated_and_checked(result_file, tmp_path):
    results, board = tmp_path / "results", tmp_path / "leaderboard.md"
    zero = load_result(result_file)
    _add_row(zero, results, "zero")
    _add_row(_succeeding(zero, "lucky", 1, 1), results, "aaa")
    _add_row(_succeeding(zero, "[a|b]", 3, 4), results, "bbb")
    board.unlink()
    arguments = ("--results", results, "--out", board)

    missing = run_module("leaderboard", *arguments, "--check")
    assert missing.returncode == 1
    assert run_module("leaderboard", *arguments).returncode == 0
    assert run_module("leaderboard", *arguments, "--check").returncode == 0
    _, *tables = board.read_text().split("\n## ")
    assert [table.splitlines()[0] for table in tables] == [*ENVS, *PAPER_ENVS]
    push, shelf, *others = tables
    assert shelf.count("\n| [") == 1  # a result has a row on each of its environments
    assert all("No policy has been scored yet." in table for table in others)
    rows = [line for line in push.splitlines() if line.startswith("| [")]
    # 3 of 4 is surer than 1 of 1.
    where = "benchmark/results"
    assert rows[0].startswith(rf"| [\[a\|b\]]({where}/bbb/result.json) | us | yes | 75.0% [30.1, ")
    assert rows[1].startswith(f"| [lucky]({where}/aaa/result.json) | us | yes | 100.0% [20.7, ")
    assert rows[2].startswith(
        f"| [zero]({where}/zero/result.json) | us | no | 0.0% [0.0, 49.0] | 4 "
    )

    board.write_text(board.read_text().replace("100.0%", "99.9%"))
    edited = run_module("leaderboard", *arguments, "--check")
    assert edited.returncode == 1
    assert edited.stderr.count("\n") == 1
    assert "generate it again" in edited.stderr

    save_result(_renamed(zero, "nudge:Nudge-v0"), results / "zero" / "result.json")
    with pytest.raises(ValueError, match=r"result\.json: envs: expected those of the suite"):
        leaderboard_page(results)


def _add_row(result: Result, results: Path, name: str) -> None:
    file = results.parent / "submitted.json"
    save_result(result, file)
    board = results.parent / "leaderboard.md"
    said = {"authors": ("us",), "training_data": "none", "training_compute": "none"}
    submit(Arguments(file, name=name, results=results, board=board, **said))


def _succeeding(result: Result, name: str, successes: int, count: int) -> Result:
    """What ``result`` would be if the first of its episodes had succeeded."""
    success = {"success_once": True, "success_at_end": True, "distance": 0.001, "failure": None}
    episodes = tuple(
        replace(episode, **(success if number < successes else {}))
        for number, episode in enumerate(result.episodes[:count])
    )
    assert {episode.env for episode in episodes} == {ENVS[0]}
    return replace(
        result,
        policy=replace(result.policy, name=name, privileged=True),
        envs=ENVS[:1],
        seeds=(TEST.start, TEST.start + count),
        episodes=episodes,
        tasks={ENVS[0]: score(episodes, minutes=1)},
    )


def _renamed(result: Result, env_id: str) -> Result:
    """What ``result`` would be if its first environment had another id."""
    first, *others = result.envs
    return replace(
        result,
        envs=(env_id, *others),
        episodes=tuple(
            replace(episode, env=env_id) if episode.env == first else episode
            for episode in result.episodes
        ),
        tasks={env_id: result.tasks[first]} | {other: result.tasks[other] for other in others},
    )


def test_the_leaderboard_refuses_what_cannot_be_compared(result_file, tmp_path):
    with pytest.raises(ValueError, match="there are none"):
        leaderboard_page(tmp_path)
    result, results = load_result(result_file), tmp_path / "results"
    _add_row(result, results, "r")
    file = results / "r" / "result.json"
    save_result(replace(result, suite="0.0"), file)
    with pytest.raises(ValueError, match=r"result\.json: suite: expected .*, got 0\.0"):
        leaderboard_page(results)
    first = TEST.start
    training = tuple(replace(episode, seed=episode.seed - first) for episode in result.episodes)
    save_result(replace(result, seeds=(0, 4), episodes=training), file)
    with pytest.raises(ValueError, match=r"result\.json: seeds: expected test seeds"):
        leaderboard_page(results)
    file.write_text("{")
    refused = run_module("leaderboard", "--results", results, "--out", tmp_path / "board.md")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "result.json" in refused.stderr
    assert not (tmp_path / "board.md").exists()
    save_result(result, file)
    refused = run_module("leaderboard", "--results", results, "--out", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == f"benchmark.leaderboard: {tmp_path}: Is a directory\n"


def test_the_leaderboard_works_in_the_current_folder(tmp_path):
    here = [sys.executable, "-m", "benchmark.leaderboard"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(here, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "--results benchmark/results: expected folders with results, there are none\n"
    )


def test_the_projects_own_leaderboard_is_up_to_date():
    done = run_module("leaderboard", "--check")
    assert done.returncode == 0, done.stderr
