"""Play stored demonstrations again, and compare: ``python -m experts.replay demos/push.h5``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import Positional

from experts.dataset.format import Arrays, Demo, DemoFile, flatten, pack_state
from experts.dataset.recorder import SOURCES
from komo_envs.control import CONTROL_MODES
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.stats import wilson
from komo_envs.utils.workers import WorkerError, Workers

MODULE = "experts.replay"


@dataclass(frozen=True)
class Arguments:
    """Set up each stored scene, play the stored actions, and compare what comes out.

    First what was done, which has to give the same states and images, bit for bit; then what the
    expert wanted, in each control mode, which has to succeed as often. Ends with exit code 1 where
    something differs.
    """

    file: Positional[Path]
    """Of demonstrations."""
    episodes: int | None = None
    """How many, the first ones; all if not given."""
    workers: int | None = None
    """Processes that play; as many as there are cores if not given."""
    trust_code: bool = False
    """Whether the file may name a module that is imported, which runs its code: an
    environment of the kind module:Id."""


@dataclass(frozen=True)
class Comparison:
    """What came of one demonstration."""

    demo: int
    stored: bool
    """Whether it succeeded when it was collected."""
    difference: str | None
    """The first thing that differs in what was done: None if nothing does."""
    successes: dict[str, bool]
    """By control mode, whether it succeeds when the expert's actions are played in it."""
    same: dict[str, bool]
    """By control mode, whether it then ends in the same state, bit for bit."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        with DemoFile(arguments.file, arguments.trust_code) as file:
            if file.backend != "sim":
                raise ValueError(
                    f"{arguments.file}: was collected in real time (backend {file.backend}), "
                    "which nothing repeats; expected demonstrations of backend sim"
                )
            file.make_env().close()
            there, others = len(file), other_versions(file)
            mode = None if file.perturbed else file.control_mode
        episodes = there if arguments.episodes is None else arguments.episodes
        if not 1 <= episodes <= there:
            raise ValueError(f"--episodes {episodes}: expected 1 to {there}, those in the file")
        if arguments.workers is not None and arguments.workers < 1:
            raise ValueError(f"--workers {arguments.workers}: expected 1 or more")
        workers = min(arguments.workers or provenance.usable_cores(), episodes)
        comparisons = play(arguments.file, episodes, workers, arguments.trust_code)
    except ValueError as error:
        fail(MODULE, error)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    except (WorkerError, OSError) as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    with printing(MODULE, "everything is compared"):
        good = show(comparisons, mode)
        if not good and others:
            print(f"They were collected elsewhere, with {others}.")
    raise SystemExit(0 if good else 1)


def other_versions(file: DemoFile) -> str:
    """Of what the file was collected with, what is not the same here, in words."""
    here = {**provenance.versions([file.env_id], SOURCES), **provenance.machine()}
    there = {**file.head["versions"], **file.head["machine"]}
    return ", ".join(f"{name} {value}" for name, value in there.items() if here.get(name) != value)


def play(path: Path, episodes: int, workers: int, trust_code: bool) -> list[Comparison]:
    """Play the first demonstrations of a file again.

    Raises:
        WorkerError: A worker cannot go on.
    """
    comparisons = []
    with Workers(workers, partial(Replayer, path, trust_code)) as pool:
        tasks = [Job(index) for index in range(episodes)]
        console = Console(stderr=True)
        hidden = not sys.stderr.isatty()
        for played in track(
            pool.play(tasks), "Replaying", episodes, console=console, disable=hidden
        ):
            if played.answer is None:
                raise WorkerError(f"{played.task}: {played.given_up}")
            comparisons.append(played.answer)
    return sorted(comparisons, key=lambda comparison: comparison.demo)


class Job(NamedTuple):
    """A demonstration to play: what ``Replayer.play`` takes."""

    demo: int

    def __str__(self) -> str:
        """As an error names it."""
        return f"demo_{self.demo}"


class Replayer:
    """Plays demonstrations of a file again."""

    def __init__(self, path: Path, trust_code: bool) -> None:
        self._file = DemoFile(path, trust_code)
        self._env = self._file.make_env()

    def play(self, index: int) -> Comparison:
        """Play one, and compare."""
        demo = self._file[index]
        difference = first_difference(self._env, demo)
        successes, same = {}, {}
        for mode in CONTROL_MODES:
            # Whoever was disturbed on the way has not gone where these actions alone lead.
            if not self._file.perturbed:
                self._env.close()  # never more than one simulation
                env = self._file.make_env(obs_mode="state", control_mode=mode)
                successes[mode] = plays_to_success(env, demo.scene, demo.actions[mode])
                state = pack_state(env.unwrapped.state)  # type: ignore[attr-defined]
                same[mode] = np.array_equal(state, demo.states[-1])
                env.close()
        return Comparison(index, demo.success, difference, successes, same)

    def close(self) -> None:
        """Close env and file."""
        self._env.close()
        self._file.__exit__()


def first_difference(env: gym.Env[Any, Any], demo: Demo) -> str | None:
    """Play what was done; what first comes out other than it did, or None.

    Args:
        env: As it was collected in.
        demo: What is to come out.
    """
    inner: Any = env.unwrapped
    reward: Any = 0.0
    observation, info = env.reset(options={"scene": demo.scene})
    for step in range(len(demo) + 1):
        seen: Arrays = {**flatten(observation), **flatten(inner.observe("state"))}
        seen["states"] = pack_state(inner.state)
        expected = {name: values[step] for name, values in demo.obs.items()}
        expected["states"] = demo.states[step]
        if step > 0:
            seen |= {"success": np.array(info["is_success"]), "reward": np.array(reward)}
            expected |= {"success": demo.successes[step - 1], "reward": demo.rewards[step - 1]}
        for name, value in expected.items():
            if name not in seen or not np.array_equal(seen[name], value):
                return f"{name} at step {step}"
        if step < len(demo):
            observation, reward, _, _, info = env.step(demo.executed[step])
    return None


def plays_to_success(
    env: gym.Env[Any, Any], scene: dict[str, Any], actions: NDArray[np.float32]
) -> bool:
    """Whether playing these actions (T, A), whatever happens, ends in success."""
    env.reset(options={"scene": scene})
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return bool(info["is_success"])


def show(comparisons: Sequence[Comparison], acted_in: str | None) -> bool:
    """Print what came out.

    Args:
        comparisons: Of all that was played.
        acted_in: Control mode in which it was collected; None if something else was done than the
            expert wanted.

    Returns:
        Whether it is all as it should be.
    """
    count = len(comparisons)
    different = [c for c in comparisons if c.difference]
    print(f"{count - len(different)} of {count} demonstrations come out the same, bit for bit.")
    for comparison in different[:10]:
        print(f"demo_{comparison.demo}: {comparison.difference} differs")
    if acted_in is None:
        print("Something else was done than the expert wanted, so that is not played by itself.")
        return not different
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("played in", "successes", "95 % interval", "the same, bit for bit"):
        table.add_column(heading)
    stored = sum(c.stored for c in comparisons)
    successes, same = {"stored": stored}, {"stored": count}
    for mode in CONTROL_MODES:
        successes[mode] = sum(c.successes[mode] for c in comparisons)
        same[mode] = sum(c.same[mode] for c in comparisons)
    for name, number in successes.items():
        low, high = wilson(number, count)
        interval = f"{low:.1%} to {high:.1%}"
        table.add_row(name, f"{number} of {count}", interval, f"{same[name]} of {count}")
    Console(markup=False, highlight=False).print(table)
    if acted_in == "joint":  # the other modes take other postures, so it may come out otherwise
        return not different and same["joint"] == count
    # As often: within what chance would give.
    return not different and all(n >= wilson(stored, count)[0] * count for n in successes.values())


if __name__ == "__main__":
    main()
