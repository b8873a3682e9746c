"""Models of Stable-Baselines3, and the options of their training that spaces do not tell.

Loading one, or the statistics of its VecNormalize, runs code of its author: both are pickles.
"""

from __future__ import annotations

import hashlib
import pickle
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium import spaces

import komo_envs  # noqa: F401  (registers the environments)
from komo_envs.control import CONTROL_MODES
from komo_envs.env import OBS_MODES, unwrap
from komo_envs.utils.foreign_code import ForeignError, foreign_code

ALGORITHMS = {
    "stable_baselines3.common": ("stable_baselines3:PPO", "PPO or A2C"),
    "stable_baselines3.sac": ("stable_baselines3:SAC", "SAC"),
    "stable_baselines3.td3": ("stable_baselines3:TD3", "TD3 or DDPG"),
    "sb3_contrib.tqc": ("sb3_contrib:TQC", "TQC"),
}
"""The algorithms with continuous actions, by the package of their policies: their classes,
and their names. The file cannot tell apart algorithms that share a class of policies."""
NONE = "none"
"""Value of ``--vec-normalize`` for a model trained without VecNormalize."""
TRAINED_IN = "trained_in"
"""Attribute of a model that says how it was trained: a dict of ``SB3Options``."""


@dataclass(frozen=True)
class SB3Options:
    """How a Stable-Baselines3 model (.zip) was trained. Needed where the spaces do not tell."""

    obs_mode: Literal["state", "rgb", "depth", "rgbd"] | None = None
    """The observation mode. The spaces tell it."""
    control_mode: Literal["ee", "joint", "ee_delta"] | None = None
    """The control mode, below any RescaleAction."""
    cameras: tuple[str, ...] | None = None
    """The camera of its images."""
    image_size: tuple[int, ...] | None = None
    """The side of its images, or height and width, in pixels. The spaces tell it."""
    shadows: Literal["yes", "no"] | None = None
    """Whether its RGB images had soft shadows."""
    rescale_action: bool = False
    """It was trained under gymnasium.wrappers.RescaleAction."""
    vec_normalize: str | None = None
    """The statistics file of its VecNormalize (vecnormalize.pkl), or none if it had none."""


class SB3Policy:
    """A Stable-Baselines3 model, and how it was trained.

    Args:
        model: The model of the library.
        env_options: For ``gym.make``, as in the training.
        algorithm: Its name.
        rescale: RescaleAction around an env of the model's control mode, if it was trained so.
        statistics: The VecNormalize of its training, if there was one.
        statistics_sha256: Hash of the file of the statistics.
    """

    def __init__(
        self,
        model: Any,
        env_options: dict[str, Any],
        algorithm: str,
        rescale: gym.wrappers.RescaleAction[Any, Any] | None = None,
        statistics: Any = None,
        statistics_sha256: str | None = None,
    ) -> None:
        self.model = model
        self.name = f"Stable-Baselines3 {algorithm}"
        self.env_options = env_options
        self.privileged = env_options["obs_mode"] == "state"
        self.rescale = rescale
        self.statistics = statistics
        self.statistics_sha256 = statistics_sha256

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """The model's action, in the env's own action space."""
        if self.statistics is not None:
            obs = self.statistics.normalize_obs(obs)
        action, state = self.model.predict(obs, state, episode_start, deterministic)
        return (action if self.rescale is None else self.rescale.action(action)), state

    @property
    def trained_in(self) -> dict[str, Any]:
        """Options of the training, as in a result, with the sha256 of the statistics."""
        said = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.env_options.items()
        }
        return said | {
            "rescale_action": self.rescale is not None,
            "vec_normalize": self.statistics_sha256,
        }


def check_stated(specs: Iterable[str], stated: SB3Options) -> None:
    """Refuse options for a model of Stable-Baselines3 where there is none.

    Raises:
        ValueError: No policy is a .zip of Stable-Baselines3.
    """
    if not any(Path(spec).suffix == ".zip" for spec in specs):
        for field in fields(stated):
            if getattr(stated, field.name) != field.default:
                raise ValueError(
                    f"{_option(field.name, getattr(stated, field.name))}: expected only with a "
                    f".zip of Stable-Baselines3, got --policy {' '.join(specs)}"
                )


def options_of(trained_in: dict[str, Any], vec_normalize: str | None) -> SB3Options:
    """The options of a model in a result.

    Args:
        trained_in: ``trained_in`` of the result.
        vec_normalize: The statistics file, if one is given.
    """
    said: dict[str, Any] = dict(trained_in)
    shadows = said.pop("shadows", None)
    hashed = said.pop("vec_normalize")
    tuples: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in said.items()
    }
    return SB3Options(
        **tuples,
        shadows=None if shadows is None else ("yes" if shadows else "no"),
        vec_normalize=vec_normalize or (NONE if hashed is None else None),
    )


