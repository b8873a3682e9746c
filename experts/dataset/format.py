"""The demonstration format: an HDF5 file in robomimic's layout, lossless.

    data                    attributes: format, version, suite, total, and in JSON env_args, recipe,
                            versions, machine
      demo_0                attributes: num_samples (T), seed, scene, style, success, terminated;
                            intervention, the step at which the expert intervenes
        obs/KEY             (T, ...) before each action, by the keys of the env's observations:
          pixels            uint8 (T, H, W, 3); with several cameras, pixels_front and so on
          depth             uint16 (T, H, W, 1), mm, 0 where there is none
          agent_pos, goal   float32, not privileged (obs_mode "rgb", "depth", "rgbd")
          observation, achieved_goal, desired_goal     float32, privileged (obs_mode "state")
        final_obs/KEY       (1, ...) the same after the last action
        states              float64 (T, S), the whole state of the world: see ``pack_state``
        final_state         float64 (1, S)
        action_dict/MODE    float32 (T, A), the expert's actions in every control mode; before an
                            intervention, the student's
        actions             those of the env's own control mode, the same data
        executed_actions    float32 (T, A), the executed ones, in the env's own control mode
        rewards             float64 (T,), sparse
        dones               bool (T,), true at the end
        reward_terms/NAME   float64 (T,), terms of the dense reward
        successes           bool (T,), info["is_success"] after each action
        distances           float64 (T,), m, info["distance"] after each action
      demo_1 ...
    mask/successful         names of the demonstrations that end in success

Observations and states are those of the env, bit for bit, except for depth, which is rounded to mm.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from numpy.typing import NDArray

from komo_envs.lab import make_lab
from komo_envs.registration import check_module, find_spec
from komo_envs.suite import SUITE
from komo_envs.tasks import Scene
from komo_envs.utils.files import NO_LOCKS
from komo_envs.worlds import WorldState

FORMAT = "komo-envs demonstrations"
VERSION = 3

HEAD = ("env_args", "recipe", "versions", "machine")
"""Attributes of ``data`` that concern all demonstrations of a file, in JSON."""

OPTIONS = ("obs_mode", "control_mode", "image_size", "cameras", "shadows", "lab")
"""Options of the env that a file may name."""

MOST_BYTES = 2**30
"""Largest size of one array of a demonstration."""

Arrays = dict[str, NDArray[Any]]
"""Arrays by name; a ``/`` in a name is a group of the file."""

# Measured on both tasks: several frames a chunk are a third smaller than one, since frames are
# similar; more than 8 gain little, and a reader of single frames has to unpack them all.
FRAMES_PER_CHUNK = 8
GZIP_LEVEL = 6


@dataclass(frozen=True)
class Demo:
    """One demonstration of T actions."""

    seed: int
    """Seed of the scene and of everything else that was sampled in the episode."""
    scene: Scene
    style: dict[str, Any]
    """Style of the expert: the fields of ``experts.Style``."""
    success: bool
    """Success at the end."""
    terminated: bool
    """Whether success ended the episode, not the time limit."""
    obs: Arrays
    """Observations before each action, and after the last one: (T + 1, ...) each, by key."""
    states: NDArray[np.float64]
    """(T + 1, S), see ``pack_state``."""
    actions: Arrays
    """The expert's actions, by control mode: (T, A) each."""
    executed: NDArray[np.float32]
    """Executed actions (T, A), in the env's own control mode."""
    rewards: NDArray[np.float64]
    """(T,)"""
    reward_terms: Arrays
    """(T,) each, by name."""
    successes: NDArray[np.bool_]
    """(T,), after each action."""
    distances: NDArray[np.float64]
    """(T,), m, after each action."""
    intervention: int = 0
    """Step at which the expert intervenes: T where a student acts throughout."""

    def __len__(self) -> int:
        return len(self.executed)


