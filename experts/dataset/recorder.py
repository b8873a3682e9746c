"""Recording episodes of an expert, with everything that a student may need."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from experts import Expert, make_expert
from experts.dataset.format import Demo, flatten, pack_state
from komo_envs import provenance
from komo_envs.control import CONTROL_MODES
from komo_envs.entities import Array
from komo_envs.env import KomoEnv, unwrap
from komo_envs.lab import Lab, load_lab
from komo_envs.lab.world import LabWorld
from komo_envs.observations import Observation
from komo_envs.worlds import Backend

SOURCES = ("komo_envs", "experts")
"""Packages whose source decides how demonstrations come out."""

MOST_NOISE = 0.05  # m
NOISE_CORRELATION = 0.8
"""Correlation of the disturbances in neighboring periods: the tool wanders, and does not shake."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options that decide, with the seeds, how demonstrations come out."""

    env: str
    """Id of the environment, or module:Id."""
    control_mode: str = "ee"
    """Control mode of the expert: joint, ee or ee_delta. The file has the actions of all three; in
    ee they all make the same motion, in joint the expert takes postures that the others do not."""
    image_size: int = 96
    """Side of the images, pixels."""
    cameras: tuple[str, ...] = ("front",)
    """Names of the cameras: front, wrist."""
    noise: float = 0.0
    """Standard deviation of a disturbance of the tool's position, at most 0.05 m. The recorded
    actions do not contain it: they are the expert's corrections. Rotations are disturbed in
    proportion to the limits of a step: by twice as many rad."""
    backend: Backend = "sim"
    """Backend: sim; botop, a robot that rai's BotOp simulates in real time; real, the robot of the
    lab. Demonstrations collected in real time cannot be replayed."""
    lab: str | None = None
    """Laboratory file, for images from the poses of its cameras. With backend real, everything that
    moves needs a marker."""
    diverse: bool = False
    """Sample the expert's style in each episode: its side, via point and null-space posture (the
    last has an effect in control mode joint only)."""


def lab_of(recipe: Recipe) -> Lab | None:
    """The laboratory of a recipe; None if it has none.

    Raises:
        ValueError: The file is missing, or no valid laboratory file.
    """
    try:
        return None if recipe.lab is None else load_lab(recipe.lab)
    except OSError as error:
        raise ValueError(f"--lab {recipe.lab}: {error.strerror}") from error


class Student(Protocol):
    """A policy that acts in place of the expert: anything with ``predict``."""

    @property
    def predict(self) -> Callable[..., tuple[NDArray[Any], Any]]:
        """A function that gives the next action (A,), in the env's control mode, and a state."""


