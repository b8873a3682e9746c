"""Which policy is scored, as a result says it."""

from __future__ import annotations

import gymnasium as gym

from benchmark.result import Learning, PolicyIdentity
from komo_envs.env import KomoEnv
from policies import load_policy
from policies.base import env_options_of
from policies.identity import hash_policy
from policies.load import BUILT_IN


def identify(spec: str, env_id: str, trust_code: bool, device: str = "cpu") -> PolicyIdentity:
    """What ``spec`` names, loaded for an env, which is made to see whether its options fit.

    Raises:
        ValueError: There is no such policy, or none for this env, or what it says of itself is not
            as ``policies.base.Policy`` has it.
        OSError: A file cannot be read.
        ImportError: Something is not installed.
    """
    sha256 = hash_policy(spec, env_id, trust_code)
    policy = load_policy(spec, env_id, trust_code, device)
    try:
        env = gym.make(env_id, disable_env_checker=True, **env_options_of(policy))
        try:
            assert isinstance(env.unwrapped, KomoEnv)
            sees_state = env.unwrapped.obs_mode == "state"
        finally:
            env.close()
        learning = getattr(policy, "learning", None)
        declared = bool(getattr(policy, "privileged", False))
        return PolicyIdentity(
            name=getattr(policy, "name", type(policy).__name__),
            kind=spec,
            # What is built in and is not the expert looks at nothing.
            privileged=declared or (sees_state and spec not in BUILT_IN),
            sha256=sha256,
            learning=None if learning is None else Learning(**learning),
        )
    except (ValueError, TypeError) as error:  # pydantic's are ValueErrors
        raise ValueError(f"policy {spec}: {error}") from error
