"""One episode: a policy acts in an environment until it ends, and is judged."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import komo_envs  # noqa: F401  (registers the environments)
from benchmark.records.result import Episode
from komo_envs.control import ActionError
from komo_envs.env import unwrap
from komo_envs.lab import CameraLost
from komo_envs.lab.world import LabWorld
from komo_envs.utils.errors import describe, printable
from komo_envs.utils.foreign_code import ForeignError, foreign_code
from komo_envs.utils.video import write_video
from komo_envs.worlds import CONTROL_PERIOD, WorldState
from komo_envs.worlds.rai import RobotStopped
from policies import Policy, load_policy
from policies.base import env_options_of
from policies.external.sb3 import SB3Options
from policies.rollout import rollout

Env = gym.Env[Any, Any]


class EpisodeJob(NamedTuple):
    """An episode to play: the arguments of ``Evaluator.run``."""

    env_id: str
    seed: int
    video: bool = False

    def __str__(self) -> str:
        """Name of the episode in errors."""
        return f"{self.env_id}, seed {self.seed}"


class VideoError(RuntimeError):
    """A video could not be rendered or written."""


class Evaluator:
    """Plays single episodes, each of which depends on its environment and seed alone.

    Environment and policies are made when they are first needed, and kept until an episode is of
    another environment; a policy that raises is loaded again. So never more than one simulation is
    alive.

    Args:
        policy: Policy spec, as of ``--policy``.
        videos: Folder for the videos.
        trust_code: Whether the policy may run code of its author.
        options: Keyword arguments of ``gym.make``, besides those that the policy asks for.
        device: PyTorch device on which a student computes.
        sb3: How a model of Stable-Baselines3 was trained.
    """

    def __init__(
        self,
        policy: str,
        videos: Path,
        trust_code: bool = False,
        options: Mapping[str, Any] = MappingProxyType({}),
        device: str = "cpu",
        sb3: SB3Options | None = None,
    ) -> None:
        self._spec = policy
        self._options = options
        self._videos = videos
        self._trust_code, self._device, self._sb3 = trust_code, device, sb3
        self._env_id: str | None = None
        self._env: Env | None = None
        self._made_with: dict[str, Any] | None = None
        self._policies: dict[str, Policy] = {}
        self._attached: set[str] = set()

    def act_with(self, policy: str) -> None:
        """Let another policy act, in the same environment if it asks for the same options."""
        self._spec = policy

    def options_for(self, env_id: str) -> dict[str, Any]:
        """Options of the environment for the policy, which is loaded if it is not yet."""
        if self._spec not in self._policies:
            policy = load_policy(self._spec, env_id, self._trust_code, self._device, self._sb3)
            self._policies[self._spec] = policy
        return {**self._options, **env_options_of(self._policies[self._spec])}

    def run(self, env_id: str, seed: int, video: bool = False) -> Episode:
        """Play one episode.

        An error of the policy fails the episode, and is named in it. Any other error is raised:
        environment or policy could not be made, the reset, the simulation or a camera failed, the
        video could not be written.

        Args:
            env_id: Id of the environment.
            seed: Seed of the episode.
            video: Whether to record a video.

        Raises:
            Exception: Of any kind.
        """
        env, policy = self._prepare(env_id)
        recorder = Video(self._videos, env, video_name(env_id, seed)) if video else None
        scene: dict[str, Any] = {}
        once = success = False
        distance = None
        tracking_errors: list[float] = []
        latencies: list[float] = []
        steps = -1  # the reset is none
        error = None
        try:
            self._attach(env, policy)
            for info in rollout(policy, env, seed, guard=foreign_code):
                steps += 1
                scene = scene or _as_json(info["scene"])
                success = bool(info["is_success"])
                once = once or (success and steps > 0)
                distance = float(info["distance"])
                if steps > 0:
                    tracking_errors.append(float(info["tracking_error"]))
                    latencies.append(float(info["latency"]))
                if recorder is not None:
                    recorder.add_frame()
        except (ForeignError, ActionError) as raised:
            error = _reason(raised)
            del self._policies[self._spec]  # it may be broken; the robot is not let go of
            self._attached.discard(self._spec)
        except RobotStopped as stopped:
            # A camera is not the policy's, nor is what happens on the way home from elsewhere.
            if steps < 0 or isinstance(stopped, CameraLost):
                raise
            error = f"stopped: {printable(str(stopped))}"[:200]
        world = unwrap(env).world
        if isinstance(world, LabWorld):
            world.save_images()
        if error is None and (outcome := _operator_outcome(env)) is not None:
            success, once = outcome, once or outcome
        success = success and error is None
        failure = None
        if not success:
            failure = error or _own_reason(policy) or "timeout"
        if recorder is not None:
            recorder.save(success)
        return Episode(
            env=env_id,
            seed=seed,
            scene=scene,
            success_once=once,
            success_at_end=success,
            distance=distance if distance is not None and math.isfinite(distance) else None,
            steps=max(steps, 0),
            failure=failure,
            tracking_error=float(np.mean(tracking_errors)) if tracking_errors else None,
            latency=float(np.median(latencies)) if latencies else 0.0,
            deadline_misses=sum(latency >= CONTROL_PERIOD for latency in latencies),
        )

    def _prepare(self, env_id: str) -> tuple[Env, Policy]:
        if self._env_id not in (None, env_id):
            self.close()
        options = self.options_for(env_id)
        policy = self._policies[self._spec]
        if options != self._made_with:
            self._close_env()
            self._env = gym.make(
                env_id, render_mode="rgb_array", disable_env_checker=True, **options
            )
            self._env_id, self._made_with = env_id, options
        assert self._env is not None
        return self._env, policy

    def _attach(self, env: Env, policy: Policy) -> None:
        """Let a policy that sees the state have the environment, once.

        Raises:
            ForeignError: The policy raised.
        """
        if self._spec in self._attached:
            return
        with foreign_code():
            if getattr(policy, "privileged", False) and hasattr(policy, "attach"):
                policy.attach(env)
        self._attached.add(self._spec)

    def close(self) -> None:
        """Close the environment, if there is one, and let go of the policies."""
        self._close_env()
        self._policies.clear()

    def _close_env(self) -> None:
        if self._env is not None:
            with contextlib.suppress(Exception):  # it may be what has just raised
                self._env.close()
        self._env = self._env_id = self._made_with = None
        self._attached.clear()


def _operator_outcome(env: Env) -> bool | None:
    """Whether an operator calls the episode a success; None if the environment sees that itself."""
    world = unwrap(env).world
    return world.query_outcome() if isinstance(world, LabWorld) else None


def failed_episode(job: EpisodeJob, why: str) -> Episode:
    """The failed episode of a job that was given up."""
    return Episode(
        env=job.env_id,
        seed=job.seed,
        scene={},
        success_once=False,
        success_at_end=False,
        distance=None,
        steps=0,
        failure=f"error: {why}",
    )


def _reason(error: ForeignError | ActionError) -> str:
    """Reason of a failure: the error of the policy, or the action that was refused."""
    return f"error: {error if isinstance(error, ForeignError) else describe(error)}"[:200]


def _own_reason(policy: Policy) -> str | None:
    """The policy's own reason of its failure; None if it states none."""
    try:
        with foreign_code():
            failure = getattr(policy, "failure", None)
            if failure is not None and not isinstance(failure, str):
                raise TypeError(f"failure: expected a str or None, got {type(failure).__name__}")
    except ForeignError as error:
        return _reason(error)
    return failure and printable(failure)[:200]


