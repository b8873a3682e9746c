"""Exports: what another library reads is what the demonstrations have, bit for bit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command
from numpy.typing import NDArray

import experts.dataset.to_lerobot
import experts.export
import komo_envs.utils.video
from experts.dataset.format import Demo, DemoFile, write_demo, write_head
from experts.dataset.recorder import Recipe, Recorder
from experts.export import Arguments, export

RECIPES = {
    "push": (Recipe(env="KomoPush-v0", image_size=32, noise=0.01), (0, 1, 2)),
    "shelf": (
        Recipe(env="KomoShelf-v0", control_mode="joint", image_size=34, cameras=("front", "wrist")),
        (0, 1),
    ),
}


@pytest.fixture(scope="module")
def minari() -> Any:
    """The library."""
    return pytest.importorskip("minari", reason="it takes Python 3.11 or newer")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of demonstrations, by what is in them."""
    found = {}
    for name, (recipe, seeds) in RECIPES.items():
        found[name] = tmp_path_factory.mktemp("demos") / f"{name}.h5"
        recorder = Recorder(recipe)
        with h5py.File(found[name], "w") as file:
            for index, seed in enumerate(seeds):
                group = file.create_group(f"data/demo_{index}")
                write_demo(group, recorder.record(seed), recipe.control_mode)
            write_head(file, recorder.head(range(len(seeds))))
        recorder.close()
    return found


