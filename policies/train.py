"""Train a student: ``python -m policies.train --demos demos/push.h5 --out students/push``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from tyro.conf import FlagConversionOff

from experts.dataset.format import DemoFile
from komo_envs import provenance
from komo_envs.suite import VALIDATION
from komo_envs.utils.cli import fail, parse
from komo_envs.utils.errors import printable
from komo_envs.utils.stats import wilson
from policies.rollout import successes
from policies.spec import CARD
from policies.student.checkpoint import Origin, read_card, save_checkpoint
from policies.student.config import (
    Architecture,
    Encoder,
    HeadName,
    Modality,
    Pooling,
    Training,
    make,
)
from policies.student.dinov2 import Backbone
from policies.student.encoders import MIN_IMAGE_SIZE
from policies.student.features import Features
from policies.student.policy import StudentPolicy, check_device, env_options
from policies.training.curves import Curves
from policies.training.data import demos_per_file, load_frames, open_features
from policies.training.learner import Learner
from policies.training.multi_seed import Reporter, check_seeds, check_setup, train_and_tell

MODULE = "policies.train"
SOURCES = ("komo_envs", "policies")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train students on demonstrations. The same command resumes an interrupted training.

    Each seed trains in a process of one thread, and gives a folder that benchmark.run can score.
    """

    demos: tuple[Path, ...]
    """Files of demonstrations, of one environment."""
    out: Path
    """Output folder, with a folder for each seed."""
    encoder: Encoder = "resnet18"
    """Encoder of observations. The state encoder sees the privileged state."""
    modality: Modality = "rgb"
    """Modality of the images."""
    backbone: str = "facebook/dinov2-base"
    """DINOv2 model: a folder, or a name on the Hugging Face hub."""
    head: HeadName = "transformer"
    """Head that predicts chunks of actions."""
    preset: Literal["light", "paper"] = "light"
    """Sizes and schedule: light trains within half an hour on one core; paper has the sizes of the
    published experiment, for a GPU. The options below override the preset."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training; they train in parallel."""
    num_demos: int | None = None
    """Number of demonstrations, the first ones of each file in proportion; all if not given."""
    cameras: tuple[str, ...] | None = None
    """Cameras of the student, of those in the demonstrations; all if not given."""
    control_mode: Literal["joint", "ee", "ee_delta"] | None = None
    """Control mode of the student; that of the demonstrations if not given."""
    steps: int | None = None
    """Number of optimizer steps."""
    n_obs_steps: int | None = None
    """Number of observations in the input, the present one and those before."""
    chunk_size: int | None = None
    """Number of actions in a predicted chunk."""
    n_action_steps: int | None = None
    """Number of actions of a chunk that are executed before the next one is predicted."""
    temporal_ensemble_coeff: float | None = None
    """If given, predict a chunk in every step, and average the actions of all chunks with weights
    exp(-coeff * i), i = 0 for the oldest."""
    pooling: Pooling | None = None
    """Pooling of the feature maps of a ResNet: their mean, keypoints, or keypoints and cells."""
    denoiser: Literal["unet", "transformer"] | None = None
    """Network of a diffusion head."""
    predict_state: FlagConversionOff[bool | None] = None
    """Whether an auxiliary head predicts the privileged state from images."""
    use_image_features: FlagConversionOff[bool | None] = None
    """Whether the action head sees the image features besides the predicted state."""
    map_encoder: FlagConversionOff[bool | None] = None
    """Whether the obstacle map has a ResNet of its own."""
    shift: int | None = None
    """Maximum random shift of images, pixels."""
    n_eval_episodes: int = 100
    """Number of validation episodes in each evaluation, of which there are three in the last fifth
    of the training: the weights that solve most of them are kept."""
    device: str = "cpu"
    """PyTorch device: cpu, cuda."""
    trust_code: bool = False
    """Whether a module that a file names (an env module:Id) may be imported, which runs its
    code."""


EVALUATIONS = (0.8, 0.9, 1.0)
"""Shares of the steps after which the averaged weights are evaluated on validation seeds."""
SAVE_SECONDS = 60
"""Between two states on disk: the most that a kill costs."""
REPORT_STEPS = 50
"""Between two points of the curves."""
ENCODER_NAMES = {"resnet18": "ResNet-18", "dinov2": "DINOv2", "state": "state"}
HEAD_NAMES = {"transformer": "transformer", "diffusion": "diffusion", "act": "ACT"}


