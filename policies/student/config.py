"""What a student is made of, and how it is trained: two dataclasses, and their presets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from policies.student.encoders import Readout

Encoder = Literal["resnet18", "dinov2", "state"]
Modality = Literal["rgb", "depth"]
HeadName = Literal["transformer", "diffusion", "act"]
Size = Annotated[int, Field(ge=1, le=4096)]
Few = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The network, and how its actions are carried out."""

    encoder: Encoder
    modality: Modality
    """Of the images; a state encoder has none."""
    head: HeadName
    backbone: str = ""
    """Of a DINOv2 encoder: a folder, or a name on the Hugging Face hub."""
    backbone_sha256: str = ""
    """Of its weights."""
    backbone_size: Annotated[int, Field(ge=0, le=2**16)] = 0
    """Numbers of an image's features."""
    encoder_width: Size
    """Channels of the ResNet's first stage."""
    readout: Readout
    """How the ResNet's feature maps become a vector, see ``encoders.ResNet18``."""
    width: Size
    """D, of a token."""
    layers: Few
    """Of a transformer."""
    heads: Few = 4
    """Of its attention."""
    feedforward: Size
    """Width of its hidden layers."""
    dropout: Share
    context: Few
    """M: observations that are seen, the present one and those before."""
    chunk: Few
    """N: actions that are predicted."""
    execute: Few
    """Actions of a chunk that are carried out until the next one is predicted."""
    ensemble: bool = False
    """Whether to predict a chunk in every step instead, and to do the mean of what all chunks say
    of it."""
    estimate: bool = True
    """Whether each image's privileged state is estimated on the way, with a loss of its own, and
    the geometry of tool, object and goal computed from it. A state encoder knows them."""
    features: bool = True
    """Whether the head sees what the encoder says of an image besides that estimate."""
    map_encoder: bool = False
    """Whether a ResNet of its own reads from an image where other things stand around the object,
    if there are any; one for both learns neither as well."""
    denoiser: Literal["unet", "transformer"]
    """Of a diffusion head."""
    unet_widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
    """Channels of its levels."""
    diffusion_steps: Size = 100
    """Steps of noising."""
    sampling_steps: Size = 10
    """Steps in which the noise is removed again, to act."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a student learns."""

    steps: int
    """Steps of the optimiser."""
    clips: int = 16
    """Pieces of episodes in a batch."""
    windows: int = 8
    """Windows in each piece, one a moment: each image of a piece is encoded once for all."""
    learning_rate: float
    """The highest; it rises for the first twentieth of the steps and falls along a cosine."""
    weight_decay: float = 1e-4
    clip_gradient: float = 1.0
    """The longest the gradient may be."""
    ema: float = 0.999
    """How much of the averaged weights, which act, stays at each step."""
    estimate_weight: float = 1.0
    """Of the loss of the estimate, next to that of the actions."""
    shift: int
    """Pixels by which images are shifted at most."""
    colour: float
    """By how much brightness and contrast of RGB vary, as a share."""
    depth_noise: float = 0.002
    """Standard deviation in m of the noise of each depth pixel."""
    bf16: bool = True
    """Whether the encoder computes in bfloat16."""


_LIGHT: dict[str, Any] = {
    "encoder_width": 16,
    "readout": "grid",
    "width": 128,
    "layers": 3,
    "feedforward": 256,
    "dropout": 0.0,
    "context": 1,
    "chunk": 8,
    "execute": 2,
    "denoiser": "transformer",
    "unet_widths": (64, 128, 256),
    "steps": 3000,
    "clips": 128,
    "windows": 1,
    "learning_rate": 2e-3,
    "shift": 0,
    "colour": 0.1,
}
_PAPER: dict[str, Any] = {
    "encoder_width": 64,
    "readout": "pool",
    "width": 256,
    "layers": 4,
    "feedforward": 240,
    "dropout": 0.2,
    "context": 8,
    "chunk": 8,
    "execute": 8,
    "denoiser": "unet",
    "unet_widths": (256, 512, 1024),
    "steps": 40_000,
    "learning_rate": 3e-4,
    "shift": 2,
    "colour": 0.1,
}
PRESETS = {"light": _LIGHT, "paper": _PAPER}


def make(preset: str, **options: Any) -> tuple[Architecture, Training]:
    """What a preset says, with ``options`` in place of its fields.

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
    if a.execute > a.chunk:
        raise ValueError(f"execute {a.execute}: expected at most the chunk, {a.chunk}")
    halvings = 2 ** (len(a.unet_widths) - 1)
    if a.head == "diffusion" and a.denoiser == "unet" and a.chunk % halvings:
        raise ValueError(f"chunk {a.chunk}: expected a multiple of {halvings} for a U-Net")
    if a.encoder != "state" and not (a.features or a.estimate):
        raise ValueError("features False: expected True, or estimate True, to see anything")
    if a.map_encoder and not (a.encoder == "resnet18" and a.estimate):
        raise ValueError("map_encoder True: expected False, or resnet18 with estimate True")
    if a.encoder == "dinov2" and a.modality != "rgb":
        raise ValueError(f"modality {a.modality}: DINOv2 sees rgb alone")
    return architecture, training
