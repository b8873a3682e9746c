"""Collect what an expert does where a student led: ``python -m policies.collect --policy DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from experts.collect import PartRecorder, Parts, check_output, produce
from experts.dataset.format import Demo
from experts.dataset.recorder import Recipe, Recorder, lab_of
from komo_envs.env import KomoEnv
from komo_envs.lab import Lab
from komo_envs.registration import check_module
from komo_envs.suite import TRAIN
from komo_envs.utils.cli import fail, parse, plain
from policies.base import Observation
from policies.hashing import hash_checkpoint
from policies.rollout import infos
from policies.student.checkpoint import Card, read_card
from policies.student.policy import load_student

MODULE = "policies.collect"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Collect demonstrations in which a student begins, and its expert takes over.

    Each episode is played twice: the student alone, to see how long it takes; then the same until a
    step that is drawn from those, and the expert from there to the end. Training learns from what
    the expert does. The same command goes on where it stopped.
    """

    policy: Path
    """Folder of the student."""
    out: Path
    """The HDF5 file, as of experts.collect."""
    episodes: int = 500
    """How many, one for each seed."""
    first_seed: int = 100_000
    """Of the training seeds: others than those that the student learned from."""
    lab: str | None = None
    """The file that says what a laboratory has, if the student learned to see from where its
    cameras are."""
    workers: int | None = None
    """Processes that collect; as many as there are cores if not given. They change nothing else."""
    trust_code: bool = False
    """Whether the student may name a module that is imported, which runs its code: an
    environment of the kind module:Id."""


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    try:
        for name in ("episodes", "workers"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value}: expected 1 or more")
        if seeds.start < TRAIN.start or seeds.stop > TRAIN.stop:
            raise ValueError(
                f"--first-seed {seeds.start}: expected training seeds, {TRAIN.start} to "
                f"{TRAIN.stop - 1}; {len(seeds)} episodes would take those up to {seeds.stop - 1}"
            )
        card = read_card(arguments.policy)
        check_module(f"--policy {arguments.policy}", card.layout.env_id, arguments.trust_code)
        if card.origin.shadows:
            raise ValueError(
                f"--policy {arguments.policy}: learned from images with shadows; expected a "
                "student of images without, as those of demonstrations are"
            )
        recipe = recipe_of(card, arguments.lab)
        lab = lab_of(recipe)
        recorder = HandoverRecorder(recipe, arguments.policy, lab)
        recorder.close()
        head = recorder.recorder.head(seeds, f"{card.name} {hash_checkpoint(arguments.policy)}")
        check_output(arguments.out, head)
        parts = Parts(arguments.out)
    except ValueError as error:
        fail(MODULE, error)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    make_recorder = partial(HandoverRecorder, recipe, arguments.policy, lab)
    make_player = partial(PartRecorder, make_recorder, recipe.control_mode)
    produce(MODULE, parts, seeds, head, make_player, arguments.workers)


def recipe_of(card: Card, lab: str | None) -> Recipe:
    """What the student sees, in the pictures of a laboratory's cameras, and how it acts."""
    layout = card.layout
    return Recipe(
        env=layout.env_id,
        control_mode=layout.control_mode,
        image_size=layout.image_size,
        cameras=layout.cameras,
        lab=lab,
    )


class HandoverRecorder:
    """Records episodes in which a student acts until a step that is drawn, and then the expert.

    Args:
        recipe: Of the demonstrations.
        folder: Of the student.
        lab: What the recipe's laboratory has.
    """

    def __init__(self, recipe: Recipe, folder: Path, lab: Lab | None) -> None:
        self.recorder = Recorder(recipe, lab)
        self._env: KomoEnv = self.recorder.env.unwrapped  # type: ignore[assignment]
        self._student = load_student(folder, recipe.env)
        # It draws no more than the student sees.
        options = {**self._student.env_options, "lab": lab}
        self._alone = gym.make(recipe.env, disable_env_checker=True, **options)

    def record(self, seed: int) -> Demo:
        """Play the episode of a seed."""
        steps = len([*infos(self._student, self._alone, seed)])  # with success or without
        # The scene is drawn from the seed alone: the word keeps the two apart.
        handover = int(np.random.default_rng([seed, *b"handover"]).integers(1, steps + 1))
        self._student.set_random_seed(seed)
        return self.recorder.record(seed, self, handover)

    def predict(
        self, obs: Observation, state: Any = None, episode_start: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], Any]:
        """The student's action (A,); one of states sees what is not recorded with the pictures."""
        states = self._student.env_options["obs_mode"] == "state"
        seen = self._env.observe("state") if states else obs
        return self._student.predict(seen, state, episode_start)

    def close(self) -> None:
        """Close the envs."""
        self.recorder.close()
        self._alone.close()


if __name__ == "__main__":
    main()
