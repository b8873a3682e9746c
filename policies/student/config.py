"""Architecture and training of a student: two dataclasses, and their presets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

Encoder = Literal["resnet18", "dinov2", "state"]
Modality = Literal["rgb", "depth"]
HeadName = Literal["transformer", "diffusion", "act"]
Pooling = Literal["average", "spatial_softmax", "grid"]
Size = Annotated[int, Field(ge=1, le=4096)]
Few = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The network, and how its actions are executed."""

    encoder: Encoder
    modality: Modality
    """Modality of the images; ignored by a state encoder."""
    head: HeadName
    backbone: str = ""
    """DINOv2 model: a folder, or a name on the Hugging Face hub."""
    backbone_sha256: str = ""
    """Hash of its weights."""
    backbone_size: Annotated[int, Field(ge=0, le=2**16)] = 0
    """Number of features of an image."""
    encoder_width: Size
    """Channels of the ResNet's first stage."""
    pooling: Pooling
    """How the ResNet's feature maps become a vector, see ``encoders.ResNet18``."""
    width: Size
    """Size of a token, D."""
    layers: Few
    """Layers of a transformer."""
    heads: Few = 4
    """Heads of its attention."""
    feedforward: Size
    """Width of its hidden layers."""
    dropout: Share
    n_obs_steps: Few
    """Observations in the input, M: the present one and those before."""
    chunk_size: Few
    """Actions in a predicted chunk, N."""
    n_action_steps: Few
    """Actions of a chunk that are executed before the next one is predicted."""
    temporal_ensemble_coeff: Annotated[float, Field(ge=-10, le=10)] | None = None
    """If given, a chunk is predicted in every step, and the action is the mean over chunks, with
    weights exp(-coeff * i), i = 0 for the oldest."""
    predict_state: bool = True
    """Whether an auxiliary head predicts the privileged state that an image shows, with a loss of
    its own; the geometry of end-effector, object and goal is computed from it. A state encoder
    knows them."""
    use_image_features: bool = True
    """Whether the head sees the image features besides the predicted state."""
    map_encoder: bool = False
    """Whether a ResNet of its own predicts the map of the obstacles around the object, if there are
    any; one for both learns neither as well."""
    denoiser: Literal["unet", "transformer"]
    """Network of a diffusion head."""
    unet_widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
    """Channels of the levels of the U-Net."""
    diffusion_steps: Size = 100
    """Steps of the forward process."""
    sampling_steps: Size = 10
    """Denoising steps at inference."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters of a training."""

    steps: int
    """Optimizer steps."""
    batch_size: int = 16
    """Sequences of consecutive time steps in a batch."""
    sequence_length: int = 8
    """Time steps of a sequence from which a chunk is predicted; each image of a sequence is encoded
    once for all."""
    learning_rate: float
    """The highest; it rises for the first twentieth of the steps and falls along a cosine."""
    weight_decay: float = 1e-4
    grad_clip_norm: float = 1.0
    """Maximum norm of the gradient."""
    ema: float = 0.999
    """Decay of the averaged weights, which act."""
    state_loss_weight: float = 1.0
    """Weight of the loss of the predicted state; that of the actions has weight 1."""
    shift: int
    """Maximum random shift of images, pixels."""
    color_jitter: float
    """Relative range of random brightness and contrast of RGB images."""
    depth_noise: float = 0.002
    """Standard deviation of the noise of each depth pixel, m."""
    bf16: bool = True
    """Whether the encoder computes in bfloat16."""


_LIGHT: dict[str, Any] = {
    "encoder_width": 16,
    "pooling": "grid",
    "width": 128,
    "layers": 3,
    "feedforward": 256,
    "dropout": 0.0,
    "n_obs_steps": 1,
    "chunk_size": 8,
    "n_action_steps": 2,
    "denoiser": "transformer",
    "unet_widths": (64, 128, 256),
    "steps": 3000,
    "batch_size": 128,
    "sequence_length": 1,
    "learning_rate": 2e-3,
    "shift": 0,
    "color_jitter": 0.1,
}
_PAPER: dict[str, Any] = {
    "encoder_width": 64,
    "pooling": "average",
    "width": 256,
    "layers": 4,
    "feedforward": 240,
    "dropout": 0.2,
    "n_obs_steps": 8,
    "chunk_size": 8,
    "n_action_steps": 8,
    "denoiser": "unet",
    "unet_widths": (256, 512, 1024),
    "steps": 40_000,
    "learning_rate": 3e-4,
    "shift": 2,
    "color_jitter": 0.1,
}
PRESETS = {"light": _LIGHT, "paper": _PAPER}


def make(preset: str, **options: Any) -> tuple[Architecture, Training]:
    """Architecture and training of a preset, with ``options`` in place of its fields.

    The published networks have as many parameters as those of ``"paper"``, within a tenth.

    Args:
        preset: ``"light"`` or ``"paper"``.
        options: Fields of ``Architecture`` and ``Training``; at least encoder, modality and head.

    Raises:
        ValueError: They do not fit together.
    """
    values = {**PRESETS[preset], **options}
    if preset == "paper" and values["encoder"] == "dinov2":
        values["feedforward"] = 1024
    names = [{field.name for field in fields(kind)} for kind in (Architecture, Training)]
    if unknown := sorted(set(values) - names[0] - names[1]):
        raise ValueError(f"{unknown[0]}: is neither of the architecture nor of the training")
    architecture = Architecture(**{key: values[key] for key in values if key in names[0]})
    training = Training(**{key: values[key] for key in values if key in names[1]})
    a = architecture
    if a.n_action_steps > a.chunk_size:
        raise ValueError(
            f"n_action_steps {a.n_action_steps}: expected at most chunk_size, {a.chunk_size}"
        )
    halvings = 2 ** (len(a.unet_widths) - 1)
    if a.head == "diffusion" and a.denoiser == "unet" and a.chunk_size % halvings:
        raise ValueError(
            f"chunk_size {a.chunk_size}: expected a multiple of {halvings} for a U-Net"
        )
    if a.encoder != "state" and not (a.use_image_features or a.predict_state):
        raise ValueError("use_image_features False: expected True, or predict_state True")
    if a.map_encoder and not (a.encoder == "resnet18" and a.predict_state):
        raise ValueError("map_encoder True: expected False, or resnet18 with predict_state True")
    if a.encoder == "dinov2" and a.modality != "rgb":
        raise ValueError(f"modality {a.modality}: expected rgb with DINOv2")
    return architecture, training
