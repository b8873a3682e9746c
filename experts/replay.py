"""Replay stored demonstrations and compare: ``python -m experts.replay demos/push.h5``."""

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
from komo_envs import provenance
from komo_envs.control import CONTROL_MODES
from komo_envs.env import unwrap
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.stats import wilson
from komo_envs.utils.workers import WorkerError, Workers

MODULE = "experts.replay"


@dataclass(frozen=True)
class Arguments:
    """Set up each stored scene, play the stored actions, and compare the results.

    The executed actions have to give the same states and images, bit for bit; the expert's actions,
    played in each control mode, have to succeed as often. The exit code is 1 if something differs.
    """

    file: Positional[Path]
    """File of demonstrations, HDF5."""
    episodes: int | None = None
    """Number of demonstrations, from the first on; all if not given."""
    workers: int | None = None
    """Number of worker processes; as many as cores if not given."""
    trust_code: bool = False
    """Whether a module that the file names (an env module:Id) may be imported, which runs its
    code."""


@dataclass(frozen=True)
class ReplayComparison:
    """Comparison of one demonstration with its replays."""

    demo: int
    stored: bool
    """Whether it succeeded when it was collected."""
    difference: str | None
    """The first array that differs when the executed actions are played; None if none does."""
    successes: dict[str, bool]
    """Success when the expert's actions are played, by control mode."""
    same: dict[str, bool]
    """Whether the final state is then the same, bit for bit, by control mode."""


def main() -> None:
    """Run the command."""
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
        good = print_results(comparisons, mode)
        if not good and others:
            print(f"They were collected with other versions or hardware: {others}.")
    raise SystemExit(0 if good else 1)


def other_versions(file: DemoFile) -> str:
    """Versions and machine of a file that differ from those here, in words."""
    here = {**provenance.versions([file.env_id], SOURCES), **provenance.machine()}
    there = {**file.head["versions"], **file.head["machine"]}
    return ", ".join(f"{name} {value}" for name, value in there.items() if here.get(name) != value)


def play(path: Path, episodes: int, workers: int, trust_code: bool) -> list[ReplayComparison]:
    """Play the first demonstrations of a file again.

    Raises:
        WorkerError: A worker cannot go on.
    """
    comparisons = []
    with Workers(workers, partial(Replayer, path, trust_code)) as pool:
        tasks = [ReplayJob(index) for index in range(episodes)]
        console = Console(stderr=True)
        hidden = not sys.stderr.isatty()
        for result in track(
            pool.run(tasks), "Replaying", episodes, console=console, disable=hidden
        ):
            if result.value is None:
                raise WorkerError(f"{result.task}: {result.given_up}")
            comparisons.append(result.value)
    return sorted(comparisons, key=lambda comparison: comparison.demo)


class ReplayJob(NamedTuple):
    """A demonstration to play: the arguments of ``Replayer.run``."""

    demo: int

    def __str__(self) -> str:
        """The job's name in errors."""
        return f"demo_{self.demo}"


class Replayer:
    """Plays demonstrations of a file again.

    Args:
        path: Path of the file.
        trust_code: Whether the module of its env may be imported, if it names one.
    """

    def __init__(self, path: Path, trust_code: bool) -> None:
        self._file = DemoFile(path, trust_code)
        self._env = self._file.make_env()

    def run(self, index: int) -> ReplayComparison:
        """Play one, and compare."""
        demo = self._file[index]
        difference = first_difference(self._env, demo)
        successes, same = {}, {}
        for mode in CONTROL_MODES:
            # A disturbed demonstration is not what these actions alone lead to.
            if not self._file.perturbed:
                self._env.close()  # never more than one simulation
                env = self._file.make_env(obs_mode="state", control_mode=mode)
                successes[mode] = plays_to_success(env, demo.scene, demo.actions[mode])
                state = pack_state(unwrap(env).state)
                same[mode] = np.array_equal(state, demo.states[-1])
                env.close()
        return ReplayComparison(index, demo.success, difference, successes, same)

    def close(self) -> None:
        """Close env and file."""
        self._env.close()
        self._file.__exit__()


def first_difference(env: gym.Env[Any, Any], demo: Demo) -> str | None:
    """Play the executed actions, and name the first array that differs; None if none does.

    Args:
        env: Env as the demonstration was collected in.
        demo: Demonstration.
    """
    inner = unwrap(env)
    reward: Any = 0.0
    observation, info = env.reset(options={"scene": demo.scene})
    for step in range(len(demo) + 1):
        actual: Arrays = {**flatten(observation), **flatten(inner.observe("state"))}
        actual["states"] = pack_state(inner.state)
        expected = {name: values[step] for name, values in demo.obs.items()}
        expected["states"] = demo.states[step]
        if step > 0:
            actual |= {"success": np.array(info["is_success"]), "reward": np.array(reward)}
            expected |= {"success": demo.successes[step - 1], "reward": demo.rewards[step - 1]}
        for name, value in expected.items():
            if name not in actual or not np.array_equal(actual[name], value):
                return f"{name} at step {step}"
        if step < len(demo):
            observation, reward, _, _, info = env.step(demo.executed[step])
    return None


def plays_to_success(
    env: gym.Env[Any, Any], scene: dict[str, Any], actions: NDArray[np.float32]
) -> bool:
    """Whether playing actions (T, A) open loop ends in success."""
    env.reset(options={"scene": scene})
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return bool(info["is_success"])


def print_results(comparisons: Sequence[ReplayComparison], acted_in: str | None) -> bool:
    """Print the comparisons.

    Args:
        comparisons: Comparisons of all demonstrations that were played.
        acted_in: Control mode of the collection; None if executed actions differ from the expert's.

    Returns:
        Whether nothing differs that has to be the same.
    """
    count = len(comparisons)
    different = [c for c in comparisons if c.difference]
    print(f"{count - len(different)} of {count} demonstrations come out the same, bit for bit.")
    for comparison in different[:10]:
        print(f"demo_{comparison.demo}: {comparison.difference} differs")
    if acted_in is None:
        print("Executed actions differ from the expert's, so the expert's are not played alone.")
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
