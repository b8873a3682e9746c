"""Identity of a scored policy, as results record it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from benchmark.records.result import PolicyIdentity, PolicyTraining
from komo_envs.env import KomoEnv, unwrap
from komo_envs.provenance import ROOT
from komo_envs.utils.errors import printable
from komo_envs.utils.foreign_code import ForeignError, foreign_code
from policies import Policy, load_policy
from policies.base import env_options_of
from policies.external.sb3 import SB3Options, SB3Policy, check_stated
from policies.hashing import combine, hash_policy, states_hash
from policies.spec import BUILT_IN, PRETRAINED_PREFIX, REMOTE, canonical_spec


class Identified(NamedTuple):
    """A policy that is about to be scored."""

    policy: PolicyIdentity
    env_options: dict[str, dict[str, Any]]
    """Options of each env, by its id: see ``Setup.env_options``."""


def identify(
    spec: str,
    envs: Sequence[str],
    trust_code: bool,
    device: str = "cpu",
    sb3: SB3Options | None = None,
) -> Identified:
    """Load the policy that ``spec`` names for each env, and make the env with its options.

    Args:
        spec: Policy spec, as of ``--policy``.
        envs: Ids of the envs.
        trust_code: Whether code of the policy's author may be run.
        device: PyTorch device on which a student computes.
        sb3: Training options of a model of Stable-Baselines3.

    Raises:
        ValueError: There is no such policy, or none for one of the envs, or what it says of itself
            is not as ``policies.base.Policy`` has it, or it is another policy in each env.
        OSError: A file cannot be read.
        ImportError: Something is not installed.
    """
    check_stated([spec], sb3 or SB3Options())
    found: list[PolicyIdentity] = []
    env_options = {}
    for env_id in envs:
        policy = load_policy(spec, env_id, trust_code, device, sb3)
        try:
            env = gym.make(env_id, disable_env_checker=True, **env_options_of(policy))
            komo_env = unwrap(env)
            env_options[env_id] = _options_of(komo_env)
            env.close()
            found.append(_identity(spec, policy, komo_env.obs_mode == "state"))
        except (ForeignError, ValueError, TypeError) as error:  # pydantic's are ValueErrors
            raise ValueError(f"policy {spec}: {error}") from error
    first = found[0]
    for env_id, other in zip(envs, found, strict=True):
        for name in ("name", "training", "weights_hashed", "trained_in"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(
                    f"policy {spec}: its {name} is {getattr(first, name)} in {envs[0]} and "
                    f"{getattr(other, name)} in {env_id}: expected the same; score each env alone"
                )
    hashes = [each.sha256 for each in found]
    merged = replace(
        first,
        privileged=any(each.privileged for each in found),
        sha256=hashes[0] if len({*hashes}) == 1 else combine(hashes),
    )
    return Identified(merged, env_options)


def recorded_spec(spec: str) -> str:
    """A policy spec without the folders of this machine: see ``PolicyIdentity.spec``."""
    spec = canonical_spec(spec)
    if spec in BUILT_IN or spec.startswith((REMOTE, PRETRAINED_PREFIX)):
        return spec
    return project_path(spec)


def project_path(path: str) -> str:
    """A path relative to the project's folder, or the last name of a path outside it."""
    absolute = Path(path).absolute().resolve()
    inside = absolute.is_relative_to(ROOT) and absolute != ROOT
    return absolute.relative_to(ROOT).as_posix() if inside else absolute.name


def _identity(spec: str, policy: Policy, sees_state: bool) -> PolicyIdentity:
    """The identity of a policy in one env."""
    with foreign_code():
        stated = getattr(policy, "training", None)
        training = None if stated is None else PolicyTraining(**stated)
        declared = bool(getattr(policy, "privileged", False))
        name = getattr(policy, "name", type(policy).__name__)
        sha256, weights_hashed = hash_policy(spec, policy), states_hash(spec, policy)
    return PolicyIdentity(
        name=name,
        spec=printable(recorded_spec(spec)),
        # The built-in policies other than the expert do not look at their observations.
        privileged=declared or (sees_state and spec not in BUILT_IN),
        sha256=sha256,
        weights_hashed=weights_hashed,
        trained_in=policy.trained_in if isinstance(policy, SB3Policy) else None,
        training=training,
    )


def _options_of(env: KomoEnv) -> dict[str, Any]:
    """Options of an env by which it is observed and acted in."""
    options: dict[str, Any] = {"obs_mode": env.obs_mode, "control_mode": env.control_mode}
    if env.obs_mode != "state":
        options |= {
            "image_size": [*env.image_size],
            "cameras": [camera.name for camera in env.cameras],
            "shadows": env.shadows,
        }
    return options


def print_policy(policy: PolicyIdentity, env_options: Mapping[str, Mapping[str, Any]]) -> None:
    """Print on stderr the options of a policy's envs, and a note if its hash covers no weights.

    Args:
        policy: The policy.
        env_options: Options of each env, by its id, see ``Setup.env_options``.
    """
    trained = policy.trained_in or {}
    extra = {name: trained[name] for name in ("rescale_action", "vec_normalize") if trained}
    for env_id, options in env_options.items():
        words = [f"{name} {_words(value)}" for name, value in {**options, **extra}.items()]
        print(f"{policy.name} in {env_id}: {', '.join(words)}", file=sys.stderr, flush=True)
    if not policy.weights_hashed:
        print(
            f"note: the hash of {policy.spec} covers the Python file alone and no weights: another "
            "checkpoint would have the same. Let the class state a sha256 of the files that it "
            "reads, as examples/my_policy.py does",
            file=sys.stderr,
            flush=True,
        )


def _words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
