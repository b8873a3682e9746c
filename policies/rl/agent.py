"""Agents of Stable-Baselines3: made, trained, saved, and resumed."""

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
from komo_envs import provenance
from komo_envs.observations import ObservationLayout
from komo_envs.suite import TRAIN, VALIDATION
from komo_envs.utils.extras import missing
from komo_envs.utils.files import replacing, write_text
from policies.external.sb3 import NONE, TRAINED_IN, SB3Policy
from policies.rl.config import (
    ENV_OPTIONS,
    NUM_ENVS,
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
REWARD_INFO = ("is_success", "reward_terms", "tcp_pose")
"""Keys of a step's info that rewards are computed from."""
REPORT_STEPS = 500
"""Between two lines about a training."""


@dataclass
class Progress:
    """Progress of a training, besides its model."""

    stretch: int = 0
    """Number of finished stretches; the training is evaluated and saved after each."""
    seconds: float = 0.0
    """CPU time so far."""
    best: int = -1
    """Validation episodes that the best policy so far solves."""
    best_step: int = 0
    """Environment step of the best policy."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Values of the curves."""


class TrainingScenes(gym.Wrapper[Any, Any, Any, Any]):
    """Samples scenes from the training seeds, whatever seed a library asks for.

    Of a step's info it keeps only the keys that rewards need: HER copies them many times.

    Args:
        env: The env.
        seed: Seed of the training.
        index: Index of the env among those that run in parallel.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, index: int) -> None:
        super().__init__(env)
        self._key = (seed, index)
        self.begin(0)

    def begin(self, stretch: int) -> None:
        """Make the following scenes depend on the index of the stretch, not on those before."""
        self._rng = np.random.default_rng([*self._key, stretch])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        sampled = int(self._rng.integers(TRAIN.start, TRAIN.stop))
        return self.env.reset(seed=sampled, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        *rest, info = self.env.step(action)
        return *rest, {name: info[name] for name in REWARD_INFO}


class RelativePositions(BaseFeaturesExtractor):
    """The observation, and the vectors from end-effector to object and from object to goal, dm.

    These differences are of centimetres, small beside the positions themselves.

    Args:
        observation_space: That of ``obs_mode="state"``.
        ee: Index of the end-effector's position in the observation.
        obj: Index of the object's position.
    """

    def __init__(self, observation_space: gym.spaces.Dict, ee: int, obj: int) -> None:
        sizes = [space.shape[0] for space in observation_space.values() if space.shape]
        goal = observation_space["desired_goal"].shape
        assert goal is not None
        super().__init__(observation_space, sum(sizes) + 3 + goal[0] - 1)
        self._ee, self._obj = slice(ee, ee + 3), slice(obj, obj + 3)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """Features (B, F) of a batch of observations."""
        observation, achieved, desired = (
            observations[key] for key in ("observation", "achieved_goal", "desired_goal")
        )
        to_object = observation[:, self._obj] - observation[:, self._ee]
        to_goal = (desired - achieved)[:, :-1]  # the last entry says whether the object is at rest
        return torch.cat([observation, achieved, desired, 10 * to_object, 10 * to_goal], dim=1)


def options_of(algorithm: AlgorithmName, env: gym.Env[Any, Any] | VecEnv) -> dict[str, Any]:
    """Keyword arguments of an algorithm: its hyperparameters, with ``RelativePositions``.

    Args:
        algorithm: The algorithm.
        env: An env, or a vector env, with ``obs_mode="state"`` and ``control_mode="ee_delta"``.
    """
    shape = env.action_space.shape
    assert shape is not None
    layout = ObservationLayout(coordinates=shape[0], privileged_size=0)
    indices = {"ee": layout.ee.start, "obj": layout.privileged.start}
    options = dict(SETTINGS[algorithm])
    options["policy_kwargs"] = {
        **options["policy_kwargs"],
        "features_extractor_class": RelativePositions,
        "features_extractor_kwargs": indices,
    }
    return options


def make_envs(setting: Setting) -> VecEnv:
    """The training envs."""

    def one(index: int) -> gym.Env[Any, Any]:
        env = gym.make(
            setting.env_id,
            disable_env_checker=True,
            reward_mode=setting.reward_mode,
            **ENV_OPTIONS,
        )
        return Monitor(TrainingScenes(env, setting.seed, index))

    count = NUM_ENVS[setting.algorithm]
    envs: VecEnv = DummyVecEnv([functools.partial(one, index) for index in range(count)])
    if setting.algorithm == "ppo":
        envs = VecNormalize(envs, norm_obs=False, gamma=SETTINGS["ppo"]["gamma"])
    return envs


def make_model(
    setting: Setting, envs: VecEnv, demos: Path | None, num_demos: int | None
) -> BaseAlgorithm:
    """An untrained model, with demonstrations in its replay buffer if there are any.

    Args:
        setting: Environment and algorithm.
        envs: The training envs.
        demos: A file of demonstrations, of the same environment.
        num_demos: Number of demonstrations to use, the first ones; all if None.

    Raises:
        ValueError: The demonstrations cannot be used.
    """
    options = options_of(setting.algorithm, envs)
    if setting.algorithm == "ppo":
        return _named(PPO("MultiInputPolicy", envs, seed=setting.seed, device="cpu", **options))
    if setting.her:
        options["replay_buffer_class"] = HerReplayBuffer
        # Some terms of dense rewards do not depend on goals: the info has them.
        options["replay_buffer_kwargs"] = {"copy_info_dict": setting.reward_mode == "dense"}
    transitions = _transitions(setting, demos, num_demos) if demos else []
    model = LIBRARY[setting.algorithm](
        "MultiInputPolicy",
        envs,
        seed=setting.seed,
        device="cpu",
        learning_starts=0 if transitions else RANDOM_STEPS,
        buffer_size=setting.steps + len(transitions),
        **options,
    )
    for transition in transitions:
        model.replay_buffer.add(*transition)
    return _named(model)


def _named(model: BaseAlgorithm) -> BaseAlgorithm:
    """The model, with an attribute that says how it is trained, since its spaces do not."""
    setattr(model, TRAINED_IN, {**ENV_OPTIONS, "vec_normalize": NONE})
    return model


def _transitions(setting: Setting, path: Path, num_demos: int | None) -> list[tuple[Any, ...]]:
    """Transitions of demonstrations, replayed in the training env, as a replay buffer takes them.

    Raises:
        ValueError: The file cannot be used, or the outcome of an episode differs.
    """
    found: list[tuple[Any, ...]] = []
    options: dict[str, Any] = {"reward_mode": setting.reward_mode, **ENV_OPTIONS}
    env = gym.make(setting.env_id, disable_env_checker=True, **options)
    try:
        with DemoFile(path) as file:
            for index in range(len(file) if num_demos is None else num_demos):
                demo = file[index]
                found += _replay(env, demo)
                if not found[-1][-2].all():
                    raise ValueError(f"{path}: demonstration {index} has another outcome here")
    finally:
        env.close()
    return found


def _replay(env: gym.Env[Any, Any], demo: Demo) -> Iterator[tuple[Any, ...]]:
    """Observation, next observation, action, reward, done and info of each step."""
    before, _ = env.reset(seed=demo.seed, options={"scene": demo.scene})
    for action in demo.actions["ee_delta"]:
        after, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        info = {name: info[name] for name in REWARD_INFO}
        info["TimeLimit.truncated"] = truncated and not terminated
        both = ({key: value[None] for key, value in each.items()} for each in (before, after))
        yield *both, action[None], np.array([float(reward)]), np.array([over]), [info]
        if over:
            return
        before = after


def save(model: Any, progress: Progress, path: Path) -> None:
    """Write the state of the training.

    Raises:
        OSError: The file cannot be written.
    """
    weights = io.BytesIO()
    model.save(weights)
    envs = model.get_vec_normalize_env()
    state = {
        "model": weights.getvalue(),
        "replay_buffer": getattr(model, "replay_buffer", None),
        "returns": (envs.ret_rms, envs.returns) if envs else None,
        "random": (np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002 - the library's
        "progress": progress,
    }
    with replacing(path) as scratch, scratch.open("wb") as file:
        pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)


def restore(setting: Setting, envs: VecEnv, path: Path) -> tuple[BaseAlgorithm, Progress]:
    """Resume from the state that ``save`` wrote: a pickle of one's own, which runs code.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with path.open("rb") as file:
            state = pickle.load(file)
        model = LIBRARY[setting.algorithm].load(io.BytesIO(state["model"]), envs, device="cpu")
        buffer: BaseBuffer | None = state["replay_buffer"]
        if buffer is not None:
            model.replay_buffer = buffer
            if isinstance(buffer, HerReplayBuffer):
                buffer.set_env(envs)
        if isinstance(envs, VecNormalize):
            envs.ret_rms, envs.returns = state["returns"]
        numpy_state, torch_state = state["random"]
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        return model, state["progress"]
    except Exception as error:  # of any kind, from pickle's depths
        raise ValueError(f"{path}: cannot resume from here: {error}") from error


def train(job: Job, report: Reporter) -> None:
    """Train one seed, or resume it, and keep the policy that does best on validation seeds.

    Args:
        job: The training.
        report: Called after every step.

    Raises:
        ValueError: The demonstrations, or the state to resume from, cannot be used.
        OSError: A file cannot be written.
    """
    torch.set_num_threads(1)
    setting, envs = job.setting, make_envs(job.setting)
    started = time.process_time()
    if job.state.exists():
        model, progress = restore(setting, envs, job.state)
        report(model.num_timesteps, "", saved=True)
    else:
        model, progress = make_model(setting, envs, job.demos, job.num_demos), Progress()
    started -= progress.seconds
    curves = Curves(job.folder, progress.rows)
    model.set_logger(Logger(str(job.folder), [_ToTensorBoard(curves)]))
    each = math.ceil(setting.steps / job.n_evals)
    while model.num_timesteps < setting.steps:
        envs.env_method("begin", progress.stretch)
        model.set_env(envs, force_reset=True)
        left = min(each, setting.steps - model.num_timesteps)
        model.learn(left, callback=_Reporting(report), reset_num_timesteps=False)
        _end_episode(model)
        count, step = validate(model, job), model.num_timesteps
        recent = model.ep_success_buffer
        values = {"validation success": count / job.n_eval_episodes}
        if recent:
            values["training success"] = sum(recent) / len(recent)
        curves.add(step, values)
        report(step, f"solves {count} of {job.n_eval_episodes} validation episodes")
        if count >= progress.best:
            progress.best, progress.best_step = count, step
            with replacing(job.folder / POLICY) as scratch:
                model.save(scratch)
        progress.stretch += 1
        progress.seconds = time.process_time() - started
        save(model, progress, job.state)
        report(step, "", saved=True)
    envs.close()
    curves.plot(job.folder / "curves.png", job.name)
    write_text(job.outcome, json.dumps(outcome(job, progress), indent=1) + "\n")
    job.state.unlink()


class _Reporting(BaseCallback):
    """Reports progress every ``REPORT_STEPS`` steps."""

    def __init__(self, report: Reporter) -> None:
        super().__init__()
        self._report, self._said = report, 0

    def _on_step(self) -> bool:
        text = ""  # an empty report still ends a training whose command is gone
        if self.num_timesteps >= self._said + REPORT_STEPS:
            self._said = self.num_timesteps
            ended: list[bool] = [*(self.model.ep_success_buffer or ())]
            text = f"{sum(ended)} of the last {len(ended)} episodes succeeded"
        self._report(self.num_timesteps, text)
        return True


class _ToTensorBoard(KVWriter):
    """Writes the library's own logs beside our curves."""

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
    """End the episode in the replay buffer."""
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the truncation
            buffer.truncate_last_trajectory()


def validate(model: Any, job: Job) -> int:
    """Number of validation episodes that the policy solves."""
    env = gym.make(job.setting.env_id, disable_env_checker=True, **ENV_OPTIONS)
    try:
        policy = SB3Policy(model, ENV_OPTIONS, job.setting.algorithm)
        return sum(successes(policy, env, VALIDATION[: job.n_eval_episodes]))
    finally:
        env.close()


def outcome(job: Job, progress: Progress) -> dict[str, Any]:
    """Contents of ``training.json``: how the policy was trained."""
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