class Video:
    """An mp4, in real time, of what ``env.render()`` shows.

    It is rendered when the episode is over: a robot in real time would not wait for it.

    Args:
        folder: Made if it is not there.
        env: With ``render_mode="rgb_array"``.
        name: The file becomes ``<name>-success.mp4`` or ``<name>-failure.mp4``.
    """

    def __init__(self, folder: Path, env: Env, name: str) -> None:
        self._env = env
        self._folder = folder
        self._name = name
        self._scratch = folder / f".{name}.mp4"
        self._states: list[WorldState] = []
        with _video_errors():
            folder.mkdir(parents=True, exist_ok=True)

    def add_frame(self) -> None:
        """Keep the present state for a frame."""
        self._states.append(unwrap(self._env).state)

    def save(self, success: bool) -> None:
        """Render the video, and give it its name."""
        komo_env = unwrap(self._env)
        with _video_errors():
            if not self._states:  # the policy raised before the first frame
                return
            frames = map(komo_env.render_state, self._states)
            write_video(self._scratch, frames, self._env.metadata["render_fps"])
            outcome = "success" if success else "failure"
            self._scratch.replace(self._folder / f"{self._name}-{outcome}.mp4")


def _as_json(scene: dict[str, Any]) -> dict[str, Any]:
    """The scene as it will be in the result.

    Raises:
        TypeError: JSON cannot hold it.
    """
    try:
        return json.loads(json.dumps(scene))
    except TypeError as error:
        raise TypeError(
            f"info['scene']: expected plain numbers, lists and dicts: {error}"
        ) from error


def video_name(env_id: str, seed: int) -> str:
    """Beginning of the name of an episode's video, without a ``:`` or ``/`` of the id."""
    return re.sub(r"[^\w.-]", "-", f"{env_id}-{seed}")


@contextlib.contextmanager
def _video_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise VideoError(f"{type(error).__name__}: {error}") from error