class Job(NamedTuple):
    """The training of one seed."""

    architecture: Architecture
    training: Training
    paths: tuple[Path, ...]
    features: Features
    camera_options: dict[str, Any]
    """See ``DemoFile.camera_options``."""
    num_demos: int | None
    seed: int
    n_eval_episodes: int
    device: str
    name: str
    folder: Path

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.training.steps

    @property
    def outcome(self) -> Path:
        """The card, which is written last."""
        return self.folder / CARD

    @property
    def state(self) -> Path:
        """The file from which an interrupted training is resumed."""
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
    for name in ("num_demos", "steps", "n_obs_steps", "chunk_size", "n_action_steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if not arguments.demos:
        raise ValueError("--demos: expected one file or more, got none")
    names = [path.name for path in arguments.demos]
    if len(set(names)) < len(names):
        raise ValueError(f"--demos {' '.join(names)}: expected files of different names")
    check_seeds(arguments.seeds)
    if not 1 <= arguments.n_eval_episodes <= len(VALIDATION):
        raise ValueError(
            f"--n-eval-episodes {arguments.n_eval_episodes}: expected 1 to {len(VALIDATION)}"
        )
    check_device(arguments.device)
    architecture, training = configure(arguments)
    features = open_features(
        arguments.demos, arguments.control_mode, arguments.cameras, arguments.trust_code
    )
    if architecture.encoder == "resnet18" and features.image_size < MIN_IMAGE_SIZE:
        size = features.image_size
        raise ValueError(f"--demos: have images of side {size}; expected {MIN_IMAGE_SIZE} or more")
    with DemoFile(arguments.demos[0]) as file:
        camera_options = file.camera_options
    demos_per_file(arguments.demos, arguments.num_demos)  # refuses more than there are
    name = name_of(arguments.preset, architecture, training, features)
    jobs = [
        Job(
            architecture,
            training,
            arguments.demos,
            features,
            camera_options,
            arguments.num_demos,
            seed,
            arguments.n_eval_episodes,
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
    """Architecture and training of the preset, with the options that override it.

    Raises:
        ValueError: The options do not fit together.
    """
    known = {part.name for kind in (Architecture, Training) for part in fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = {name: value for name, value in given.items() if name in known}
    if arguments.encoder == "dinov2":
        make(arguments.preset, **options)  # refuses bad options before the backbone is loaded
        backbone = Backbone(arguments.backbone)
        options |= {"backbone_sha256": backbone.sha256, "backbone_size": backbone.size}
    else:
        del options["backbone"]
    return make(arguments.preset, **options)


def name_of(preset: str, architecture: Architecture, training: Training, features: Features) -> str:
    """Display name without the seed: encoder and modality, head, preset, steps, other settings.

    For example ``ResNet-18 RGB, transformer, preset light, 3000 steps, map_encoder=True``. Other
    settings are those that differ from the preset, named as the options are.
    """
    a = architecture
    encoder = ENCODER_NAMES[a.encoder]
    if a.encoder != "state":
        encoder += f" {'RGB' if a.modality == 'rgb' else a.modality}"
        if features.cameras != ("front",):
            encoder += f" ({' + '.join(features.cameras)})"
    default = make(preset, encoder=a.encoder, modality=a.modality, head=a.head)
    defaults = vars(default[0]) | vars(default[1])
    settings = [
        f"{key}={value}"
        for key, value in (vars(training) | vars(architecture)).items()
        if value != defaults[key] and key != "steps" and not key.startswith("backbone")
    ]
    return ", ".join(
        [encoder, HEAD_NAMES[a.head], f"preset {preset}", f"{training.steps} steps", *settings]
    )


def setup_of(job: Job) -> dict[str, Any]:
    """Setup of a training: one with the same is resumed, one with another is refused."""
    return {
        "architecture": asdict(job.architecture),
        "training": asdict(job.training),
        "features": asdict(job.features),
        "demos": describe(job.paths, job.num_demos),
        "n_eval_episodes": job.n_eval_episodes,
        "seed": job.seed,
        "sources": provenance.hash_sources("policies", without=provenance.OUTCOMES),
    }


def describe(paths: tuple[Path, ...], num_demos: int | None) -> dict[str, Any]:
    """Env, number of demonstrations, recipe and camera options of each file, by name."""
    described = {}
    for path, used in zip(paths, demos_per_file(paths, num_demos), strict=True):
        with DemoFile(path) as file:
            described[printable(path.name)] = {
                "env": file.env_id,
                "demonstrations": used,
                "recipe": file.recipe,
                "camera_options": file.camera_options,
            }
    return described


def train(job: Job, report: Reporter) -> None:
    """Train one seed, or resume it, and keep the weights that do best on validation seeds.

    Args:
        job: The training.
        report: Called after every step.

    Raises:
        ValueError: The demonstrations, or the state to resume from, cannot be used.
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
        job.paths, job.features, modality, architecture.n_obs_steps, job.num_demos, backbone
    )
    learner = Learner(architecture, training, frames, job.features, job.seed, job.device)
    log = Log()
    if job.state.exists():
        log = Log(**learner.restore(job.state))
        report(learner.step, "", saved=True)
    curves = Curves(job.folder, log.rows)
    evaluations = {round(share * training.steps) for share in EVALUATIONS}
    # On a CPU the time of this process alone, since other work may share the core.
    clock = time.process_time if job.device == "cpu" else time.monotonic
    started, saved = clock() - log.seconds, time.monotonic()
    while learner.step < training.steps:
        losses = learner.advance()
        step, text = learner.step, ""
        if step % REPORT_STEPS == 0 or step == training.steps:
            values = {"action loss": float(losses.actions)}
            if architecture.predict_state and architecture.encoder != "state":
                values["state loss"] = float(losses.state)
            curves.add(step, values)
            text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        if step in evaluations:
            count = validate(learner, job)
            curves.add(step, {"validation success": count / job.n_eval_episodes})
            text = f"solves {count} of {job.n_eval_episodes} validation episodes"
            if count >= log.best:
                weights = learner.averaged.state_dict()
                log.best, log.step = count, step
                log.weights = {key: value.cpu().clone() for key, value in weights.items()}
        save = step in evaluations or time.monotonic() - saved > SAVE_SECONDS
        if save:
            log.seconds = clock() - started
            learner.save(job.state, vars(log))
            saved = time.monotonic()
        report(step, text, saved=save)
    student = learner.averaged.cpu()
    student.load_state_dict(log.weights)
    curves.plot(job.folder / "curves.png", job.name)
    save_checkpoint(job.folder, job.name, student, learner.stats, origin(job, log))
    job.state.unlink(missing_ok=True)


@dataclass
class Log:
    """Progress of a training, besides its weights and its optimizer."""

    seconds: float = 0.0
    """Training time so far."""
    best: int = -1
    """Validation episodes that the best weights so far solve."""
    step: int = 0
    """Step of the best weights."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best weights."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Values of the curves."""


def validate(learner: Learner, job: Job) -> int:
    """Number of validation episodes that the averaged weights solve."""
    options = {**env_options(learner.student), **job.camera_options}
    env = gym.make(job.features.env_id, disable_env_checker=True, **options)
    try:
        policy = StudentPolicy.of_env(learner.averaged, env)
        return sum(successes(policy, env, VALIDATION[: job.n_eval_episodes]))
    finally:
        env.close()


def origin(job: Job, log: Log) -> Origin:
    """Origin of the checkpoint."""
    demos = describe(job.paths, job.num_demos)
    commit = provenance.commit()
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
        validation=(log.best, job.n_eval_episodes),
        versions=provenance.versions([job.features.env_id], SOURCES),
        commit=commit[0] if commit else None,
    )


def summary(job: Job) -> str:
    """Outcome of a training, in one line."""
    card = read_card(job.folder)
    solved, episodes = card.origin.validation
    low, high = wilson(solved, episodes)
    return (
        f"{job.folder}: {card.name} solves {solved} of {episodes} validation episodes "
        f"({solved / episodes:.1%} [{low * 100:.1f}, {high * 100:.1f}]), "
        f"trained in {card.origin.minutes:g} min. Score it: "
        f"python -m benchmark.run --policy {job.folder} --env {job.features.env_id}"
        + (" --lab LAB, the file of the laboratory" if "lab" in job.camera_options else "")
    )


if __name__ == "__main__":
    main()
