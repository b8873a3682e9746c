"""Render stored demonstrations: ``python -m experts.render demos/push.h5 --out NEW``.

Images are rendered from the stored states. No physics runs, so they show what happened, on any
machine.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tyro.conf import Positional

from experts.dataset.card import FPS, check_card, summary, write_card
from experts.dataset.format import (
    HEAD,
    Demo,
    DemoFile,
    demo_bytes,
    flatten,
    unpack_state,
    write_head,
)
from komo_envs.entities import Array, Body
from komo_envs.env import KomoEnv, unwrap
from komo_envs.lab import load_lab
from komo_envs.observations import Observation
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, replacing
from komo_envs.utils.video import write_video
from komo_envs.worlds import WorldState

MODULE = "experts.render"


@dataclass(frozen=True)
class Arguments:
    """Render images of stored demonstrations again, from the stored states.

    The output is a new file of demonstrations that differs in the images only, or a video of one
    demonstration.
    """

    file: Positional[Path]
    """File of demonstrations, HDF5."""
    out: Path
    """Output file: .h5 for a file of demonstrations, .mp4 for a video."""
    image_size: int | None = None
    """Side of the images, pixels; as in the file if not given, 480 in a video."""
    cameras: tuple[str, ...] | None = None
    """Names of the cameras (front, wrist); as in the file if not given. A video has one camera, or
    the view of render() if none is given."""
    shadows: bool = False
    """Render soft shadows."""
    lab: Path | None = None
    """Laboratory file, for images from the poses of its cameras; not for a video."""
    demo: int | None = None
    """Index of the demonstration that the video shows; the first if not given."""
    trust_code: bool = False
    """Whether a module that the file names (an env module:Id) may be imported, which runs its
    code."""


def main() -> None:
    """Run the command."""
    arguments = parse(Arguments, MODULE)
    try:
        check(arguments)
        with DemoFile(arguments.file, arguments.trust_code) as file:
            render = render_file if arguments.out.suffix == ".h5" else render_video
            render(file, arguments)
    except (ValueError, IndexError) as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted; nothing is written", code=130)
    except (OSError, RuntimeError) as error:
        fail(MODULE, f"stopped: {plain(error)}; nothing is written", code=1)
    with printing(MODULE, f"{arguments.out} is complete"):
        if arguments.out.suffix == ".h5":
            with DemoFile(arguments.out) as file:
                print(summary(file))
        else:
            print(f"{arguments.out}: demonstration {arguments.demo or 0} of {arguments.file}")


def check(arguments: Arguments) -> None:
    """Check the arguments.

    Raises:
        ValueError: One is wrong.
    """
    out, side = arguments.out, arguments.image_size
    if out.suffix not in (".h5", ".mp4"):
        raise ValueError(f"--out {out}: expected a name that ends in .h5 or .mp4")
    check_writable("--out", out)
    if out.exists():
        raise ValueError(f"--out {out}: is there already; choose another name")
    if out.suffix == ".h5":
        check_card("--out", out)
        if arguments.demo is not None:
            raise ValueError(f"--demo {arguments.demo}: only a video shows a single one")
    elif arguments.lab is not None:  # a video has the cameras of the file's images
        raise ValueError(f"--lab {arguments.lab}: expected none for a video")
    elif side is not None and (side % 2 or not 16 <= side <= 4096):
        raise ValueError(f"--image-size {side}: expected an even number from 16 to 4096")


class StoredWorld:
    """A world that does not simulate, but replays stored states.

    Args:
        states: (T, S), see ``experts.dataset.format.pack_state``.
    """

    def __init__(self, states: NDArray[np.float64]) -> None:
        self._states = states

    def reset(
        self,
        q: Array,
        bodies: Sequence[Body],
        arm_collides: bool = False,
        stiffness: float = 1.0,
    ) -> WorldState:
        """The first state, whatever is asked for."""
        self._next = 0
        return self.step(q)

    def step(self, reference: Array) -> WorldState:
        """The next state, whatever is asked for; after the last one, that again."""
        state = unpack_state(self._states[self._next])
        self._next = min(self._next + 1, len(self._states) - 1)
        return state

    def close(self) -> None:
        """Do nothing: no resources are held."""


def render_file(file: DemoFile, arguments: Arguments) -> None:
    """Write a file with the same demonstrations and other images.

    Raises:
        ValueError: An option is not one of the env's.
        OSError: It cannot be written.
    """
    options: dict[str, Any] = {"shadows": True} if arguments.shadows else {}
    if arguments.image_size is not None:
        options["image_size"] = arguments.image_size
    if arguments.cameras is not None:
        options["cameras"] = arguments.cameras
    if arguments.lab is not None:
        options["lab"] = asdict(load_lab(arguments.lab).rendered())
    env = unwrap(file.make_env(**options))
    head = {name: file.head[name] for name in HEAD}
    head["env_args"] = {
        **head["env_args"],
        "env_kwargs": {**head["env_args"]["env_kwargs"], **options},
    }
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    try:
        with replacing(arguments.out) as scratch, h5py.File(scratch, "w", locking=False) as new:
            data = new.create_group("data")
            indices = range(len(file))
            for index in track(indices, "Rendering", console=console, disable=hidden):
                demo = file[index]
                rerender(env, demo)
                # Packed in memory: HDF5 does not recover from a full disk while it packs.
                with h5py.File(io.BytesIO(demo_bytes(demo, file.control_mode)), "r") as part:
                    part.copy("demo", data, name=f"demo_{index}")
            write_head(new, head)
            data.attrs["rerendered"] = json.dumps({**file.rerendered, **options})
    finally:
        env.close()
    with DemoFile(arguments.out) as rendered:
        write_card(rendered)


def rerender(env: KomoEnv, demo: Demo) -> None:
    """Replace a demonstration's images by those that ``env`` renders of its states."""
    observations = [flatten(observation) for observation in _observations(env, demo)]
    for name in [name for name in demo.obs if name.startswith(("pixels", "depth"))]:
        del demo.obs[name]
    for name in [name for name in observations[0] if name.startswith(("pixels", "depth"))]:
        demo.obs[name] = np.stack([observation[name] for observation in observations])


def _observations(env: KomoEnv, demo: Demo) -> Iterator[Observation]:
    """Observations of a demonstration's states, into which ``env`` is brought one by one."""
    env.set_world(StoredWorld(demo.states))
    yield env.reset(options={"scene": demo.scene})[0]
    for action in demo.executed:
        yield env.step(action)[0]


def render_video(file: DemoFile, arguments: Arguments) -> None:
    """Write a video of one demonstration.

    Raises:
        ValueError: An option is not one of the env's.
        IndexError: There is no such demonstration.
        OSError: It cannot be written.
    """
    demo = file[arguments.demo or 0]
    side = arguments.image_size or 480
    env = unwrap(file.make_env(obs_mode="state"))
    camera = env.task.render_camera
    if arguments.cameras is not None:
        placed = env.task.cameras if env.lab is None else env.lab.calibrated(env.task.cameras)
        known = {camera.name: camera for camera in placed}
        if len(arguments.cameras) != 1 or arguments.cameras[0] not in known:
            raise ValueError(f"--cameras {arguments.cameras}: expected one of {', '.join(known)}")
        camera = known[arguments.cameras[0]]
    try:
        with replacing(arguments.out) as scratch:
            frames = (
                env.render_images((camera,), (side, side), arguments.shadows)[0].rgb
                for _ in _observations(env, demo)
            )
            write_video(scratch, frames, FPS)
    finally:
        env.close()


if __name__ == "__main__":
    main()
