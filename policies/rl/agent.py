"""A learner by reinforcement, of Stable-Baselines3: made, trained, saved, and gone on with."""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import komo_envs  # noqa: F401  (registers the environments)
from experts.dataset.format import Demo, DemoFile
from komo_envs.suite import TRAIN, VALIDATION
from komo_envs.utils import provenance
from komo_envs.utils.extras import missing
from komo_envs.utils.files import replacing, write_text
from policies.external.sb3 import NONE, TRAINED_IN, SB3Policy
from policies.rl.config import (
    ENV_OPTIONS,
    ENVS_AT_ONCE,
    POLICY,
    RANDOM_STEPS,
    SETTINGS,
    AlgorithmName,
    Job,
    Setting,
    setup_of,
)
from policies.rollout import successes
from policies.training.curves import Curves
from policies.training.multi_seed import Reporter

try:
    from sb3_contrib import TQC
    from stable_baselines3 import PPO, SAC, HerReplayBuffer
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import BaseBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import KVWriter, Logger
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
except ImportError as error:
    raise missing("reinforcement learning", "rl", error) from error

SOURCES = ("komo_envs", "policies")
LIBRARY: dict[str, Any] = {"sac": SAC, "tqc": TQC, "ppo": PPO}
"""The algorithms, by name."""
REWARDED_BY = ("is_success", "reward_terms", "tcp_pose")
"""Of a step's info, what rewards take."""
REPORT_STEPS = 500
"""Between two lines about a training."""


@dataclass
class Progress:
    """What a training remembers besides its model."""

    stretch: int = 0
    """How many stretches are done: between two of them it is saved."""
    seconds: float = 0.0
    """Of its core, spent so far; other work beside it does not count."""
    best: int = -1
    """Validation episodes that the best policy so far solves."""
    best_step: int = 0
    """Of that policy."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Of the curves."""


class TrainingScenes(gym.Wrapper[Any, Any, Any, Any]):
    """Draws an episode's scene from the training seeds, whatever seed a library asks for, and says
    no more of a step than rewards take: hindsight copies what is said, again and again.

    Args:
        env: To draw for.
        seed: Of the training.
        number: Of the env, of those that run at once.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, number: int) -> None:
        super().__init__(env)
        self._key = seed, number
        self.begin(0)

    def begin(self, stretch: int) -> None:
        """What follows depends on the number of the stretch, not on what was before."""
        self._rng = np.random.default_rng([*self._key, stretch])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        drawn = int(self._rng.integers(TRAIN.start, TRAIN.stop))
        return self.env.reset(seed=drawn, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Follow an action."""
        *seen, info = self.env.step(action)
        return *seen, {name: info[name] for name in REWARDED_BY}