def pack_state(state: WorldState) -> NDArray[np.float64]:
    """Pack the state of a world with N bodies into (98 + 13 N,).

    Time, q (7), qdot (7), link poses (11 x 7), body poses (N x 7), body velocities (N x 6).
    """
    parts = (state.link_poses, state.body_poses, state.body_velocities)
    return np.concatenate([[state.time], state.q, state.qdot, *(part.ravel() for part in parts)])


_BEFORE_BODIES = 1 + 7 + 7 + 11 * 7


def unpack_state(row: NDArray[np.float64]) -> WorldState:
    """Unpack what ``pack_state`` has packed."""
    bodies = (len(row) - _BEFORE_BODIES) // 13
    poses = _BEFORE_BODIES + 7 * bodies
    return WorldState(
        time=float(row[0]),
        q=row[1:8],
        qdot=row[8:15],
        link_poses=row[15:_BEFORE_BODIES].reshape(11, 7),
        body_poses=row[_BEFORE_BODIES:poses].reshape(bodies, 7),
        body_velocities=row[poses:].reshape(bodies, 6),
    )


def flatten(observation: Mapping[str, Any]) -> Arrays:
    """Flatten an observation as in a file: each image under its own name, depth in mm."""
    flat: Arrays = {}
    for key, value in observation.items():
        images = value if isinstance(value, Mapping) else {None: value}
        for camera, image in images.items():
            in_mm = np.round(image * 1000.0).astype(np.uint16) if key == "depth" else image
            flat[key if camera is None else f"{key}_{camera}"] = in_mm
    return flat


def image_names(key: str, cameras: Sequence[str]) -> dict[str, str]:
    """Names that ``flatten`` gives the images of ``"pixels"`` or ``"depth"``, by camera."""
    if len(cameras) == 1:
        return {cameras[0]: key}
    return {camera: f"{key}_{camera}" for camera in cameras}


def write_demo(group: h5py.Group, demo: Demo, mode: str) -> None:
    """Write a demonstration into an empty group.

    Args:
        group: Empty group of the file.
        demo: Demonstration to write.
        mode: The env's own control mode.
    """
    attributes = {
        "num_samples": len(demo),
        "seed": demo.seed,
        "scene": json.dumps(demo.scene),
        "style": json.dumps(demo.style),
        "success": demo.success,
        "terminated": demo.terminated,
        "intervention": demo.intervention,
    }
    for name, value in attributes.items():
        group.attrs[name] = value
    for name, array in demo.obs.items():
        _write(group, f"obs/{name}", array[:-1])
        _write(group, f"final_obs/{name}", array[-1:])
    _write(group, "states", demo.states[:-1])
    _write(group, "final_state", demo.states[-1:])
    for name, array in demo.actions.items():
        _write(group, f"action_dict/{name}", array)
    group["actions"] = group[f"action_dict/{mode}"]  # a hard link: the same data
    _write(group, "executed_actions", demo.executed)
    _write(group, "rewards", demo.rewards)
    _write(group, "dones", np.arange(len(demo)) == len(demo) - 1)
    for name, array in demo.reward_terms.items():
        _write(group, f"reward_terms/{name}", array)
    _write(group, "successes", demo.successes)
    _write(group, "distances", demo.distances)


