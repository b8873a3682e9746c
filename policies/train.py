"""Distil a student: ``python -m policies.train --demos demos/push.h5 --out students/push``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from tyro.conf import FlagConversionOff

from experts.dataset.format import DemoFile
from komo_envs.suite import VALIDATION
from komo_envs.utils import provenance
from komo_envs.utils.cli import fail, parse
from komo_envs.utils.errors import printable
from komo_envs.utils.stats import wilson
from policies.rollout import successes
from policies.spec import CARD
from policies.student.checkpoint import Origin, read_card, save_checkpoint
from policies.student.config import Architecture, Encoder, HeadName, Modality, Training, make
from policies.student.dinov2 import Backbone
from policies.student.encoders import LEAST_SIDE, Readout
from policies.student.policy import StudentPolicy, check_device, env_options
from policies.training.curves import Curves
from policies.training.data import Layout, load_frames, open_layout, shares
from policies.training.learner import Learner
from policies.training.multi_seed import Reporter, check_seeds, check_setup, train_and_tell

MODULE = "policies.train"
SOURCES = ("komo_envs", "policies")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Distil students from demonstrations. The same command goes on where it stopped.

    Each seed trains in a process of one thread, and gives a folder that benchmark.run can score.
    """

    demos: tuple[Path, ...]
    """Files of demonstrations, of one environment."""
    out: Path
    """Folder, in which each seed has one."""
    encoder: Encoder = "resnet18"
    """What reads an observation. A state encoder sees the privileged state."""
    modality: Modality = "rgb"
    """Of the images."""
    backbone: str = "facebook/dinov2-base"
    """Of a DINOv2 encoder: a folder, or a name on the Hugging Face hub."""
    head: HeadName = "transformer"
    """What makes actions of it."""
    preset: Literal["light", "paper"] = "light"
    """Sizes and schedule: light trains within half an hour on one core; paper has the sizes of the
    published experiment, for a GPU. What is given below takes the place of the preset's."""
    seeds: tuple[int, ...] = (0,)
    """Of the training; they train side by side."""
    episodes: int | None = None
    """How many demonstrations to use, of each file its share, the first ones; all if not given."""
    cameras: tuple[str, ...] | None = None
    """Through which cameras of the demonstrations to see; all if not given."""
    control_mode: Literal["joint", "ee", "ee_delta"] | None = None
    """Of the student's actions; that which the demonstrations were collected in if not given."""
    steps: int | None = None
    """Of the optimiser."""
    context: int | None = None
    """Observations that are seen."""
    chunk: int | None = None
    """Actions that are predicted."""
    execute: int | None = None
    """Of those, how many are carried out."""
    ensemble: FlagConversionOff[bool | None] = None
    """Whether to predict in every step instead, and to average over chunks."""
    readout: Readout | None = None
    """How the feature maps of a ResNet become a vector."""
    denoiser: Literal["unet", "transformer"] | None = None
    """Of a diffusion head."""
    estimate: FlagConversionOff[bool | None] = None
    """Whether the privileged state is estimated on the way."""
    features: FlagConversionOff[bool | None] = None
    """Whether the head sees more of an image than that estimate."""
    map_encoder: FlagConversionOff[bool | None] = None
    """Whether a ResNet of its own looks at the things around the object."""
    shift: int | None = None
    """Pixels by which images are shifted at most."""
    validation: int = 100
    """Episodes, on validation seeds, after each of the last steps that are looked at: the weights
    that solve most of them are kept."""
    device: str = "cpu"
    """Of PyTorch: cpu, cuda."""
    trust_code: bool = False
    """Whether a file may name a module that is imported, which runs its code: an
    environment of the kind module:Id."""


LOOKS = (0.8, 0.9, 1.0)
"""Shares of the steps after which the averaged weights play on validation seeds."""
SAVE_SECONDS = 60
"""Between two states on disk: what a kill costs at most."""
REPORT_STEPS = 50
"""Between two points of the curves."""


class Job(NamedTuple):
    """The training of one seed."""

    architecture: Architecture
    training: Training
    paths: tuple[Path, ...]
    layout: Layout
    scenery: dict[str, Any]
    """What the pictures of the demonstrations depend on, see ``DemoFile.scenery``."""
    episodes: int | None
    seed: int
    validation: int
    device: str
    name: str
    folder: Path

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return self.training.steps

    @property
    def outcome(self) -> Path:
        """The card, which is written last."""
        return self.folder / CARD

    @property
    def state(self) -> Path:
        """Where it goes on after a kill."""
        return self.folder / "state.pt"