def load_sb3(path: Path, env_id: str, stated: SB3Options | None = None) -> SB3Policy:
    """Load a model that Stable-Baselines3 has saved.

    Nothing is guessed: the options of its training follow from its spaces, its own attribute, and
    the options that the user states.

    Args:
        path: The .zip.
        env_id: The env in which the policy will act.
        stated: Options that the user states.

    Raises:
        ValueError: The file is no model, or of other spaces than this env has, or an option is
            missing or wrong.
        ImportError: Stable-Baselines3 is not installed.
    """
    model, algorithm, said = _load_model(path)
    stated = _merge(path, said, stated or SB3Options())
    try:
        return _match(path, env_id, model, algorithm, stated)
    except ValueError as error:
        raise ValueError(f"policy {path}: {error}") from error


def _load_model(path: Path) -> tuple[Any, str, Any]:
    """The model, the name of its algorithm, and its own options of the training."""
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        with foreign_code():
            data, _, _ = load_from_zip_file(path, device="cpu")
            assert data is not None
            module = data["policy_class"].__module__
            loader, name = ALGORITHMS[module.rpartition(".")[0]]
            # Without its replay buffer, which may not fit into the memory.
            no_buffer: dict[str, Any] = {
                "buffer_size": 1,
                "replay_buffer_class": None,
                "replay_buffer_kwargs": {},
            }
            model = pkgutil.resolve_name(loader).load(path, device="cpu", **no_buffer)
    except ForeignError as error:
        names = ", ".join(name for _, name in ALGORITHMS.values())
        raise ValueError(f"policy {path}: no model of {names}: {error}") from error
    return model, name, data.get(TRAINED_IN, {})


def _merge(path: Path, said: Any, stated: SB3Options) -> SB3Options:
    """Options in the model itself, with those that the user states."""
    try:
        merged = SB3Options(**said)
    except TypeError as error:
        raise ValueError(f"policy {path}: its {TRAINED_IN}: {error}") from None
    for field in fields(SB3Options):
        value, known = getattr(stated, field.name), getattr(merged, field.name)
        if value == field.default:
            continue
        if field.name in said and value != known:
            raise ValueError(
                f"{_option(field.name, value)}: {path} says that it was trained with "
                f"{_option(field.name, known)}"
            )
        merged = replace(merged, **{field.name: value})
    return merged


def _match(path: Path, env_id: str, model: Any, algorithm: str, stated: SB3Options) -> SB3Policy:
    """The policy, if all options are proven or stated.

    Raises:
        ValueError: One is missing or wrong.
    """
    missing: list[str] = []
    statistics = sha256 = None
    if stated.vec_normalize is None:
        missing.append(_ask_for_statistics(path))
    elif stated.vec_normalize != NONE:
        statistics, sha256 = _load_statistics(Path(stated.vec_normalize))
    found = _find_observation(env_id, model.observation_space, statistics, stated)
    if len(found) > 1:
        missing.append(" or ".join(_option("cameras", one["cameras"]) for one in found))
    if "shadows" in found[0] and stated.shadows is None:
        missing.append("--shadows yes or --shadows no")
    modes, equal = _find_control(env_id, model.action_space, stated)
    if len(modes) > 1 or not (stated.rescale_action or modes[0] in equal):
        rescaled = {mode: "" if mode in equal else " --rescale-action" for mode in modes}
        missing.append(" or ".join(_option("control_mode", m) + rescaled[m] for m in modes))
    if missing:
        raise ValueError(f"its spaces do not say how it was trained; state {'; '.join(missing)}")
    options = {**found[0], "control_mode": modes[0]}
    rescale = None
    if stated.rescale_action:
        env = gym.make(env_id, disable_env_checker=True, **options)
        space = model.action_space
        rescale = gym.wrappers.RescaleAction(env, space.low, space.high)
    return SB3Policy(model, options, algorithm, rescale, statistics, sha256)


def _ask_for_statistics(path: Path) -> str:
    # rl-zoo3 puts them beside the model, or in a folder named as the env.
    found = [*path.parent.glob("vecnormalize.pkl"), *path.parent.glob("*/vecnormalize.pkl")]
    file = found[0] if found else "FILE"
    return f"--vec-normalize {file} or --vec-normalize {NONE}"


def _load_statistics(file: Path) -> tuple[Any, str]:
    """The VecNormalize that a file holds, and the file's sha256.

    Raises:
        ValueError: The file holds no VecNormalize.
    """
    from stable_baselines3.common.vec_env import VecNormalize

    option = _option("vec_normalize", file)
    try:
        with foreign_code():
            content = file.read_bytes()
            statistics = pickle.loads(content)
    except ForeignError as error:
        raise ValueError(f"{option}: cannot be read: {error}") from error
    if not isinstance(statistics, VecNormalize):
        raise ValueError(f"{option}: holds a {type(statistics).__name__}; expected a VecNormalize")
    return statistics, hashlib.sha256(content).hexdigest()


