"""Collect interventions of an expert in a student's episodes (DAgger-style).

``python -m policies.collect --policy pretrained:push --out FILE``
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from experts.dataset.format import Demo
from experts.dataset.parts import PartRecorder, Parts, check_output, produce
from experts.dataset.recorder import Recipe, Recorder, lab_of
from komo_envs.env import unwrap
from komo_envs.lab import Lab
from komo_envs.registration import check_module
from komo_envs.suite import TRAIN
from komo_envs.utils.cli import fail, parse, plain
from policies.base import Observation
from policies.hashing import hash_checkpoint
from policies.rollout import rollout
from policies.spec import check_spec, split_spec
from policies.student.checkpoint import Card, read_card
from policies.student.policy import load_student

MODULE = "policies.collect"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Collect demonstrations in which a student begins, and its expert intervenes.

    Each episode is played twice: first by the student alone; then by the student until a random one
    of those steps, and by the expert from there to the end. Training uses the steps of the expert.
    The same command resumes an interrupted collection.
    """

    policy: str
    """Student: the folder of a checkpoint, or pretrained:NAME."""
    out: Path
    """Output file, HDF5, as of experts.collect."""
    episodes: int = 500
    """Number of episodes, one for each seed."""
    first_seed: int = 100_000
    """First training seed; the student should not have been trained on these."""
    lab: str | None = None
    """Laboratory file, if the student was trained on images from the poses of its cameras."""
    workers: int | None = None
    """Number of worker processes, which changes nothing else; as many as cores if not given."""
    trust_code: bool = False
    """Whether a module that the student names (an env module:Id) may be imported, which runs its
    code."""


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
        check_spec(arguments.policy, arguments.trust_code)
        folder = split_spec(arguments.policy)[0]
        card = read_card(folder)
        check_module(f"--policy {arguments.policy}", card.features.env_id, arguments.trust_code)
        if card.origin.shadows:
            raise ValueError(
                f"--policy {arguments.policy}: learned from images with shadows; expected a "
                "student of images without, as those of demonstrations are"
            )
        recipe = recipe_of(card, arguments.lab)
        lab = lab_of(recipe)
        recorder = InterventionRecorder(recipe, folder, lab)
        recorder.close()
        head = recorder.recorder.head(seeds, f"{card.name} {hash_checkpoint(folder)}")
        check_output(arguments.out, head)
        parts = Parts(arguments.out)
    except ValueError as error:
        fail(MODULE, error)
    except OSError as error:
        fail(MODULE, f"stopped: {plain(error)}", code=1)
    make_recorder = partial(InterventionRecorder, recipe, folder, lab)
    make_runner = partial(PartRecorder, make_recorder, recipe.control_mode)
    produce(MODULE, parts, seeds, head, make_runner, arguments.workers)


def recipe_of(card: Card, lab: str | None) -> Recipe:
    """The student's env, control mode and images, with the cameras of a laboratory if given."""
    features = card.features
    return Recipe(
        env=features.env_id,
        control_mode=features.control_mode,
        image_size=features.image_size,
        cameras=features.cameras,
        lab=lab,
    )


class InterventionRecorder:
    """Records episodes in which a student acts until a random step, and then the expert.

    Args:
        recipe: Recipe of the demonstrations.
        folder: Folder of the student.
        lab: Laboratory of the recipe.
    """

    def __init__(self, recipe: Recipe, folder: Path, lab: Lab | None) -> None:
        self.recorder = Recorder(recipe, lab)
        self._env = unwrap(self.recorder.env)
        self._student = load_student(folder, recipe.env)
        # Renders no images that the student does not observe.
        options = {**self._student.env_options, "lab": lab}
        self._alone = gym.make(recipe.env, disable_env_checker=True, **options)

    def record(self, seed: int) -> Demo:
        """Play the episode of a seed."""
        steps = len([*rollout(self._student, self._alone, seed)]) - 1  # without the reset
        # The scene is sampled from the seed alone: the word keeps the two apart. (It is an older
        # name of interventions, and another one would give other steps.)
        intervention = int(np.random.default_rng([seed, *b"handover"]).integers(1, steps + 1))
        self._student.set_random_seed(seed)
        return self.recorder.record(seed, self, intervention)

    def predict(
        self, obs: Observation, state: Any = None, episode_start: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], Any]:
        """The student's action (A,); a state-based one observes more than is recorded."""
        if self._student.privileged:
            obs = self._env.observe("state")
        return self._student.predict(obs, state, episode_start)

    def close(self) -> None:
        """Close the envs."""
        self.recorder.close()
        self._alone.close()


if __name__ == "__main__":
    main()