class Recorder:
    """Records one episode for each seed. It depends on recipe, seed and student only.

    Args:
        recipe: Options of the demonstrations.
        lab: The recipe's laboratory.

    Raises:
        ValueError: The recipe's env has no expert, or does not take an option.
    """

    def __init__(self, recipe: Recipe, lab: Lab | None = None) -> None:
        self._recipe = recipe
        self._noise = recipe.noise
        options: dict[str, Any] = {
            "obs_mode": "rgbd",
            "control_mode": recipe.control_mode,
            "image_size": recipe.image_size,
            "cameras": recipe.cameras,
        }
        if lab is not None:
            options["lab"] = asdict(lab.rendered())
        self.expert: Expert = make_expert(recipe.env, diverse=recipe.diverse)
        where: dict[str, Any] = {"backend": recipe.backend, "lab": lab}
        self.env = gym.make(recipe.env, disable_env_checker=True, **{**options, **where})
        self._inner = unwrap(self.env)
        self.expert.attach(self.env)
        self.env_args = {
            "env_name": recipe.env,
            "type": 2,  # robomimic's number for Gym
            "env_kwargs": options,
        }
        """Arguments of the env, in robomimic's form."""

    def head(self, seeds: range, student: str | None = None) -> dict[str, Any]:
        """Attributes of a file that concern all its demonstrations.

        Args:
            seeds: Seeds of the demonstrations, one each.
            student: Name of the student that acts in them; None if only the expert does.
        """
        machine = provenance.machine()
        head = {
            "env_args": self.env_args,
            "recipe": {
                **asdict(self._recipe),
                "seeds": [seeds.start, seeds.stop],
                "student": student,
            },
            "versions": provenance.versions([self._recipe.env], SOURCES),
            # The last digits depend on it.
            "machine": {name: machine[name] for name in provenance.KIND},
        }
        return dict(json.loads(json.dumps(head)))  # as it will be read again

    def record(
        self, seed: int, student: Student | None = None, intervention: int | None = None
    ) -> Demo:
        """Play the episode of a seed.

        Args:
            seed: Seed of the scene, and of everything else that is sampled.
            student: Acts in place of the expert, whose actions are recorded as labels of the states
                that the student visits.
            intervention: Step at which the expert intervenes, 1 or more; the student acts before,
                and the expert's answers to those steps are not recorded. None for no intervention.
        """
        env, inner, expert = self.env, self._inner, self.expert
        expert.set_random_seed(seed)
        disturbance = _Disturbance(inner, self._noise, seed)
        observation, info = env.reset(seed=seed)
        obs: dict[str, list[np.ndarray]] = defaultdict(list)
        actions: dict[str, list[np.ndarray]] = defaultdict(list)
        states: list[np.ndarray] = []
        executed: list[Array] = []
        rewards, infos = [], []
        state, terminated, truncated = None, False, False
        style: dict[str, Any] = {}
        _observe(obs, states, inner, observation)
        while not (terminated or truncated):
            leads = student is not None and (intervention is None or len(executed) < intervention)
            if leads:
                assert student is not None
                first = np.array([not executed])
                action, state = student.predict(observation, state=state, episode_start=first)
            if leads and intervention is not None:  # the expert is not asked
                wanted = inner.controller.preview(inner.controller.check(action))
                wish = action
            else:
                wanted = expert.reference(env)
                style = style or asdict(expert.style)
                wish = inner.controller.encode(wanted)
            # Joint positions differ with the posture, so they are those that the action leads to.
            command = inner.controller.preview(inner.controller.check(wish))
            for mode in CONTROL_MODES:
                aim = command if mode == "joint" else wanted
                actions[mode].append(inner.controller.encode(aim, mode))
            actions[inner.control_mode][-1] = wish
            if not leads:
                action = disturbance.add(wanted) if self._noise else wish
            observation, reward, terminated, truncated, info = env.step(action)
            executed.append(np.asarray(action, dtype=np.float32))
            rewards.append(reward)
            infos.append(info)
            _observe(obs, states, inner, observation)
        if isinstance(inner.world, LabWorld):
            inner.world.save_images()
        terms = infos[0]["reward_terms"]
        return Demo(
            seed=seed,
            scene=info["scene"],
            style=style or asdict(expert.style),
            success=bool(info["is_success"]),
            terminated=terminated,
            obs={key: np.stack(values) for key, values in obs.items()},
            states=np.stack(states),
            actions={mode: np.stack(values) for mode, values in actions.items()},
            executed=np.stack(executed),
            rewards=np.array(rewards, dtype=float),
            reward_terms={n: np.array([i["reward_terms"][n] for i in infos]) for n in terms},
            successes=np.array([i["is_success"] for i in infos]),
            distances=np.array([i["distance"] for i in infos]),
            intervention=0
            if student is None
            else min(intervention or len(executed), len(executed)),
        )

    def close(self) -> None:
        """Close the env."""
        self.expert.close()
        self.env.close()


def _observe(
    obs: dict[str, list[np.ndarray]],
    states: list[np.ndarray],
    env: KomoEnv,
    observation: Observation,
) -> None:
    """Append an observation, the privileged one, and the state of the world."""
    for key, value in {**flatten(observation), **flatten(env.observe("state"))}.items():
        obs[key].append(value)
    states.append(pack_state(env.state))


class _Disturbance:
    """A random deviation of the tool from its wanted position: an Ornstein-Uhlenbeck process."""

    def __init__(self, env: KomoEnv, deviation: float, seed: int) -> None:
        self._env = env
        # The scene is sampled from the seed alone: the word keeps the two apart.
        self._rng = np.random.default_rng([seed, *b"noise"])
        step = env.task.end_effector.step
        self._deviation = deviation * step / step[0]
        self._offset = self._deviation * self._rng.standard_normal(len(step))

    def add(self, wanted: Array) -> Array:
        """The action (A,) that asks for joint positions ``wanted`` (7,), disturbed."""
        controller = self._env.controller
        kept = np.sqrt(1.0 - NOISE_CORRELATION**2)
        sample = self._rng.standard_normal(len(self._offset))
        self._offset = NOISE_CORRELATION * self._offset + kept * self._deviation * sample
        target = controller.coordinates(wanted) + self._offset
        return controller.encode(controller.solve(target, rest=wanted))