def _write(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    frames = len(array) if array[0].nbytes < 1024 else min(len(array), FRAMES_PER_CHUNK)
    # Neighboring bytes of wide numbers differ; the shuffle brings those of one rank together.
    group.create_dataset(
        name,
        data=array,
        chunks=(frames, *array.shape[1:]),
        compression="gzip",
        compression_opts=GZIP_LEVEL,
        shuffle=array.dtype.itemsize >= 4,
    )


def read_demo(group: h5py.Group) -> Demo:
    """Read a demonstration that ``write_demo`` has written."""

    def arrays(name: str) -> Arrays:
        found: Arrays = {}
        group[name].visititems(
            lambda key, item: (
                found.update({key: item[:]}) if isinstance(item, h5py.Dataset) else None
            )
        )
        return found

    obs, final = arrays("obs"), arrays("final_obs")
    return Demo(
        seed=int(group.attrs["seed"]),
        scene=json.loads(group.attrs["scene"]),
        style=json.loads(group.attrs["style"]),
        success=bool(group.attrs["success"]),
        terminated=bool(group.attrs["terminated"]),
        obs={name: np.concatenate([obs[name], final[name]]) for name in obs},
        states=np.concatenate([group["states"][:], group["final_state"][:]]),
        actions=arrays("action_dict"),
        executed=group["executed_actions"][:],
        rewards=group["rewards"][:],
        reward_terms=arrays("reward_terms"),
        successes=group["successes"][:],
        distances=group["distances"][:],
        intervention=int(group.attrs["intervention"]),
    )


def demo_bytes(demo: Demo, mode: str) -> bytes:
    """Bytes of an HDF5 file with one demonstration, in the group ``demo``."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        write_demo(file.create_group("demo"), demo, mode)
    return memory.getvalue()


def write_head(file: h5py.File, head: Mapping[str, Any]) -> None:
    """Write the attributes that concern all demonstrations into a file that has these.

    Args:
        file: File with the group ``data``.
        head: Values of ``HEAD``, of types that JSON has.
    """
    data = file["data"]
    samples = [data[f"demo_{i}"].attrs["num_samples"] for i in range(len(data))]
    attributes = {"format": FORMAT, "version": VERSION, "suite": SUITE, "total": sum(samples)}
    for name, value in attributes.items():
        data.attrs[name] = value
    for name, value in head.items():
        data.attrs[name] = json.dumps(value)
    successful = [f"demo_{i}" for i in range(len(data)) if data[f"demo_{i}"].attrs["success"]]
    file.create_dataset("mask/successful", data=np.array(successful, dtype="S"))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, errors become a ValueError that the file is damaged: HDF5 raises many kinds.

    Args:
        path: Path of the file.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


def _own(group: h5py.Group, name: str) -> Any:
    """The item of a group under a name. Links are refused: they may lead into other files."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{group.name}: {name}: expected the data themselves, no link to others")
    return group[name]


def _check_parts(group: h5py.Group) -> None:
    """Refuse arrays that claim to be larger than ``MOST_BYTES``, links, and data in other files."""
    for name in group:
        item = _own(group, name)
        if isinstance(item, h5py.Group):
            _check_parts(item)
        elif item.is_virtual or item.external:
            raise ValueError(f"{item.name}: is kept in another file; expected it in this one")
        elif item.nbytes > MOST_BYTES:
            raise ValueError(f"{item.name}: of {item.nbytes} bytes; expected at most {MOST_BYTES}")


