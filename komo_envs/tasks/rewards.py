"""Sparse and dense rewards of a task, for a step and for other goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from komo_envs.entities import Array
from komo_envs.tasks.base import Evaluation, Scene, Task
from komo_envs.worlds.base import WorldState

REWARD_MODES = ("sparse", "dense")

Info = Mapping[str, Any]


def reward(
    mode: str, evaluation: Evaluation, goal_terms: Mapping[str, Array], state_terms: Any
) -> Any:
    """The reward of goals of shape (..., G), float64 (...).

    Args:
        mode: ``"sparse"``: 0 on success, else -1. ``"dense"``: the sum of the terms.
        evaluation: The goals' evaluation.
        goal_terms: Terms that depend on goals (...), by name.
        state_terms: The sum of the other terms, a number or (...).
    """
    if mode == "sparse":
        return evaluation.success - np.float64(1)
    return np.sum(list(goal_terms.values()), axis=0) + state_terms


def evaluate_state(
    task: Task,
    mode: str,
    scene: Scene,
    state: WorldState,
    achieved: Array,
    desired: Array,
    tcp_pose: Array,
) -> tuple[float, dict[str, Any]]:
    """The reward of a state, and what ``info`` says of success, distance and reward terms.

    Args:
        task: The task.
        mode: ``"sparse"`` or ``"dense"``.
        scene: The scene of the episode.
        state: The state.
        achieved: The goal that it has achieved (G,).
        desired: The desired goal (G,).
        tcp_pose: Pose (7,) of the tool.
    """
    if np.isnan(state.body_poses).any():  # a real robot's cameras do not see every body
        info = {"is_success": np.array(False), "distance": np.float64(np.nan), "reward_terms": {}}
        return -1.0, info
    evaluation = task.evaluate(achieved, desired)
    goal_terms = task.goal_reward_terms(achieved, desired, evaluation, tcp_pose)
    state_terms = task.state_reward_terms(scene, state, tcp_pose)
    terms: dict[str, Any] = {**goal_terms, **state_terms}
    return float(reward(mode, evaluation, goal_terms, sum(state_terms.values()))), {
        # An array and no np.bool_, of which Gymnasium's vector envs would make objects.
        "is_success": np.array(bool(evaluation.success)),
        "distance": np.float64(evaluation.distance),
        "reward_terms": {name: np.float64(value) for name, value in terms.items()},
    }


def reward_of_goals(
    task: Task, mode: str, achieved: Array, desired: Array, info: Info | Sequence[Info]
) -> Any:
    """The reward that a step would have had with other goals, as hindsight relabeling asks.

    Args:
        task: The task.
        mode: ``"sparse"`` or ``"dense"``.
        achieved: Achieved goals (G,) or (B, G).
        desired: Desired goals of the same shape.
        info: The step's info, or B of them. Only the dense reward needs it, for the terms that do
            not depend on goals.

    Returns:
        The reward, a float or (B,).

    Raises:
        ValueError: The reward is dense and an info is not a step's.
    """
    evaluation = task.evaluate(achieved, desired)
    goal_terms: dict[str, Array] = {}
    state_terms: Any = 0
    if mode == "dense":
        infos = [info] if isinstance(info, Mapping) else info
        if not all("reward_terms" in each and "tcp_pose" in each for each in infos):
            raise ValueError(
                "info: expected the infos of the steps, for the terms of the dense reward; "
                "Stable-Baselines3 gives them with HerReplayBuffer(copy_info_dict=True)"
            )
        tcp_poses = np.array([each["tcp_pose"] for each in infos])
        if isinstance(info, Mapping):
            tcp_poses = tcp_poses[0]
        goal_terms = task.goal_reward_terms(achieved, desired, evaluation, tcp_poses)
        sums = [
            sum(value for name, value in each["reward_terms"].items() if name not in goal_terms)
            for each in infos
        ]
        state_terms = sums[0] if isinstance(info, Mapping) else np.array(sums)
    rewards = reward(mode, evaluation, goal_terms, state_terms)
    return float(rewards) if np.ndim(rewards) == 0 else rewards
