"""A task of your own, and its expert: push a box over a line."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from experts import EXPERTS, Expert
from experts.komo.problem import EQ, Problem
from komo_envs.entities import Body
from komo_envs.tasks import base, checks
from komo_envs.tasks.base import TABLE, TABLE_TOP
from komo_envs.tasks.push import Push
from komo_envs.worlds.rai import ry

SIDE = 0.08  # m of the box
X, Y = (-0.10, 0.10), (0.30, 0.36)  # m, where its middle is drawn
LINE = 0.46  # m, the y beyond which it is to rest
BOX = 0  # its index in Nudge.bodies
UPRIGHT = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Nudge(base.Task):
    """The box rests beyond the line. A scene is {"box": [x, y]}, a goal [y, rest]."""

    mass: float = 0.3
    """Mass of the box, kg."""

    description = "Push the red box over the green line."
    # The stick, where it may be, and the cameras are those of push.
    home, tcp_offset, end_effector = Push.home, Push.tcp_offset, Push.end_effector
    tool_target, tool_coordinates, is_safe = Push.tool_target, Push.tool_coordinates, Push.is_safe
    cameras, render_camera = Push.cameras, Push.render_camera
    # Bounds of what is observed.
    goal_low, goal_high = np.array([-3.0, 0.0]), np.array([3.0, 1.0])
    privileged_high = np.array([3.0] * 3 + [1.0] * 4 + [10.0] * 3 + [100.0] * 3)
    observable_mask = np.array([True] * 7 + [False] * 6)  # an image shows no velocities

    def sample_scene(self, rng):
        return {"box": [rng.uniform(*X), rng.uniform(*Y)]}

    def check_scene(self, scene):
        checks.check_keys(scene, ["box"])
        box = checks.check_numbers("box", scene["box"], 2)
        checks.check_range("box", box, [X, Y])
        return {"box": box}

    def bodies(self, scene):
        box, line = (*scene["box"], TABLE_TOP + SIDE / 2), (0.0, LINE, TABLE_TOP)
        red, green, black = (0.8, 0.1, 0.1), (0.1, 0.6, 0.3), (0.1, 0.1, 0.1)
        return (
            Body("box", "box", (SIDE, SIDE, SIDE), red, (*box, *UPRIGHT), mass=self.mass),
            Body("line", "box", (0.4, 0.004, 0.001), green, (*line, *UPRIGHT), solid=False),
            Body("stick", "cylinder", (0.12, 0.012), black, (0, 0, -0.03, *UPRIGHT), "gripper"),
            TABLE,
        )

    def privileged(self, scene, state):  # what only a simulator knows, the box's position first
        return np.concatenate([state.body_poses[BOX], state.body_velocities[BOX]])

    def achieved_goal(self, scene, state):
        pose, velocity = state.body_poses[BOX], state.body_velocities[BOX]
        return np.array(
            [pose[1], base.is_at_rest(pose, velocity, TABLE_TOP + SIDE / 2)], np.float32
        )

    def desired_goal(self, scene):
        return np.array([LINE, 1.0], np.float32)

    def evaluate(self, achieved, desired):  # single goals, and batches of them
        distance = np.maximum(desired[..., 0] - achieved[..., 0], 0.0)
        return base.Evaluation(distance, (distance == 0.0) & (achieved[..., 1] > 0.5))

    def goal_reward_terms(self, achieved, desired, evaluation, tcp_pose):
        return {"distance": -5.0 * evaluation.distance}

    def state_reward_terms(self, scene, state, tcp_pose):
        return {"reach": -float(np.linalg.norm(tcp_pose[:3] - state.body_poses[BOX, :3]))}


task = {"task": "nudge:Nudge"}
gym.register("Nudge-v0", "komo_envs.env:KomoEnv", max_episode_steps=100, kwargs=task)


TOUCH = SIDE / 2 + 0.012  # m from the box's middle to the stick's where they touch
HEIGHT = TABLE_TOP + 0.03  # m of the stick's tip when it pushes


class NudgeExpert(Expert):
    task = Nudge

    def plan(self, env):
        env = self.own(env)
        x, y = env.state.body_poses[BOX, :2]
        tip, at, axis = ["tool"], ry.FS.position, ry.FS.vectorZ
        problem = Problem(Nudge.tcp_offset, env.controller.command, ("approach", "push"))
        problem.add("stick vertical", EQ, [], axis, tip, [[10, 0, 0], [0, 10, 0]])
        problem.add("go behind the box", EQ, [1], at, tip, 10, [x, y - TOUCH - 0.02, HEIGHT])
        problem.add("push straight", EQ, [1, 2], at, tip, [[10, 0, 0], [0, 0, 10]], [x, 0, HEIGHT])
        problem.add("push over the line", EQ, [2], at, tip, 10, [x, LINE + 0.01 - TOUCH, HEIGHT])
        speeds = {"approach": 0.4, "push": 0.15}  # m/s of the tip
        return problem.solve(speeds, joint_speed=0.9, stops=["push"])


EXPERTS["nudge:Nudge"] = NudgeExpert