def _open(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        ValueError: It is no HDF5 file, or another process has it open for writing.
        OSError: It cannot be read.
    """
    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return h5py.File(path, "r", locking=False)
    except BlockingIOError as error:
        raise ValueError(f"{path}: another process has it open for writing") from error
    except OSError as error:
        if error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise ValueError(f"{path}: is no HDF5 file, or not a whole one: {error}") from error


class DemoFile:
    """A file of demonstrations, open for reading. A context; ``file[i]`` is a ``Demo``.

    Args:
        path: Path of the file.
        trust_code: Whether the module of its env may be imported, if it names one.

    Raises:
        ValueError: It is no valid file of demonstrations, or of another version of the format.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, trust_code: bool = False) -> None:
        self.path = path
        self._trust_code = trust_code
        if not path.is_file():
            raise ValueError(f"{path}: expected a file of demonstrations; there is none")
        path.open("rb").close()  # names the reason if it may not be read
        self._file = _open(path)
        try:
            self._read_head()
        except Exception as error:  # of any kind: HDF5 has many for a file that is damaged
            self._file.close()
            raise ValueError(f"{path}: is no valid file of demonstrations: {error}") from error

    def _read_head(self) -> None:
        data = _own(self._file, "data")
        kind, version = data.attrs["format"], int(data.attrs["version"])
        if (kind, version) != (FORMAT, VERSION):
            raise ValueError(
                f"{kind}, version {version}; expected {FORMAT}, version {VERSION}: collect them "
                "again with this version of the project"
            )
        if set(data) != {f"demo_{index}" for index in range(len(data))}:
            raise ValueError(f"expected demo_0 to demo_{len(data) - 1}, got others")
        self.head = {name: json.loads(data.attrs[name]) for name in HEAD}
        self.suite = str(data.attrs["suite"])
        self.env_args: dict[str, Any] = self.head["env_args"]
        self.recipe: dict[str, Any] = self.head["recipe"]
        options, recipe = self.env_args["env_kwargs"], self.recipe
        known = [self.env_args["env_name"], options["control_mode"], *options["cameras"]]
        wanted = {"noise", "student", "backend", "lab"}
        if not all(isinstance(name, str) for name in known) or not wanted <= {*recipe}:
            raise ValueError(f"env_args or recipe: {known}, {sorted(recipe)}: not as collected")
        # No file imports a task, moves a robot, or makes it easier.
        for name in sorted(set(options) - set(OPTIONS)):
            raise ValueError(f"env_kwargs: {name!r}: expected some of {', '.join(OPTIONS)}")
        if "lab" in options:
            # A text would be the name of a file, to be opened.
            lab = make_lab(options["lab"]) if isinstance(options["lab"], dict) else None
            if lab is None or lab != lab.rendered():
                raise ValueError(
                    "env_kwargs: lab: expected where cameras are, and no more: a rehearsal, with "
                    "each source rendered and no markers"
                )

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["data"])

    def __getitem__(self, index: int) -> Demo:
        group = self.group(index)
        with reading(self.path):
            return read_demo(group)

    def __iter__(self) -> Iterator[Demo]:
        return (self[index] for index in range(len(self)))

    def group(self, index: int) -> h5py.Group:
        """The group of a demonstration, to read single arrays of it inside ``reading``.

        Raises:
            IndexError: There is no such demonstration.
            ValueError: It is damaged, or claims a size that no demonstration has.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: demonstration {index}; there are {len(self)}")
        with reading(self.path):
            group = _own(self._file["data"], f"demo_{index}")
            _check_parts(group)
        return group

    @property
    def env_id(self) -> str:
        """Id of the env that they were collected in."""
        return str(self.env_args["env_name"])

    @property
    def control_mode(self) -> str:
        """Control mode of that env, of ``executed_actions``, and of ``actions``."""
        return str(self.env_args["env_kwargs"]["control_mode"])

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return tuple(self.env_args["env_kwargs"]["cameras"])

    @property
    def camera_options(self) -> dict[str, Any]:
        """Options of the env that images depend on besides cameras and their size."""
        options = self.env_args["env_kwargs"]
        return {name: options[name] for name in ("shadows", "lab") if name in options}

    @property
    def rerendered(self) -> dict[str, Any]:
        """Options with which images were rendered from states; empty if they were collected."""
        return dict(json.loads(self._file["data"].attrs.get("rerendered", "{}")))

    @property
    def backend(self) -> str:
        """Backend that they were collected with: ``"sim"``, ``"botop"`` or ``"real"``."""
        return str(self.recipe["backend"])

    @property
    def perturbed(self) -> bool:
        """Whether executed actions differ from the expert's."""
        return bool(self.recipe["noise"]) or self.recipe["student"] is not None

    def make_env(self, **options: Any) -> gym.Env[Any, Any]:
        """Make the env that they were collected in, in simulation, perhaps with other options.

        Raises:
            ValueError: There is no such env, or it has no such options, or its module is not
                trusted.
        """
        check_module(str(self.path), self.env_id, self._trust_code)
        find_spec(self.env_id)  # imports the module of a task from elsewhere
        kwargs = {**self.env_args["env_kwargs"], **options}
        try:
            return gym.make(self.env_id, disable_env_checker=True, **kwargs)
        except TypeError as error:
            raise ValueError(f"{self.path}: {self.env_id} cannot be made: {error}") from error