class Differences(BaseFeaturesExtractor):
    """The observation, and the ways from tool to object and from object to goal, in decimetres.

    They are centimetres, and small beside the places that they are differences of.

    Args:
        observation_space: With ``obs_mode="state"``.
        tool: Where the tool's position is in the observation.
        thing: Where the object's is.
    """

    def __init__(self, observation_space: gym.spaces.Dict, tool: int, thing: int) -> None:
        sizes = [space.shape[0] for space in observation_space.values() if space.shape]
        goal = observation_space["desired_goal"].shape
        assert goal is not None
        super().__init__(observation_space, sum(sizes) + 3 + goal[0] - 1)
        self._tool, self._thing = slice(tool, tool + 3), slice(thing, thing + 3)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, F) of a batch of observations."""
        seen, achieved, desired = (
            observations[key] for key in ("observation", "achieved_goal", "desired_goal")
        )
        to_object = seen[:, self._thing] - seen[:, self._tool]
        to_goal = (desired - achieved)[:, :-1]  # the last number says whether it is at rest
        return torch.cat([seen, achieved, desired, 10 * to_object, 10 * to_goal], dim=1)


def options_of(algorithm: AlgorithmName, env: gym.Env[Any, Any] | VecEnv) -> dict[str, Any]:
    """What the library makes an algorithm with, so that it learns these tasks: its settings, and
    ``Differences`` for its network.

    Args:
        algorithm: To be made.
        env: One of a task, or several at once, with ``obs_mode="state"``.
    """
    ends = env.action_space.shape
    assert ends is not None
    # q and its command, the end-effector and its command, then the joints' velocities.
    where = {"tool": 14, "thing": 14 + 2 * ends[0] + 7}
    options = dict(SETTINGS[algorithm])
    options["policy_kwargs"] = {
        **options["policy_kwargs"],
        "features_extractor_class": Differences,
        "features_extractor_kwargs": where,
    }
    return options


def make_envs(setting: Setting) -> VecEnv:
    """The environments that it learns in."""

    def one(number: int) -> gym.Env[Any, Any]:
        env = gym.make(
            setting.env_id,
            disable_env_checker=True,
            reward_mode=setting.reward_mode,
            **ENV_OPTIONS,
        )
        return Monitor(TrainingScenes(env, setting.seed, number))

    count = ENVS_AT_ONCE[setting.algorithm]
    envs: VecEnv = DummyVecEnv([functools.partial(one, number) for number in range(count)])
    if setting.algorithm == "ppo":
        envs = VecNormalize(envs, norm_obs=False, gamma=SETTINGS["ppo"]["gamma"])
    return envs


def make_model(
    setting: Setting, envs: VecEnv, demos: Path | None, episodes: int | None
) -> BaseAlgorithm:
    """A model that has learned nothing, and remembers demonstrations, if there are any.

    Args:
        setting: What it is to learn.
        envs: As ``make_envs`` makes them.
        demos: A file of demonstrations, of the same environment.
        episodes: How many of them to use, the first ones; all if None.

    Raises:
        ValueError: The demonstrations cannot be used.
    """
    options = options_of(setting.algorithm, envs)
    if setting.algorithm == "ppo":
        return _named(PPO("MultiInputPolicy", envs, seed=setting.seed, device="cpu", **options))
    if setting.her:
        options["replay_buffer_class"] = HerReplayBuffer
        # Dense rewards have terms that are no matter of goals, which the info keeps.
        options["replay_buffer_kwargs"] = {"copy_info_dict": setting.reward_mode == "dense"}
    remembered = _transitions(setting, demos, episodes) if demos else []
    model = LIBRARY[setting.algorithm](
        "MultiInputPolicy",
        envs,
        seed=setting.seed,
        device="cpu",
        learning_starts=0 if remembered else RANDOM_STEPS,
        buffer_size=setting.steps + len(remembered),
        **options,
    )
    for transition in remembered:
        model.replay_buffer.add(*transition)
    return _named(model)


def _named(model: BaseAlgorithm) -> BaseAlgorithm:
    """The model, which says in its file how it is trained, since its spaces do not."""
    setattr(model, TRAINED_IN, {**ENV_OPTIONS, "vec_normalize": NONE})
    return model


def _transitions(setting: Setting, path: Path, episodes: int | None) -> list[tuple[Any, ...]]:
    """Demonstrations, the first ones, acted out again: what they are with other observations and
    rewards, as a memory takes them.

    Raises:
        ValueError: The file cannot be used, or an episode goes otherwise than it did.
    """
    found: list[tuple[Any, ...]] = []
    options: dict[str, Any] = {"reward_mode": setting.reward_mode, **ENV_OPTIONS}
    env = gym.make(setting.env_id, disable_env_checker=True, **options)
    try:
        with DemoFile(path) as file:
            for index in range(len(file) if episodes is None else episodes):
                demo = file[index]
                found += _acted_out(env, demo)
                if not found[-1][-2].all():
                    raise ValueError(f"{path}: demonstration {index} goes otherwise here")
    finally:
        env.close()
    return found


def _acted_out(env: gym.Env[Any, Any], demo: Demo) -> Iterator[tuple[Any, ...]]:
    """Observation before and after, action, reward, whether it is over, and info, of each step."""
    before, _ = env.reset(seed=demo.seed, options={"scene": demo.scene})
    for action in demo.actions["ee_delta"]:
        after, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        info = {name: info[name] for name in REWARDED_BY}
        info["TimeLimit.truncated"] = truncated and not terminated
        seen = ({key: value[None] for key, value in each.items()} for each in (before, after))
        yield *seen, action[None], np.array([float(reward)]), np.array([over]), [info]
        if over:
            return
        before = after


def save(model: Any, progress: Progress, path: Path) -> None:
    """Write all that going on takes.

    Raises:
        OSError: It cannot be written.
    """
    weights = io.BytesIO()
    model.save(weights)
    envs = model.get_vec_normalize_env()
    state = {
        "model": weights.getvalue(),
        "memory": getattr(model, "replay_buffer", None),
        "returns": (envs.ret_rms, envs.returns) if envs else None,
        "random": (np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002 - the library's
        "progress": progress,
    }
    with replacing(path) as scratch, scratch.open("wb") as file:
        pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)


def restore(setting: Setting, envs: VecEnv, path: Path) -> tuple[BaseAlgorithm, Progress]:
    """Go on where ``save`` was. The file is one's own: it is a pickle, and runs code.

    Raises:
        ValueError: It is damaged.
    """
    try:
        with path.open("rb") as file:
            state = pickle.load(file)
        model = LIBRARY[setting.algorithm].load(io.BytesIO(state["model"]), envs, device="cpu")
        memory: BaseBuffer | None = state["memory"]
        if memory is not None:
            model.replay_buffer = memory
            if isinstance(memory, HerReplayBuffer):
                memory.set_env(envs)
        if isinstance(envs, VecNormalize):
            envs.ret_rms, envs.returns = state["returns"]
        numbers, weights = state["random"]
        np.random.set_state(numbers)  # noqa: NPY002
        torch.set_rng_state(weights)
        return model, state["progress"]
    except Exception as error:  # of any kind, from pickle's depths
        raise ValueError(f"{path}: cannot go on from here: {error}") from error


def train(job: Job, report: Reporter) -> None:
    """Train one seed, or go on with it, and keep the policy that does best on validation seeds.

    Args:
        job: What to train.
        report: Is told of every step.

    Raises:
        ValueError: The demonstrations, or what is to be gone on with, cannot be used.
        OSError: A file cannot be written.
    """
    torch.set_num_threads(1)
    setting, envs = job.setting, make_envs(job.setting)
    started = time.process_time()
    if job.state.exists():
        model, progress = restore(setting, envs, job.state)
        report(model.num_timesteps, "", saved=True)
    else:
        model, progress = make_model(setting, envs, job.demos, job.episodes), Progress()
    started -= progress.seconds
    curves = Curves(job.folder, progress.rows)
    model.set_logger(Logger(str(job.folder), [_ToTensorBoard(curves)]))
    each = math.ceil(setting.steps / job.looks)
    while model.num_timesteps < setting.steps:
        envs.env_method("begin", progress.stretch)
        model.set_env(envs, force_reset=True)
        left = min(each, setting.steps - model.num_timesteps)
        model.learn(left, callback=_Reporting(report), reset_num_timesteps=False)
        _end_episode(model)
        count, step = validate(model, job), model.num_timesteps
        trained = model.ep_success_buffer
        values = {"validation success": count / job.validation}
        if trained:
            values["training success"] = sum(trained) / len(trained)
        curves.add(step, values)
        report(step, f"solves {count} of {job.validation} validation episodes")
        if count >= progress.best:
            progress.best, progress.best_step = count, step
            with replacing(job.folder / POLICY) as scratch:
                model.save(scratch)
        progress.stretch += 1
        progress.seconds = time.process_time() - started
        save(model, progress, job.state)
        report(step, "", saved=True)
    envs.close()
    curves.draw(job.folder / "curves.png", job.name)
    write_text(job.outcome, json.dumps(outcome(job, progress), indent=1) + "\n")
    job.state.unlink()


class _Reporting(BaseCallback):
    """Says every now and then how it goes."""

    def __init__(self, report: Reporter) -> None:
        super().__init__()
        self._report, self._said = report, 0

    def _on_step(self) -> bool:
        text = ""  # which says nothing, but ends a training whose command is gone
        if self.num_timesteps >= self._said + REPORT_STEPS:
            self._said = self.num_timesteps
            ended: list[bool] = [*(self.model.ep_success_buffer or ())]
            text = f"{sum(ended)} of the last {len(ended)} episodes succeeded"
        self._report(self.num_timesteps, text)
        return True


class _ToTensorBoard(KVWriter):
    """What the library logs, beside our own curves."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, float | int)}
        self._curves.log(step, numbers)

    def close(self) -> None:
        pass


def _end_episode(model: Any) -> None:
    """What follows in the memory is another episode."""
    memory = getattr(model, "replay_buffer", None)
    if isinstance(memory, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does what it is asked to
            memory.truncate_last_trajectory()


def validate(model: Any, job: Job) -> int:
    """How many validation episodes the policy solves."""
    env = gym.make(job.setting.env_id, disable_env_checker=True, **ENV_OPTIONS)
    try:
        policy = SB3Policy(model, ENV_OPTIONS, job.setting.algorithm)
        return sum(successes(policy, env, VALIDATION[: job.validation]))
    finally:
        env.close()


def outcome(job: Job, progress: Progress) -> dict[str, Any]:
    """What is said of the policy: how it came about."""
    commit = provenance.commit()
    return {
        "name": job.name,
        **setup_of(job),
        "step": progress.best_step,
        "solved": progress.best,
        "minutes": round(progress.seconds / 60, 1),
        "machine": provenance.machine(),
        "versions": provenance.versions([job.setting.env_id], SOURCES),
        "commit": commit[0] if commit else None,
    }