def main() -> None:
    """The command."""
    arguments = parse(Arguments, MODULE)
    try:
        jobs = prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    train_and_tell(jobs, train, summary, arguments.out, MODULE)


def prepare(arguments: Arguments) -> list[Job]:
    """Check everything; one job a seed.

    Raises:
        ValueError: An argument is wrong.
        OSError: The output folder cannot be written to.
    """
    for name in ("episodes", "steps", "context", "chunk", "execute", "validation"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: expected 1 or more")
    if not arguments.demos:
        raise ValueError("--demos: expected one file or more, got none")
    names = [path.name for path in arguments.demos]
    if len(set(names)) < len(names):
        raise ValueError(f"--demos {' '.join(names)}: expected files of different names")
    check_seeds(arguments.seeds)
    if not 1 <= arguments.validation <= len(VALIDATION):
        raise ValueError(f"--validation {arguments.validation}: expected 1 to {len(VALIDATION)}")
    check_device(arguments.device)
    architecture, training = configure(arguments)
    layout = open_layout(
        arguments.demos, arguments.control_mode, arguments.cameras, arguments.trust_code
    )
    if architecture.encoder == "resnet18" and layout.image_size < LEAST_SIDE:
        size = layout.image_size
        raise ValueError(f"--demos: have images of side {size}; expected {LEAST_SIDE} or more")
    with DemoFile(arguments.demos[0]) as file:
        scenery = file.scenery
    shares(arguments.demos, arguments.episodes)  # refuses more than there are
    name = name_of(arguments.preset, architecture, training, layout)
    jobs = [
        Job(
            architecture,
            training,
            arguments.demos,
            layout,
            scenery,
            arguments.episodes,
            seed,
            arguments.validation,
            arguments.device,
            f"{name}, seed {seed}",
            arguments.out / f"seed{seed}",
        )
        for seed in arguments.seeds
    ]
    for job in jobs:
        check_setup(job.folder, setup_of(job), job.outcome)
    return jobs


def configure(arguments: Arguments) -> tuple[Architecture, Training]:
    """The preset, with what the arguments say otherwise.

    Raises:
        ValueError: They do not fit together.
    """
    known = {part.name for kind in (Architecture, Training) for part in fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = {name: value for name, value in given.items() if name in known}
    if arguments.encoder == "dinov2":
        make(arguments.preset, **options)  # refuses what does not fit before the backbone is loaded
        backbone = Backbone(arguments.backbone)
        options |= {"backbone_sha256": backbone.sha256, "backbone_size": backbone.size}
    else:
        del options["backbone"]
    return make(arguments.preset, **options)


def name_of(preset: str, architecture: Architecture, training: Training, layout: Layout) -> str:
    """What a student is called, without its seed: what it is made of, its preset, and what is
    otherwise than that says.
    """
    a = architecture
    images = "" if a.encoder == "state" else f" {a.modality}"
    if images and layout.cameras != ("front",):
        images += f" {' and '.join(layout.cameras)}"
    usual = make(preset, encoder=a.encoder, modality=a.modality, head=a.head)
    mine = vars(architecture) | vars(training)
    theirs = vars(usual[0]) | vars(usual[1])
    otherwise = [
        f"{key} {value}"
        for key, value in mine.items()
        if value != theirs[key] and not key.startswith("backbone")
    ]
    more = f" ({', '.join(otherwise)})" if otherwise else ""
    return f"{a.encoder}{images}, {a.head}, {preset}{more}"


def setup_of(job: Job) -> dict[str, Any]:
    """What a training is: the same goes on, another is refused."""
    return {
        "architecture": asdict(job.architecture),
        "training": asdict(job.training),
        "layout": asdict(job.layout),
        "demos": describe(job.paths, job.episodes),
        "validation": job.validation,
        "seed": job.seed,
        "sources": provenance.hash_sources("policies", without=provenance.OUTCOMES),
    }


def describe(paths: tuple[Path, ...], episodes: int | None) -> dict[str, Any]:
    """What each file of demonstrations is, by its name."""
    described = {}
    for path, used in zip(paths, shares(paths, episodes), strict=True):
        with DemoFile(path) as file:
            described[printable(path.name)] = {
                "env": file.env_id,
                "demonstrations": used,
                "recipe": file.recipe,
                "scenery": file.scenery,
            }
    return described


def train(job: Job, report: Reporter) -> None:
    """Train one seed, or go on with it, and keep the weights that do best on validation seeds.

    Args:
        job: What to train.
        report: Is told of every step.

    Raises:
        ValueError: The demonstrations, or what is to be gone on with, cannot be used.
        OSError: A file cannot be written.
    """
    if job.device == "cpu":
        torch.set_num_threads(1)
    architecture, training = job.architecture, job.training
    modality = None if architecture.encoder == "state" else architecture.modality
    backbone = None
    if architecture.encoder == "dinov2":
        backbone = Backbone(architecture.backbone, job.device)
    frames = load_frames(
        job.paths, job.layout, modality, architecture.context, job.episodes, backbone
    )
    learner = Learner(architecture, training, frames, job.layout, job.seed, job.device)
    log = Log()
    if job.state.exists():
        log = Log(**learner.restore(job.state))
        report(learner.step, "", saved=True)
    curves = Curves(job.folder, log.rows)
    looks = {round(share * training.steps) for share in LOOKS}
    # What one core has computed, whatever else it had to do meanwhile; a GPU is all ours.
    clock = time.process_time if job.device == "cpu" else time.monotonic
    started, saved = clock() - log.seconds, time.monotonic()
    while learner.step < training.steps:
        losses = learner.advance()
        step, text = learner.step, ""
        if step % REPORT_STEPS == 0 or step == training.steps:
            values = {"action loss": float(losses.actions)}
            if architecture.estimate and architecture.encoder != "state":
                values["estimate loss"] = float(losses.estimate)
            curves.add(step, values)
            text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        if step in looks:
            count = validate(learner, job)
            curves.add(step, {"validation success": count / job.validation})
            text = f"solves {count} of {job.validation} validation episodes"
            if count >= log.best:
                weights = learner.averaged.state_dict()
                log.best, log.step = count, step
                log.weights = {key: value.cpu().clone() for key, value in weights.items()}
        save = step in looks or time.monotonic() - saved > SAVE_SECONDS
        if save:
            log.seconds = clock() - started
            learner.save(job.state, vars(log))
            saved = time.monotonic()
        report(step, text, saved=save)
    student = learner.averaged.cpu()
    student.load_state_dict(log.weights)
    curves.draw(job.folder / "curves.png", job.name)
    save_checkpoint(job.folder, job.name, student, learner.scales, origin(job, log))
    job.state.unlink(missing_ok=True)


@dataclass
class Log:
    """What a training remembers besides its weights and its optimiser."""

    seconds: float = 0.0
    """Spent so far."""
    best: int = -1
    """Validation episodes that the best weights so far solve."""
    step: int = 0
    """Of those weights."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """They."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Of the curves."""


def validate(learner: Learner, job: Job) -> int:
    """How many validation episodes the averaged weights solve."""
    options = {**env_options(learner.student), **job.scenery}
    env = gym.make(job.layout.env_id, disable_env_checker=True, **options)
    try:
        policy = StudentPolicy.of_env(learner.averaged, env)
        return sum(successes(policy, env, VALIDATION[: job.validation]))
    finally:
        env.close()


def origin(job: Job, log: Log) -> Origin:
    """What the checkpoint says of how it came about."""
    demos, commit = describe(job.paths, job.episodes), provenance.commit()
    machine = provenance.machine()
    hardware = f"one core of {machine['cpu']}"
    if job.device != "cpu":
        hardware = torch.cuda.get_device_name(job.device)
    return Origin(
        demos=demos,
        demonstrations=sum(file["demonstrations"] for file in demos.values()),
        training=job.training,
        seed=job.seed,
        step=log.step,
        minutes=round(log.seconds / 60, 1),
        hardware=hardware,
        validation=(log.best, job.validation),
        versions=provenance.versions([job.layout.env_id], SOURCES),
        commit=commit[0] if commit else None,
    )


def summary(job: Job) -> str:
    """What became of a training, in one line."""
    card = read_card(job.folder)
    solved, episodes = card.origin.validation
    low, high = wilson(solved, episodes)
    return (
        f"{job.folder}: {card.name} solves {solved} of {episodes} validation episodes "
        f"({solved / episodes:.1%} [{low * 100:.1f}, {high * 100:.1f}]), "
        f"trained in {card.origin.minutes:g} min. Score it: "
        f"python -m benchmark.run --policy {job.folder} --env {job.layout.env_id}"
        + (" --lab LAB, the file of the laboratory" if "lab" in job.scenery else "")
    )


if __name__ == "__main__":
    main()
