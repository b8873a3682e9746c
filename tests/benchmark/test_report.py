"""The report of a run: its highlights, and how a reader uses the page, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import pytest
from common import wait_for
from conftest import PROJECT, run_module

from benchmark.records.result import load_result, save_result, score
from komo_envs.suite import TEST

ENVS = ("KomoPush-v0", "KomoPushFixed-v0")
FIRST = TEST.start
STUDENT = ("--policy", "policies/pretrained/push", "--env", *ENVS, "--episodes", 3)
EXPERT = ("--policy", "expert", "--env", ENVS[0], "--episodes", 1)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the student that fails once: the first seed of the fixed target is hard for it."""
    folder = tmp_path_factory.mktemp("student")
    done = run_module("run", *STUDENT, "--workers", 2, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert f"Report: {folder / 'report.html'}\nVideos: {folder / 'videos'}\n" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("recording")]
    assert lines == [f"recording highlights: {done} of 3 highlights" for done in range(4)]
    return folder


def made(folder: Path) -> dict[Path, int]:
    """When the files of a run were written, but for its log, which every run opens."""
    files = [file for file in folder.rglob("*.*") if file.name != "episodes.jsonl"]
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_run_records_highlights_once(run_folder, tmp_path):
    result = load_result(run_folder / "result.json")
    assert [task.failures for task in result.tasks.values()] == [{}, {"timeout": 1}]
    names = [file.name for file in (run_folder / "videos").glob("*.mp4")]
    outcomes = sorted(re.sub(r"-\d{7}", "", name) for name in names)
    assert outcomes == [f"{ENVS[0]}-success.mp4"] + [
        f"{ENVS[1]}-{outcome}.mp4" for outcome in ("failure", "success")
    ]
    for env_id in ENVS:
        [file] = (run_folder / "videos").glob(f"{env_id}-*-success.mp4")
        solved = [e for e in result.episodes if e.env == env_id and e.success_at_end]
        lengths = sorted(episode.steps for episode in solved)
        frames = len(imageio.imread(file))
        assert frames - 1 in lengths[(len(lengths) - 1) // 2 : len(lengths) // 2 + 1]

    before = made(run_folder)
    again = run_module("run", *STUDENT, "--out", run_folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do" in again.stdout
    assert made(run_folder) == before

    # The page can be had again from what is there, by the run or alone.
    page = (run_folder / "report.html").read_bytes()
    alone = run_module("report", run_folder, "--out", tmp_path / "alone.html")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone.html").read_bytes() == page
    assert page.count(b"<video") == 3


def test_a_run_that_is_interrupted_while_it_records_is_resumed(tmp_path):
    command = [sys.executable, "-m", "benchmark.run", *map(str, EXPERT), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=PROJECT, start_new_session=True)
    wait_for(lambda: (tmp_path / "result.json").exists())
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    result = (tmp_path / "result.json").read_bytes()
    assert not (tmp_path / "report.html").exists()
    done = run_module("run", *EXPERT, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.json").read_bytes() == result
    assert b"<video" in (tmp_path / "report.html").read_bytes()


def test_a_video_that_cannot_be_recorded_costs_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
    done = run_module("run", *EXPERT, "--out", tmp_path)
    assert done.returncode == 0
    assert "not recorded: KomoPush-v0, seed 2000000: VideoError: " in done.stderr
    assert "Traceback" not in done.stderr
    assert load_result(tmp_path / "result.json").tasks[ENVS[0]].successes == 1
    page = (tmp_path / "report.html").read_text()
    assert "<video" not in page
    assert f'data-episode="0-{FIRST}"' in page


FICKLE = """
from pathlib import Path
from experts import make_expert

class Fickle:
    privileged = True

    def __init__(self, env_id):
        self.expert = make_expert(env_id)

    def attach(self, env):
        self.expert.attach(env)

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        if episode_start[0]:
            self.weary = Path({marker!r}).exists()
            Path({marker!r}).touch()
        if self.weary:
            raise RuntimeError("once is enough")
        return self.expert.predict(obs, state, episode_start)
"""


def test_a_film_of_another_outcome_is_said_to_be_one(tmp_path):
    file, folder = tmp_path / "fickle.py", tmp_path / "out"
    file.write_text(FICKLE.format(marker=str(tmp_path / "marker")))
    policy = ("--policy", f"{file}:Fickle", "--trust-code", *EXPERT[2:])
    done = run_module("run", *policy, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert load_result(folder / "result.json").tasks[ENVS[0]].successes == 1
    page = (folder / "report.html").read_text()
    assert "it came out differently: error: RuntimeError: once is enough, after 0 steps" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    chromium = shutil.which("chromium")
    if chromium is None or "snap" in Path(chromium).resolve().parts:
        pytest.skip("needs Debian's chromium, which setup.sh --dev installs")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # No sandbox, for root has none.
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


class Reader:
    """A page, and all that it did unasked."""

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.unasked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("console", lambda message: self.unasked.append(message.text))
        self.page.on("pageerror", lambda error: self.unasked.append(str(error)))
        self.page.on("dialog", lambda dialog: self.unasked.append(dialog.message))
        self.page.on("request", lambda request: self._note(request.url, file.as_uri()))
        self.page.goto(file.as_uri())

    def _note(self, url: str, asked: str) -> None:
        if url != asked and not url.startswith("data:"):
            self.unasked.append(url)

    def rows(self) -> list[list[str]]:
        """The cells of the rows of all episodes that are to be seen."""
        rows = self.page.locator("#table tbody tr:visible")
        return [row.locator("td").all_inner_texts() for row in rows.all()]


@pytest.fixture
def reader(browser, run_folder) -> Iterator[Reader]:
    """Of the report of the run. It asks for nothing, and nothing goes wrong in it."""
    reader = Reader(browser, run_folder / "report.html")
    yield reader
    assert reader.unasked == []
    reader.page.close()


def test_the_episodes_are_sorted_and_filtered(reader, run_folder):
    page, episodes = reader.page, load_result(run_folder / "result.json").episodes
    assert len(reader.rows()) == 6
    heading = page.locator("#table th", has_text="steps")
    for order, sign in (("ascending", 1), ("descending", -1)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == order
        steps = [int(row[2]) for row in reader.rows()]
        assert steps == sorted((episode.steps for episode in episodes), key=lambda n: sign * n)

    page.get_by_label("Outcome").select_option("failure")
    assert [row[:2] + row[5:] for row in reader.rows()] == [[str(FIRST), "✕ failure", ENVS[1]]]
    assert page.locator("output").inner_text() == "1 of 6 episodes"
    page.get_by_role("button", name="Show all").click()
    assert len(reader.rows()) == 6
    page.get_by_label("Environment").select_option(ENVS[0])
    page.get_by_label("Seed or text").fill(str(FIRST + 2))
    assert [[row[0], row[5]] for row in reader.rows()] == [[str(FIRST + 2), ENVS[0]]]
    page.get_by_role("button", name="timeout").click()
    assert [[row[0], row[5]] for row in reader.rows()] == [[str(FIRST), ENVS[1]]]


def test_a_point_of_the_map_is_an_episode(reader, run_folder):
    page = reader.page
    result = load_result(run_folder / "result.json")
    assert page.locator("#env0 .mark").count() == page.locator("#env1 .mark").count() == 3
    page.get_by_label("Outcome").select_option("success")  # which hides the one that is clicked

    [failed] = [episode for episode in result.episodes if not episode.success_at_end]
    assert failed.distance is not None
    page.locator("#env1 .mark.failure .start").click()
    said = f"Seed {FIRST}: ✕ failure, timeout; 150 steps, {100 * failed.distance:.2f} cm away"
    assert said in page.locator("#env1 [role=status]").inner_text()
    assert page.locator("#env1 .selected .scene").is_visible()
    row = page.locator("#table tr[aria-current=true]")
    assert row.locator("td").all_inner_texts()[::5] == [str(FIRST), ENVS[1]]
    assert row.is_visible()

    # With the keyboard, and from the table.
    page.locator("#env0 .map svg").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert row.locator("td").last.inner_text() == ENVS[0]
    assert page.locator("#env1 .selected").count() == 0
    page.locator("#table button.seed").nth(2).click()
    assert f"Seed {FIRST + 2}: ● success" in page.locator("#env0 [role=status]").inner_text()


def test_the_videos_play(reader):
    page = reader.page
    videos = page.locator("video")
    assert videos.count() == 3
    video = page.locator("#env1 .highlight", has_text="timeout").locator("video")
    video.scroll_into_view_if_needed()
    wait_for(lambda: video.evaluate("video => video.readyState") >= 3)
    video.click()
    wait_for(lambda: video.evaluate("video => video.currentTime") > 0.2)
    assert video.evaluate("video => video.duration") == pytest.approx(15.1, abs=0.2)


def test_a_phone_scrolls_no_page_sideways(browser, run_folder, tmp_path):
    board = tmp_path / "board.html"
    done = run_module("leaderboard", "--out", tmp_path / "board.md", "--html", board)
    assert done.returncode == 0, done.stderr
    for file in (run_folder / "report.html", board):
        reader = Reader(browser, file, width=390)
        assert reader.page.evaluate("document.documentElement.scrollWidth") == 390
        assert reader.unasked == []
        reader.page.close()

    reader = Reader(browser, board)
    methods = reader.page.locator("th", has_text="method")
    table = reader.page.locator("table", has=methods).first
    methods = table.locator("tbody td:first-child")
    assert methods.all_inner_texts()[-1] == "zero"
    heading = table.locator("th", has_text="success")
    heading.get_by_role("button").click()
    rates = [
        float(text.split("%")[0]) for text in table.locator("td:nth-child(4)").all_inner_texts()
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] == 100.0
    assert reader.unasked == []
    reader.page.close()
    checked = run_module("leaderboard", "--check", "--out", tmp_path / "board.md", "--html", board)
    assert checked.returncode == 0
    refused = run_module("leaderboard", "--html", tmp_path / "board.md")
    assert refused.returncode == 2
    assert refused.stderr.endswith("expected a name that ends in .html\n")


EVIL = (
    "</script></title><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'\"{{7*7}}"
)


def test_a_strangers_result_runs_nothing(browser, run_folder, tmp_path, monkeypatch):
    result = load_result(run_folder / "result.json")
    (tmp_path / "lurking.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{tmp_path}")
    envs = (ENVS[0], "lurking:" + EVIL)
    episodes = tuple(
        replace(
            episode,
            env=envs[ENVS.index(episode.env)],
            scene={EVIL: EVIL, "puck": [EVIL]},
            **({} if episode.success_at_end else {"failure": EVIL}),
        )
        for episode in result.episodes
    )
    hostile = replace(
        result,
        policy=replace(result.policy, name=EVIL, spec=EVIL),
        envs=envs,
        episodes=episodes,
        tasks={env_id: score([e for e in episodes if e.env == env_id], 1.0) for env_id in envs},
        versions={EVIL: EVIL},
        machine={EVIL: EVIL},
        date=EVIL,
        command=EVIL,
    )
    save_result(hostile, tmp_path / "result.json")
    done = run_module("report", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()
    reader = Reader(browser, tmp_path / "report.html")
    assert reader.page.locator("h1").inner_text() == EVIL
    assert reader.page.locator(".map").count() == reader.page.locator("img").count() == 0
    reader.page.locator("button.kind").click()
    reader.page.locator("#table button.seed:visible").click()
    assert reader.rows()[0][4] == EVIL
    assert reader.page.evaluate("window.hacked") is None
    assert reader.unasked == []
    # Were something not escaped, it would not run either.
    reader.page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", EVIL)
    reader.page.wait_for_timeout(200)
    assert reader.page.evaluate("window.hacked") is None
    reader.page.close()
