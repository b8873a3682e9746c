"""Recording: an expert plays an episode, and all that a student may need is kept."""

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
from komo_envs.control import CONTROL_MODES
from komo_envs.entities import Array
from komo_envs.env import KomoEnv, unwrap
from komo_envs.lab import Lab, load_lab
from komo_envs.lab.world import LabWorld
from komo_envs.utils import provenance
from komo_envs.worlds import Backend

SOURCES = ("komo_envs", "experts")
"""The packages whose source decides what a demonstration is."""

MOST_NOISE = 0.05  # m
NOISE_CORRELATION = 0.8
"""Of the disturbance in one period with that in the last: it wanders, and does not shake."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how demonstrations come out, besides their seeds."""

    env: str
    """Id of the environment, or module:Id."""
    control_mode: str = "ee"
    """joint, ee or ee_delta: what the expert acts in. The file has the actions of all three; in ee
    they all make the same motion, in joint the expert takes postures that the others do not."""
    image_size: int = 96
    """Side of the images, in pixels."""
    cameras: tuple[str, ...] = ("front",)
    """Names of the cameras: front, wrist."""
    noise: float = 0.0
    """Standard deviation in m of a disturbance of where the tool goes, at most 0.05, while what the
    expert wants is recorded: its own corrections. Of a rotation, it is twice as many rad, as the
    limits of a step are."""
    backend: Backend = "sim"
    """sim; botop, a robot that rai's BotOp simulates in real time; real, that of the lab. What was
    collected in real time cannot be replayed."""
    lab: str | None = None
    """The file that says what a laboratory has: pictures are seen from where its cameras are. For
    world real, with a marker on whatever moves."""
    diverse: bool = False
    """Draw how the expert goes about it: on which side, by which by-way, with which posture (which
    shows in control mode joint alone)."""


def lab_of(recipe: Recipe) -> Lab | None:
    """What its laboratory has; None if it has none.

    Raises:
        ValueError: The file is not there, or none of that kind.
    """
    try:
        return None if recipe.lab is None else load_lab(recipe.lab)
    except OSError as error:
        raise ValueError(f"--lab {recipe.lab}: {error.strerror}") from error


class Student(Protocol):
    """Whoever acts while the expert says what it would do: anything with ``predict``."""

    @property
    def predict(self) -> Callable[..., tuple[NDArray[Any], Any]]:
        """Gives the next action (A,), in the env's control mode, and a state."""


class Recorder:
    """Records one episode for each seed; what comes out depends on recipe, seed and student alone.

    Args:
        recipe: What decides how they come out.
        lab: What the recipe's laboratory has.

    Raises:
        ValueError: The recipe's env has no expert, or an option is not one of its.
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
        """How the env was made, as robomimic has it."""

    def head(self, seeds: range, student: str | None = None) -> dict[str, Any]:
        """What a file of the demonstrations of ``seeds`` says of them all.

        Args:
            seeds: One for each.
            student: What to call who acted, if it was not the expert.
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
            # What the last digits depend on.
            "machine": {name: machine[name] for name in provenance.KIND},
        }
        return dict(json.loads(json.dumps(head)))  # as it will be read again

    def record(
        self, seed: int, student: Student | None = None, intervention: int | None = None
    ) -> Demo:
        """Play the episode of a seed.

        Args:
            seed: Of the scene, and of whatever else is drawn.
            student: Acts in place of the expert, whose actions are recorded all the same: what it
                would do where the student has gone.
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
            if leads and intervention is not None:  # nobody asks what the expert would do
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
    obs: dict[str, list[np.ndarray]], states: list[np.ndarray], env: KomoEnv, seen: Any
) -> None:
    """Keep what was seen, and what only the simulator knows."""
    for key, value in {**flatten(seen), **flatten(env.observe("state"))}.items():
        obs[key].append(value)
    states.append(pack_state(env.state))


class _Disturbance:
    """A random motion of the tool around where it is wanted: an Ornstein-Uhlenbeck process."""

    def __init__(self, env: KomoEnv, deviation: float, seed: int) -> None:
        self._env = env
        # The scene is drawn from the seed alone: the word keeps the two apart.
        self._rng = np.random.default_rng([seed, *b"noise"])
        step = env.task.end_effector.step
        self._deviation = deviation * step / step[0]
        self._offset = self._deviation * self._rng.standard_normal(len(step))

    def add(self, wanted: Array) -> Array:
        """The action (A,) that asks for joint positions ``wanted`` (7,), disturbed."""
        controller = self._env.controller
        kept = np.sqrt(1.0 - NOISE_CORRELATION**2)
        drawn = self._rng.standard_normal(len(self._offset))
        self._offset = NOISE_CORRELATION * self._offset + kept * self._deviation * drawn
        target = controller.coordinates(wanted) + self._offset
        return controller.encode(controller.solve(target, rest=wanted))