@pytest.fixture(params=RECIPES)
def path(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Path:
    return paths[request.param]


def images_of(demo: Demo, key: str) -> dict[str, NDArray[Any]]:
    """Pixels or depth of a demonstration, by camera."""
    return {
        name.removeprefix(key).removeprefix("_") or "front": array
        for name, array in demo.obs.items()
        if name.startswith(key)
    }


class LeRobotReader:
    """Reads a data set by its description alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = json.loads((root / "meta/info.json").read_text())
        self.stats = json.loads((root / "meta/stats.json").read_text())
        files = sorted((root / "meta/episodes").glob("*/*.parquet"))
        self.episodes = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()

    def rows(self, number: int) -> dict[str, NDArray[Any]]:
        """The table of an episode, by column."""
        episode = self.episodes[number]
        table = pq.read_table(self._path(self.info["data_path"], episode, "data"))
        mine = table.filter(pa.compute.equal(table["episode_index"], number))
        return {name: np.array(mine[name].to_pylist()) for name in mine.column_names}

    def frames(self, number: int, key: str, times: NDArray[Any]) -> NDArray[np.uint8]:
        """The frames of an episode at times since its beginning, s."""
        episode = self.episodes[number]
        path = self._path(self.info["video_path"], episode, f"videos/{key}", video_key=key)
        with av.open(str(path)) as video:
            decoded = list(video.decode(video=0))
        shown = np.array([float(frame.time) for frame in decoded])
        chosen = []
        for time in episode[f"videos/{key}/from_timestamp"] + times:
            nearest = int(np.abs(shown - time).argmin())
            assert abs(shown[nearest] - time) < 1e-4
            chosen.append(decoded[nearest].to_ndarray(format="rgb24"))
        return np.stack(chosen)

    def _path(self, pattern: str, episode: dict[str, Any], prefix: str, **names: str) -> Path:
        place = {name: episode[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
        return self.root / pattern.format(**place, **names)


@pytest.mark.parametrize("limits", [{}, {"DATA_MB": 0.2, "VIDEO_MB": 0.2, "CHUNK_FILES": 1}])
def test_lerobot(
    path: Path, limits: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in limits.items():
        monkeypatch.setattr(experts.dataset.to_lerobot, name, limit)
    said = export(Arguments(path, tmp_path / "out", "lerobot"))
    reader = LeRobotReader(tmp_path / "out")
    index = 0
    with DemoFile(path) as file:
        env: Any = file.make_env().unwrapped
        assert f"{len(file)} demonstrations of {file.env_id}" in said
        assert len(reader.episodes) == reader.info["total_episodes"] == len(file)
        for number, demo in enumerate(file):
            rows = reader.rows(number)
            expected = {
                "observation.state": demo.obs["agent_pos"][:-1],
                "observation.environment_state": demo.obs["goal"][:-1],
                "action": demo.actions[file.control_mode],
                "next.reward": demo.rewards,
                "next.done": np.arange(len(demo)) == len(demo) - 1,
                "next.success": demo.successes,
                "timestamp": np.float32(np.arange(len(demo)) / 10),
                "frame_index": np.arange(len(demo)),
                "episode_index": np.full(len(demo), number),
                "index": np.arange(index, index + len(demo)),
                "task_index": np.zeros(len(demo)),
            }
            for camera, pixels in images_of(demo, "pixels").items():
                key = f"observation.images.{camera}"
                frames = reader.frames(number, key, rows["timestamp"])
                np.testing.assert_array_equal(frames, pixels[:-1])
                check_stats(reader.episodes[number], pixels[:-1] / 255.0, f"stats/{key}/")
            assert set(rows) == set(expected)
            for key, array in expected.items():
                np.testing.assert_array_equal(rows[key], array, err_msg=key)
                check_stats(reader.episodes[number], array, f"stats/{key}/")
            episode = reader.episodes[number]
            assert episode["length"] == len(demo)
            assert episode["tasks"] == [env.task_description]
            assert episode["dataset_from_index"] == index
            index += len(demo)
            assert episode["dataset_to_index"] == index
    assert reader.info["total_frames"] == index
    files = list((tmp_path / "out/videos/observation.images.front").glob("*/*.mp4"))
    assert (len(files) > 1) == bool(limits)


def check_stats(stats: dict[str, Any], array: NDArray[Any], prefix: str = "") -> None:
    """Compare statistics with those of the array itself: (N,), (N, n) or (N, H, W, channels)."""
    rows = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1).astype(float)
    shape = (3, 1, 1) if array.ndim == 4 and rows.shape[1] == 3 else (rows.shape[1],)
    expected = {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        **{
            f"q{percent:02}": np.quantile(rows, percent / 100, axis=0, method="inverted_cdf")
            for percent in (1, 10, 50, 90, 99)
        },
    }
    for name, value in expected.items():
        found = np.array(stats[prefix + name])
        np.testing.assert_allclose(found, value.reshape(shape), rtol=1e-9, atol=1e-12)
    assert stats[prefix + "count"] == [len(array)]


def test_lerobot_says_what_it_has(path: Path, tmp_path: Path) -> None:
    export(Arguments(path, tmp_path / "out", "lerobot"))
    reader = LeRobotReader(tmp_path / "out")
    info = reader.info
    with DemoFile(path) as file:
        demos = list(file)
        env: Any = file.make_env().unwrapped
    assert (info["codebase_version"], info["robot_type"], info["fps"]) == ("v3.0", "panda", 10)
    assert info["splits"] == {"train": f"0:{len(demos)}"}
    table = pq.read_schema(tmp_path / "out/data/chunk-000/file-000.parquet")
    cameras = set(images_of(demos[0], "pixels"))
    images = {f"observation.images.{camera}" for camera in cameras}
    assert set(info["features"]) == set(table.names) | images
    assert set(reader.stats) == set(info["features"])
    rows = reader.rows(0)
    for key, feature in info["features"].items():
        shape = tuple(feature["shape"])
        if key in images:
            assert (feature["dtype"], shape) == ("video", (*env.image_size, 3))
            continue
        assert rows[key].shape[1:] == (() if shape == (1,) else shape)
        element: Any = table.field(key).type
        while pa.types.is_list(element) or pa.types.is_fixed_size_list(element):
            element = element.value_type
        assert str(element).replace("float", "float32") == feature["dtype"]
        if len(shape) == 1 and shape != (1,):
            assert len(feature["names"]) == len(set(feature["names"])) == shape[0]
    tasks = pq.read_table(tmp_path / "out/meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": [env.task_description]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    check_stats(
        reader.stats["action"], np.concatenate([d.actions[env.control_mode] for d in demos])
    )
    for camera in cameras:
        pixels = np.concatenate([images_of(demo, "pixels")[camera][:-1] for demo in demos])
        check_stats(reader.stats[f"observation.images.{camera}"], pixels / 255.0)


@pytest.mark.parametrize("mode", ["joint", "ee", "ee_delta"])
def test_lerobot_has_what_the_expert_wants_in_any_control_mode(
    mode: Any, paths: dict[str, Path], tmp_path: Path
) -> None:
    export(Arguments(paths["push"], tmp_path / "out", "lerobot", mode))
    reader = LeRobotReader(tmp_path / "out")
    with DemoFile(paths["push"]) as file:
        for number, demo in enumerate(file):
            actions = reader.rows(number)["action"]
            np.testing.assert_array_equal(actions, demo.actions[mode])
            assert mode != file.control_mode or not np.array_equal(actions, demo.executed)


def test_minari(minari: Any, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    export(Arguments(path, Path("out"), "minari"))
    assert os.environ["MINARI_DATASETS_PATH"] == "/nowhere"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    dataset = minari.load_dataset(f"komo/{path.stem}/expert-v0")
    with DemoFile(path) as file:
        demos = list(file)
        assert dataset.total_episodes == len(demos)
        assert dataset.total_steps == sum(map(len, demos))
        assert dataset.storage.metadata["recipe"] == file.recipe
    metadata = dataset.storage.get_episode_metadata(range(len(demos)))
    for demo, episode, about in zip(demos, dataset.iterate_episodes(), metadata, strict=True):
        observations = episode.observations
        for key in ("pixels", "depth"):
            for camera, array in images_of(demo, key).items():
                found = observations[key]
                found = found[camera] if isinstance(found, dict) else found
                if key == "depth":
                    assert found.dtype == np.float32
                    found = np.round(found * 1000).astype(np.uint16)
                assert_same(found, array)
        expected = {
            **{key: demo.obs[key] for key in ("observation", "achieved_goal", "desired_goal")},
            "state": demo.states,
            "is_success": demo.successes,
            "distance": demo.distances,
            "reward_terms": demo.reward_terms,
            "expert_actions": demo.actions,
        }
        assert_same(episode.infos, expected)
        assert_same(observations["agent_pos"], demo.obs["agent_pos"])
        assert_same(observations["goal"], demo.obs["goal"])
        assert_same(episode.actions, demo.executed)
        assert_same(episode.rewards, demo.rewards)
        assert episode.terminations.tolist() == [False] * (len(demo) - 1) + [demo.terminated]
        assert episode.truncations.tolist() == [False] * (len(demo) - 1) + [not demo.terminated]
        assert about["seed"] == demo.seed
        assert json.loads(about["style"]) == demo.style
        scene = {
            name: np.asarray(value).tolist() for name, value in about["options"]["scene"].items()
        }
        assert scene == demo.scene


def stacked(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """A dict of lists, as Minari's DataCollector makes it by JAX, which takes lists apart."""
    found = {}
    for name, value in infos[0].items():
        values = [info[name] for info in infos]
        assert type(value) not in (list, tuple)
        found[name] = stacked(values) if isinstance(value, dict) else values
    return found


@pytest.mark.parametrize("env_id", ["KomoPushHard-v0", "KomoShelfRandomized-v0"])
def test_minari_records_infos_and_a_scene_of_them_can_be_set_up(
    minari: Any, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make(env_id)
    steps = [env.reset(seed=0), *(env.step(env.action_space.sample())[::4] for _ in range(2))]
    infos = [info for _, info in steps]
    buffer = minari.data_collector.EpisodeBuffer(
        observations={key: [observed[key] for observed, _ in steps] for key in steps[0][0]},
        actions=[env.action_space.low] * 2,
        rewards=[0.0, 0.0],
        terminations=[False, False],
        truncations=[False, True],
        infos=stacked(infos),
    )
    about = {"algorithm_name": "", "author": "", "author_email": "", "code_permalink": ""}
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    minari.create_dataset_from_buffers(
        "komo/infos-v0", [buffer], env=env_id, description="", **spaces, **about
    )
    episode = minari.load_dataset("komo/infos-v0")[0]
    assert_same(episode.infos["is_success"], np.array([info["is_success"] for info in infos]))
    first = json.loads(json.dumps(episode.infos["scene"], default=lambda array: array[0].tolist()))
    assert first == infos[0]["scene"]
    again, _ = env.reset(options={"scene": first})
    assert_same(again, steps[0][0])
    env.close()


def assert_same(found: Any, expected: Any) -> None:
    """Compare arrays, or dicts of them, bit for bit."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_minari_recovers_the_environment(
    minari: Any, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(Arguments(path, tmp_path / "out", "minari"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    dataset = minari.load_dataset(f"komo/{path.stem}/expert-v0")
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space
    assert env.action_space == dataset.action_space
    [about] = dataset.storage.get_episode_metadata([1])
    episode = dataset[1]
    observation, _ = env.reset(seed=about["seed"], options=about["options"])
    for step in range(4):
        assert_same(observation["agent_pos"], episode.observations["agent_pos"][step])
        assert dataset.observation_space.contains(observation)
        observation, reward, *_ = env.step(episode.actions[step])
        assert reward == episode.rewards[step]
    env.close()


def test_minari_can_have_what_the_expert_wants_where_that_was_done(
    minari: Any, paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(Arguments(paths["shelf"], tmp_path / "out", "minari", "ee_delta"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    dataset = minari.load_dataset("komo/shelf/expert-v0")
    env: Any = dataset.recover_environment().unwrapped
    assert env.control_mode == "ee_delta"
    assert env.action_space == dataset.action_space
    with DemoFile(paths["shelf"]) as file:
        for demo, episode in zip(file, dataset.iterate_episodes(), strict=True):
            assert_same(episode.actions, demo.actions["ee_delta"])


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("KomoPushHard-v0", "komo/pushhard/expert-v0"),
        ("some.module:KomoStack-v2", "komo/stack/expert-v2"),
        ("lab/My.Task", "komo/my-task/expert-v0"),
    ],
)
def test_minari_ids(minari: Any, env_id: str, expected: str) -> None:
    from experts.dataset.to_minari import dataset_id

    assert dataset_id(env_id) == expected
    minari.dataset.minari_dataset.parse_dataset_id(expected)


def exported(command: Command, *arguments: object) -> tuple[int, str]:
    """Exit code, and what is said on stdout or, if it fails, on stderr."""
    done = command("experts.export", *arguments)
    return done.returncode, done.stderr if done.returncode else done.stdout


@pytest.mark.parametrize("to", ["lerobot", "minari"])
def test_the_command(to: str, paths: dict[str, Path], tmp_path: Path, command: Command) -> None:
    if to == "minari":
        pytest.importorskip("minari")
    out = tmp_path / "a {new} folder"
    code, said = exported(command, paths["shelf"], out, "--to", to)
    assert (code, said.count("\n")) == (0, 1)
    assert said.startswith(f"{out}: 2 demonstrations of KomoShelf-v0")
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_exported(
    minari: Any,
    paths: dict[str, Path],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    push, new = paths["push"], tmp_path / "new"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "experts.dataset.to_lerobot")
    monkeypatch.delattr(experts.dataset, "to_lerobot")
    for arguments, reason in [
        ((push, there, "--to", "minari"), f"OUT {there}: is there already"),
        ((push, tmp_path / "no/new", "--to", "minari"), "its folder is not there"),
        ((tmp_path / "none.h5", new, "--to", "minari"), "expected a file of demonstrations"),
        ((__file__, new, "--to", "minari"), "is no HDF5 file"),
        ((push, new, "--to", "lerobot"), "pyarrow is not installed; pip install -e '.[exp"),
        (
            (push, new, "--to", "minari", "--control-mode", "joint"),
            "which Minari gets, are in ee alone",
        ),
    ]:
        code, said = exported(command, *arguments)
        assert (code, said.count("\n")) == (2, 1), said
        assert reason in said
        assert list(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize("to", ["lerobot", "minari"])
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError, 1)])
def test_nothing_is_left_of_an_export_that_stops(
    to: str,
    error: type[BaseException],
    code: int,
    paths: dict[str, Path],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if to == "minari":
        pytest.importorskip("minari")

    def track(file: DemoFile, *_: Any, **__: Any) -> Iterator[Demo]:
        yield file[0]
        raise error("no more")

    monkeypatch.setattr(experts.export, "track", track)
    found, said = exported(command, paths["push"], tmp_path / "out", "--to", to)
    assert (found, said.count("\n")) == (code, 1)
    assert "nothing is written" in said
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_is_an_error(
    paths: dict[str, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(komo_envs.utils.video, "get_ffmpeg_exe", lambda: "false")
    code, said = exported(command, paths["push"], tmp_path / "out", "--to", "lerobot")
    assert (code, said.count("\n")) == (1, 1)
    assert "file-000.mp4: ffmpeg" in said
    assert not list(tmp_path.iterdir())
