"""Demonstrations as a Minari data set, in a folder that MINARI_DATASETS_PATH can name.

A Minari data set is a record of transitions, and ``recover_environment`` makes the env in which
they happened. So the actions of a disturbed demonstration are the executed ones, not those that the
expert wanted. An episode of T actions has

    observations       T + 1, those of the env: pixels, depth (float32, m), agent_pos, goal
    actions            T, in one control mode
    rewards, terminations, truncations
    infos              observation, achieved_goal, desired_goal and state, which are privileged:
                       T + 1; is_success, distance, reward_terms/NAME: T, after each action;
                       expert_actions/MODE: T, the expert's, in every control mode
    metadata           seed and options of its reset, style: storage.get_episode_metadata reads them

and the metadata of the data set say how it was collected. Nothing is lost: images are stored
without JPEG. They are not compressed at all, since Minari has no lossless compression.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium.envs.registration import parse_env_id
from minari.data_collector import EpisodeBuffer

from experts.dataset.format import Arrays, Demo, DemoFile, image_names
from komo_envs.env import unwrap
from komo_envs.observations import OBS_MODES

ROOT = "MINARI_DATASETS_PATH"
PRIVILEGED = ("observation", "achieved_goal", "desired_goal")


def write(file: DemoFile, demos: Iterable[Demo], mode: str, folder: Path) -> str:
    """Write a data set.

    Args:
        file: File of demonstrations.
        demos: All its demonstrations.
        mode: Control mode of the actions; if not the file's own, they are the expert's.
        folder: Folder of the data set, empty.

    Returns:
        How to load the data set.

    Raises:
        OSError: It cannot be written.
    """
    name = dataset_id(file.env_id)
    env = file.make_env(control_mode=mode)
    task = unwrap(env).task_description
    with _root(folder.absolute()), warnings.catch_warnings():
        # It warns of missing metadata: an author, a link.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"minari\.")
        dataset = minari.create_dataset_from_buffers(
            name,
            [],
            env=env,
            algorithm_name="KOMO expert",
            description=f"Demonstrations in {file.env_id}. {task}",
            data_format="hdf5",
            jpeg_encoding=False,
        )
        for number, demo in enumerate(demos):
            dataset.update_dataset_from_buffer([_buffer(file, demo, mode)])
            style = json.dumps(demo.style)
            dataset.storage.update_episode_metadata([{"style": style}], [number])
        dataset.storage.update_metadata({"suite": file.suite, **file.head})
    env.close()
    return f"minari.load_dataset({name!r}) finds it if {ROOT} is this folder"


def dataset_id(env_id: str) -> str:
    """Id of the data set of an env: komo/push/expert-v0 for KomoPush-v0."""
    _, name, version = parse_env_id(env_id.rpartition(":")[2])
    plain = re.sub(r"\W+", "-", name.removeprefix("Komo") or name).lower()
    return f"komo/{plain}/expert-v{version or 0}"


@contextmanager
def _root(folder: Path) -> Iterator[None]:
    """Let Minari's data sets be in ``folder`` inside the context."""
    before = os.environ.get(ROOT)
    os.environ[ROOT] = str(folder)
    try:
        yield
    finally:
        del os.environ[ROOT]
        if before is not None:
            os.environ[ROOT] = before


def _buffer(file: DemoFile, demo: Demo, mode: str) -> EpisodeBuffer:
    """A demonstration in Minari's form, with the actions of a control mode."""
    last = np.arange(len(demo)) == len(demo) - 1
    infos = {
        **{key: demo.obs[key] for key in PRIVILEGED},
        "state": demo.states,
        "is_success": demo.successes,
        "distance": demo.distances,
        "reward_terms": demo.reward_terms,
        "expert_actions": demo.actions,
    }
    return EpisodeBuffer(
        seed=demo.seed,
        options={"scene": demo.scene},
        observations=_observations(demo.obs, file.cameras),
        actions=demo.executed if mode == file.control_mode else demo.actions[mode],
        rewards=demo.rewards,
        terminations=last & demo.terminated,
        truncations=last & (not demo.terminated),
        infos=infos,
    )


def _observations(obs: Arrays, cameras: Sequence[str]) -> dict[str, Any]:
    """The env's own observations, (T + 1, ...) each; images of several cameras are in dicts."""
    nested: dict[str, Any] = {key: obs[key] for key in ("agent_pos", "goal")}
    for key in OBS_MODES["rgbd"]:
        images = {camera: obs[name] for camera, name in image_names(key, cameras).items()}
        if key == "depth":
            images = {
                camera: (image / 1000.0).astype(np.float32) for camera, image in images.items()
            }
        nested[key] = images if len(images) > 1 else images[cameras[0]]
    return nested
