"""Map of the scenes of an environment, from above, with the outcome of each episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, degrees

import gymnasium as gym
import numpy as np

from benchmark.records.result import Episode
from komo_envs.entities import Body
from komo_envs.env import unwrap
from komo_envs.poses import axis

BACKDROP = 1.0  # m; wider bodies are shown, but the map need not show all of them
NEAR = 0.01  # m above and below the object, within which other bodies are shown too
MARGIN = 0.08  # of the map's sides
SMALLEST = 0.2  # m, of a map


@dataclass(frozen=True)
class Shape:
    """A body from above. All lengths are in mm, x to the right and y down, as SVG has it."""

    x: float
    y: float
    size: tuple[float, ...]
    """(radius,) of a cylinder, (width, depth) of a box."""
    turn: float
    """Degrees, clockwise."""
    color: str
    """#rrggbb."""
    solid: bool
    """False for a mark on the ground."""


@dataclass(frozen=True)
class Mark:
    """Scene of an episode."""

    episode: Episode
    start: tuple[float, float]
    """Position of the object, mm."""
    goals: tuple[tuple[float, float], ...]
    """Positions of marks on the ground that differ between episodes, as targets do, mm."""
    shapes: tuple[Shape, ...]
    """Bodies that are not the same in every episode."""


@dataclass(frozen=True)
class SceneMap:
    """The scenes of one environment."""

    box: tuple[float, float, float, float]
    """Left, top, width and height, mm."""
    fixed: tuple[Shape, ...]
    """Bodies that are the same in all of them."""
    marks: tuple[Mark, ...]
    """Successes first, so that failures are shown over them."""


def make_scene_map(env_id: str, episodes: Sequence[Episode]) -> SceneMap | None:
    """The map of an environment's episodes, whatever their task is.

    It shows what is at the height of the object: the first body that moves freely. An episode
    whose scene the task does not know, or that has none, is left out.

    Args:
        env_id: Id of the environment. No module is imported for it: a result may name any.
        episodes: Episodes of that environment.

    Returns:
        None if the environment is not registered, or its task or its scenes are of another kind.
    """
    name = env_id.rpartition(":")[2]
    if name not in gym.registry:
        return None
    try:
        env = gym.make(name, disable_env_checker=True)
        komo_env = unwrap(env)
        check_scene, bodies = komo_env.check_scene, komo_env.task.bodies
        env.close()
        scenes = []
        for episode in episodes:
            try:
                scenes.append((episode, bodies(check_scene(episode.scene))))
            except ValueError:  # an episode without a scene, or with that of another version
                continue
        return _map(scenes)
    except Exception:  # of any kind: the task may be someone else's
        return None


def _map(scenes: Sequence[tuple[Episode, tuple[Body, ...]]]) -> SceneMap:
    """The map of bodies by episode.

    Raises:
        LookupError: There are no episodes.
        StopIteration: There is no body that moves.
    """
    seen = [(episode, _at_height_of_object(bodies)) for episode, bodies in scenes]
    first, others = seen[0][1], [bodies for _, bodies in seen[1:]]
    fixed = [b for b in first if b.mass is None and all(b in bodies for bodies in others)]
    marks = []
    for episode, bodies in seen:
        own = [body for body in bodies if body not in fixed]
        start = next(body for body in own if body.mass is not None)
        goals = [body for body in own if not body.solid]
        shapes = tuple(_shape(body) for body in sorted(own, key=lambda body: body.solid))
        marks.append(Mark(episode, _place(start), tuple(map(_place, goals)), shapes))
    marks.sort(key=lambda mark: not mark.episode.success_at_end)
    corners = [place for mark in marks for place in (mark.start, *mark.goals)]
    for body in fixed:
        half = 500 * np.array(_sides(body))
        if max(half) < 500 * BACKDROP:
            corners += [tuple(_place(body) - half), tuple(_place(body) + half)]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size = np.maximum((1 + 2 * MARGIN) * (high - low), 1000 * SMALLEST)
    left, top = (low + high - size) / 2
    box = (float(left), float(top), float(size[0]), float(size[1]))
    return SceneMap(box, tuple(map(_shape, fixed)), tuple(marks))


def _at_height_of_object(bodies: Sequence[Body]) -> list[Body]:
    """Bodies of the world beside the object or below it."""
    bodies = [body for body in bodies if body.parent is None]
    low, high = _heights(next(body for body in bodies if body.mass is not None))
    return [b for b in bodies if _heights(b)[0] < high + NEAR and _heights(b)[1] > low - NEAR]


def _heights(body: Body) -> tuple[float, float]:
    half = (body.size[2] if body.shape == "box" else body.size[0]) / 2
    return body.pose[2] - half, body.pose[2] + half


def _sides(body: Body) -> tuple[float, float]:
    width, depth = body.size[:2] if body.shape == "box" else (2 * body.size[1],) * 2
    return width, depth


def _place(body: Body) -> tuple[float, float]:
    return round(1000 * body.pose[0], 1), round(-1000 * body.pose[1], 1)


def _shape(body: Body) -> Shape:
    along = axis(np.array(body.pose[3:]), 0)
    size = body.size[:2] if body.shape == "box" else body.size[1:]
    return Shape(
        *_place(body),
        size=tuple(round(1000 * length, 1) for length in size),
        turn=round(-degrees(atan2(along[1], along[0])), 1),
        color="#" + "".join(f"{round(255 * part):02x}" for part in body.color),
        solid=body.solid,
    )
