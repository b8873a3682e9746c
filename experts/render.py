"""See demonstrations with other eyes: ``python -m experts.render demos/push.h5 --out NEW``.

Pictures are drawn from the stored states: no physics runs, so they show what happened, whatever
machine draws them.
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
import imageio.v2 as imageio
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
from komo_envs.env import KomoEnv
from komo_envs.lab import load_lab
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.files import check_writable, replacing
from komo_envs.worlds import WorldState

MODULE = "experts.render"


@dataclass(frozen=True)
class Arguments:
    """Draw the pictures of stored demonstrations anew, from the stored states.

    Into a new file of demonstrations, all else being the same, or into a video of one of them.
    """

    file: Positional[Path]
    """Of demonstrations."""
    out: Path
    """A name that ends in .h5 for a new file, in .mp4 for a video."""
    image_size: int | None = None
    """Side of the pictures in pixels; as in the file if not given, 480 in a video."""
    cameras: tuple[str, ...] | None = None
    """Names of the cameras: front, wrist; as in the file if not given. A video has one, or
    the view of render() if none is given."""
    shadows: bool = False
    """Draw soft shadows."""
    lab: Path | None = None
    """The file that says what a laboratory has: a new file is seen from where its cameras are."""
    demo: int | None = None
    """Which one the video shows; the first if not given."""
    trust_code: bool = False
    """Whether the file may name a module that is imported, which runs its code: an
    environment of the kind module:Id."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        check(arguments)
        with DemoFile(arguments.file, arguments.trust_code) as file:
            draw = draw_file if arguments.out.suffix == ".h5" else draw_video
            draw(file, arguments)
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
    elif arguments.lab is not None:  # a video is seen from where the file's pictures are
        raise ValueError(f"--lab {arguments.lab}: expected none for a video")
    elif side is not None and (side % 2 or not 16 <= side <= 4096):
        raise ValueError(f"--image-size {side}: expected an even number from 16 to 4096")


class StoredWorld:
    """A world that does not simulate, but goes through states that were stored.

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
        """Nothing is held."""


def draw_file(file: DemoFile, arguments: Arguments) -> None:
    """Write a file with the same demonstrations and other pictures.

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
    env: Any = file.make_env(**options).unwrapped
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
            for index in track(indices, "Drawing", console=console, disable=hidden):
                demo = file[index]
                redraw(env, demo)
                # By way of the memory: HDF5 bears no full disk in the midst of packing.
                with h5py.File(io.BytesIO(demo_bytes(demo, file.control_mode)), "r") as part:
                    part.copy("demo", data, name=f"demo_{index}")
            write_head(new, head)
            data.attrs["rerendered"] = json.dumps({**file.rerendered, **options})
    finally:
        env.close()
    with DemoFile(arguments.out) as drawn:
        write_card(drawn)


def redraw(env: KomoEnv, demo: Demo) -> None:
    """Exchange a demonstration's pictures for those that ``env`` sees of its states."""
    seen = [flatten(observation) for observation in _watch(env, demo)]
    for name in [name for name in demo.obs if name.startswith(("pixels", "depth"))]:
        del demo.obs[name]
    for name in [name for name in seen[0] if name.startswith(("pixels", "depth"))]:
        demo.obs[name] = np.stack([observation[name] for observation in seen])


def _watch(env: KomoEnv, demo: Demo) -> Iterator[dict[str, Any]]:
    """Bring ``env`` through a demonstration's states; yield what it observes of each."""
    env.set_world(StoredWorld(demo.states))
    yield env.reset(options={"scene": demo.scene})[0]
    for action in demo.executed:
        yield env.step(action)[0]


def draw_video(file: DemoFile, arguments: Arguments) -> None:
    """Write a video of one demonstration.

    Raises:
        ValueError: An option is not one of the env's.
        IndexError: There is no such demonstration.
        OSError: It cannot be written.
    """
    demo = file[arguments.demo or 0]
    side = arguments.image_size or 480
    env: KomoEnv = file.make_env(obs_mode="state").unwrapped  # type: ignore[assignment]
    camera = env.task.render_camera
    if arguments.cameras is not None:
        placed = env.task.cameras if env.lab is None else env.lab.calibrated(env.task.cameras)
        known = {camera.name: camera for camera in placed}
        if len(arguments.cameras) != 1 or arguments.cameras[0] not in known:
            raise ValueError(f"--cameras {arguments.cameras}: expected one of {', '.join(known)}")
        camera = known[arguments.cameras[0]]
    try:
        with replacing(arguments.out) as scratch:
            frames: list[Any] = [
                env.render_images((camera,), (side, side), arguments.shadows)[0].rgb
                for _ in _watch(env, demo)
            ]
            imageio.mimwrite(scratch, frames, fps=FPS, macro_block_size=1)
    finally:
        env.close()


if __name__ == "__main__":
    main()