def _find_observation(
    env_id: str, space: spaces.Space[Any], statistics: Any, stated: SB3Options
) -> list[dict[str, Any]]:
    """Options of ``gym.make`` with which the env has a model's observation space.

    Several differ in the camera alone.

    Raises:
        ValueError: There are none, or the stated options contradict them.
    """
    size = _image_size(space)
    found, others = [], []
    for obs_mode, keys in OBS_MODES.items():
        env = gym.make(env_id, disable_env_checker=True)
        names = [camera.name for camera in unwrap(env).task.cameras] if keys else [None]
        env.close()
        for name in names:
            options: dict[str, Any] = {"obs_mode": obs_mode}
            if name is not None:
                options |= {"cameras": (name,), "image_size": size or (96, 96)}
            env = gym.make(env_id, disable_env_checker=True, **options)
            theirs = env.observation_space
            env.close()
            if statistics is not None:
                if not _same_but_normalized(statistics, theirs):
                    continue
                theirs = statistics.observation_space
            if _channels_first(theirs) != space:
                continue
            if "pixels" in keys:
                options["shadows"] = stated.shadows == "yes"
            found.append(options)
    if not found:
        under = (
            "(normalized images need their --vec-normalize FILE)"
            if statistics is None
            else f"under {_option('vec_normalize', stated.vec_normalize)}"
        )
        raise ValueError(
            f"its observation space {' '.join(str(space).split())} is none of {env_id}'s {under}; "
            "expected a model trained in the env itself, with one camera"
        )
    wanted = {
        "obs_mode": stated.obs_mode,
        "cameras": stated.cameras,
        "image_size": stated.image_size and (stated.image_size * 2)[:2],
        "shadows": stated.shadows and stated.shadows == "yes",
    }
    for name, value in wanted.items():
        if value is None:
            continue
        others = [one[name] for one in found if name in one]
        found = [one for one in found if one.get(name) == value]
        if not found:
            expected = " or ".join(dict.fromkeys(map(_words, others)))
            expected = expected or "no such option: the model observes no such images"
            raise ValueError(f"{_option(name, getattr(stated, name))}: expected {expected}")
    return found


def _find_control(
    env_id: str, space: spaces.Space[Any], stated: SB3Options
) -> tuple[list[str], list[str]]:
    """Control modes that a model may have been trained in, and those that have its action space.

    In the others it acted under RescaleAction.

    Raises:
        ValueError: There are none.
    """
    boxes = {}
    for mode in CONTROL_MODES:
        env = gym.make(env_id, disable_env_checker=True, control_mode=mode)
        boxes[mode] = env.action_space
        env.close()
    equal = [mode for mode, box in boxes.items() if box == space]
    modes = list(equal)
    # RescaleAction has other bounds; those of a task prove its control mode.
    if isinstance(space, spaces.Box) and space.is_bounded():
        usual = len({*space.low.flat}) == len({*space.high.flat}) == 1
        if usual or not equal:
            modes += [
                mode for mode, box in boxes.items() if box.shape == space.shape and box != space
            ]
    if stated.control_mode is not None:
        modes = [mode for mode in modes if mode == stated.control_mode]
    if not modes:
        wanted = stated.control_mode
        of = f"that of {_option('control_mode', wanted)}, {boxes[wanted]}" if wanted else "any"
        raise ValueError(f"its action space {space} is not {of} in {env_id}")
    return modes, equal


def _image_size(space: spaces.Space[Any]) -> tuple[int, int] | None:
    """Height and width of the images in a model's observation space."""
    if isinstance(space, spaces.Dict):
        for key in ("pixels", "depth"):
            shape = space[key].shape if key in space.keys() else None  # noqa: SIM118
            if shape is not None and len(shape) == 3:
                first = 1 if shape[0] <= 4 else 0  # channels first
                return shape[first], shape[first + 1]
    return None


def _same_but_normalized(statistics: Any, space: spaces.Space[Any]) -> bool:
    """Whether VecNormalize was around an env of an observation space."""
    from stable_baselines3.common.preprocessing import is_image_space

    theirs = statistics.observation_space
    if not isinstance(theirs, spaces.Dict) or not isinstance(space, spaces.Dict):
        return False
    images = [key for key in space if is_image_space(space[key])]
    normalized = statistics.norm_obs_keys if statistics.norm_obs else []
    return theirs.keys() == space.keys() and all(
        theirs[key].shape == space[key].shape
        if key in images and key in normalized
        else theirs[key] == space[key]
        for key in space
    )


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """An observation space as a model has it: Stable-Baselines3 puts channels first."""
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.vec_env import VecTransposeImage

    assert isinstance(space, spaces.Dict)
    return spaces.Dict(
        {
            key: VecTransposeImage.transpose_space(part, key)  # type: ignore[arg-type]
            if is_image_space(part)
            else part
            for key, part in space.items()
        }
    )


def _option(name: str, value: Any) -> str:
    """An option as on the command line."""
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
