"""The Gymnasium environment: spaces, reset, step, render, close."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from komo_envs.arguments import (
    check_choice,
    check_size,
    make_task,
    select_cameras,
    select_options,
)
from komo_envs.control import CONTROL_MODES, Controller, IsSafe
from komo_envs.entities import Array, Body, Camera
from komo_envs.infos import recordable
from komo_envs.lab import Lab, Live, Operator, TerminalOperator, check_lab, make_lab
from komo_envs.randomization import Variation, make_randomization
from komo_envs.rendering import Image, Renderer
from komo_envs.rendering.viewer import Viewer, has_display
from komo_envs.tasks import Scene
from komo_envs.worlds import (
    CONTROL_PERIOD,
    World,
    WorldName,
    WorldState,
    has_leaked,
    make_world,
)
from komo_envs.worlds.panda import JOINT_HIGH, JOINT_LOW

OBS_MODES: dict[str, tuple[str, ...]] = {
    "state": (),
    "rgb": ("pixels",),
    "depth": ("depth",),
    "rgbd": ("pixels", "depth"),
}
"""The observation modes, and the keys of the images that each observes."""
REWARD_MODES = ("sparse", "dense")
HOLD_STEPS = round(0.5 / CONTROL_PERIOD)
"""Steps for which success must hold until the episode ends: half a second."""

Observation = dict[str, Any]


class KomoEnv(gym.Env[Observation, np.ndarray]):
    """A Franka Panda moves an object without grasping it.

    What is particular to a task stands in the docstring of its class, ``env.unwrapped.task``:
    scene and starting state, end-effector coordinates, goals, privileged state, success, options.

    ## Description
    A simulated Panda (rai's PhysX, steps of 5 ms) holds a tool and is commanded at 10 Hz. The
    world frame has z up; the robot's base stands at (0, -0.2), at z = 0.65, and the arm looks
    along +y. Metres, radians, seconds.

    ## Action Space
    A ``Box`` of float32. Any finite action is safe: what the arm is commanded moves no joint
    faster than 1 rad/s and no end-effector coordinate faster than the task allows (0.5 m/s, 1
    rad/s), and never leaves the task's workspace. (Where a command turns abruptly, the arm itself
    overshoots by up to half of that speed and some millimetres.) ``control_mode`` selects what the
    numbers mean; the task has E end-effector coordinates (E = 3 in push, 4 in shelf):

    | mode       | shape | meaning                                             | range          |
    | ---------- | ----- | --------------------------------------------------- | -------------- |
    | `ee`       | (E,)  | absolute end-effector coordinates, m and rad        | the task's     |
    | `joint`    | (7,)  | absolute joint positions, rad                       | joint limits   |
    | `ee_delta` | (E,)  | their change since the last command; 1 is its limit | -1 to 1        |

    ## Observation Space
    With ``obs_mode="state"``, a goal dict of float32 (privileged: only a simulator knows it all):

    | key             | content                                                              |
    | --------------- | -------------------------------------------------------------------- |
    | `observation`   | 7 joint positions, rad; 7 last commanded ones; E end-effector        |
    |                 | coordinates, m and rad; E last commanded ones; 7 joint velocities,   |
    |                 | rad/s; then the task's privileged state                              |
    | `achieved_goal` | (G,) where the object is, m, and 1 if it rests as it should, else 0  |
    | `desired_goal`  | (G,) where it is to be, and 1                                        |

    With ``obs_mode="rgb"``, ``"depth"`` or ``"rgbd"``, what a real robot knows:

    | key         | type                | content                                                  |
    | ----------- | ------------------- | -------------------------------------------------------- |
    | `pixels`    | uint8 (H, W, 3)     | colour image (rgb and rgbd)                              |
    | `depth`     | float32 (H, W, 1)   | metres along the optical axis, 0 where nothing is seen   |
    | `agent_pos` | float32 (14 + 2E,)  | the first 14 + 2E numbers of the state's `observation`   |
    | `goal`      | float32 (G - 1,)    | the goal without its last number: where to, m            |

    With several ``cameras``, `pixels` and `depth` are dicts with one image for each camera's name;
    Stable-Baselines3 refuses nested dicts, and docs/benchmark.md has a wrapper that flattens them.

    ## Rewards
    ``reward_mode="sparse"`` (default): 0 on success, -1 otherwise. ``"dense"``: the sum of the
    task's named terms, which ``info["reward_terms"]`` holds in either mode. With
    ``obs_mode="state"``, ``compute_reward(achieved_goal, desired_goal, info)`` gives the same for
    one pair of goals or a batch of them, for hindsight relabelling.

    ## Starting State
    The arm starts at the task's home position, the scene is drawn from the seed.
    ``reset(options={"scene": {...}})`` sets the scene.

    ## Episode End
    The episode terminates when success has held for half a second, and is truncated after the
    id's time limit. ``info``, of reset and of every step, has ``is_success``, ``distance`` (m),
    ``reward_terms``, ``scene`` (the episode's scene, as ``reset`` takes it), ``tool`` (its pose
    (7,)), ``tracking_error`` (the largest distance of a joint from its last command, rad) and
    ``delay`` (from the last observation to the action that followed, s; 0 in simulation, which
    waits for it). Numbers are NumPy's scalars and ``is_success`` is an array of no axis, as TorchRL
    and Minari record them; the scene is of plain numbers, lists and dicts, as JSON has them.

    ## Arguments
    See ``__init__``, and the fields of the task's class; all are keyword arguments of
    ``gym.make``.

    ## Determinism
    The same seed and actions give the same observations, bit for bit, in any process on the same
    machine and versions, after any history, whatever other envs are alive.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own declaration
        "render_modes": ["rgb_array", "human"],
        "render_fps": round(1 / CONTROL_PERIOD),
    }

    def __init__(
        self,
        task: str,
        obs_mode: str = "state",
        control_mode: str = "ee",
        reward_mode: str = "sparse",
        image_size: int | tuple[int, int] = 96,
        cameras: Sequence[str] = ("front",),
        shadows: bool = False,
        randomize: str | Mapping[str, float] | None = None,
        world: WorldName = "sim",
        lab: Lab | Mapping[str, Any] | str | Path | None = None,
        operator: Operator | None = None,
        dry_run: bool = False,
        render_mode: str | None = None,
        render_size: tuple[int, int] = (480, 640),
        **options: Any,
    ) -> None:
        """Make the env. Simulator and renderer start at the first reset and the first picture.

        Args:
            task: ``"module:Class"`` of the task, set by the registered id.
            obs_mode: ``"state"``, ``"rgb"``, ``"depth"`` or ``"rgbd"``.
            control_mode: ``"joint"``, ``"ee"`` or ``"ee_delta"``.
            reward_mode: ``"sparse"`` or ``"dense"``.
            image_size: Side, or (height, width), of observed images in pixels.
            cameras: Names of the cameras observed: ``"front"`` (static), ``"wrist"``.
            shadows: Whether observed images have soft shadows, which are slower to draw.
            randomize: What varies from episode to episode: None, ``"seen"``, ``"felt"``, ``"all"``,
                or a dict with fields of ``komo_envs.randomization.Randomization``.
            world: ``"sim"``; ``"botop"``, rai's BotOp, the interface of the real robot, with a
                robot that it simulates in real time; or ``"real"``, that of the ``lab``.
            lab: A laboratory, see ``komo_envs.lab.Lab``, or its fields, or the file that has them:
                cameras are where its are, in any world.
            operator: Who lays out the scenes of a real world; asked at the terminal if None.
            dry_run: Whether a real robot is sent nothing, and what it would be sent is printed.
            render_mode: None, ``"rgb_array"`` or ``"human"``.
            render_size: (height, width) in pixels of what ``render()`` shows.
            **options: The task's own options: the fields of its class.

        Raises:
            TypeError: an argument is neither one of these nor an option of the task.
            ValueError: an argument's value is not one of these, or the lab's file is wrong.
            OSError: the lab's file cannot be read.
            RuntimeError: ``render_mode="human"`` without a display.
        """
        check_choice("obs_mode", obs_mode, OBS_MODES)
        check_choice("control_mode", control_mode, CONTROL_MODES)
        check_choice("reward_mode", reward_mode, REWARD_MODES)
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        check_choice("world", world, get_args(WorldName))
        if not has_display():
            if render_mode == "human":
                raise RuntimeError(
                    "render_mode='human' needs a display, and there is none (DISPLAY is not "
                    "set); use another one, or run under xvfb-run"
                )
            self.metadata = {**self.metadata, "render_modes": ["rgb_array"]}
        self.task = make_task(task, options)
        self.randomization = make_randomization(randomize)
        self.world_name = world
        self.lab = make_lab(lab)
        check_lab(self.lab, world, dry_run, self.randomization is not None)
        self.operator = operator
        self.dry_run = dry_run
        given = {"task": task, "control_mode": control_mode, "randomize": randomize}
        self._same_task: dict[str, Any] = {**given, **options}
        self.task_description = self.task.description
        self.obs_mode = obs_mode
        self.control_mode = control_mode
        self.reward_mode = reward_mode
        self.render_mode = render_mode
        known = self.lab.calibrated(self.task.cameras) if self.lab else self.task.cameras
        self.cameras = select_cameras(cameras, known)
        self.image_size = check_size("image_size", image_size)
        self.render_size = check_size("render_size", render_size)
        check_choice("shadows", shadows, (True, False))
        self.shadows = shadows

        self.controller = Controller(self.task, control_mode)
        self.action_space = self.controller.action_space
        self.observation_space = self.observation_space_of(obs_mode)

        self.world: World | None = None
        self._world_pid: int | None = None
        self.renderer = Renderer()
        self._viewer: Viewer | None = None
        self._live: Live | None = None
        self._state: WorldState | None = None
        self.scene: Scene = {}
        self.bodies: tuple[Body, ...] = ()
        self._variation = Variation(None)
        self.actions: list[np.ndarray] = []
        """What was done since the reset: with the scene, it brings about the same state again."""
        self._success_steps = 0
        self._ignored_options: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Let an env that is not running be pickled and copied, with its random generator.

        Raises:
            TypeError: The env is running.
        """
        if self.world is not None:
            raise TypeError(
                "a running env cannot be pickled or copied, since its robot cannot: do it before "
                "the first reset, or after close(). Another env comes into the same state by the "
                "same scene, reset(options={'scene': info['scene']}), and the same actions"
            )
        return self.__dict__.copy()

    def make_twin(self) -> KomoEnv:
        """Another env of the same task and control mode, which observes the state.

        After a reset to the same scene and the same ``actions``, it is in the same state.
        """
        return KomoEnv(**self._same_task)

    @property
    def state(self) -> WorldState:
        """The present state of robot and bodies.

        Raises:
            RuntimeError: the env has not been reset.
        """
        if self._state is None:
            raise RuntimeError("the env is not running: call reset first")
        return self._state

    @property
    def compute_reward(self) -> Callable[..., Any]:
        """``compute_reward(achieved_goal, desired_goal, info)``: the reward of other goals.

        With ``obs_mode="state"`` only: other libraries take whatever has it for a goal env.

        Args:
            achieved_goal: What was achieved, float32 (G,) or a batch of them (B, G).
            desired_goal: What is wanted, of the same shape.
            info: The step's info, or B of them. Only dense rewards look at it, for the terms that
                do not depend on goals.

        Returns:
            The reward, a float or (B,). For the goals and info of a step, that step's own.

        Raises:
            ValueError: dense rewards, and an info that is not a step's.
        """
        if self.obs_mode != "state":
            raise AttributeError(f"compute_reward: there is none with obs_mode={self.obs_mode!r}")
        return self._compute_reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of the scene's draw and of those that follow.
            options: None, or ``{"scene": ...}`` with the scene to set up instead of drawing one.
                Options of other names are ignored, with one warning each: some libraries mark
                resets with options of their own.

        Raises:
            ValueError: an option is a misspelt ``"scene"``, or the scene is not one that the task
                can set up.
        """
        taken = select_options(options, self._ignored_options)
        given = self.check_scene(taken["scene"]) if taken else None
        super().reset(seed=seed)
        scene = given or self._sample_scene()
        if self.world is None or self._world_pid != os.getpid() or has_leaked(self.world):
            self._enter_world()
            assert self.world is not None
        if self.render_mode == "human":
            self._open_viewer()  # a display that does not answer is found out before anything moves
        self.scene = scene
        self.actions = []
        varied = self._variation = Variation(scene.get("randomize"))
        self.bodies = varied.bodies(self.task.bodies(scene))
        self.controller.reset(self.task.home)
        home = self.controller.command
        collides = self.task.arm_collides
        if self._live is not None:
            self._live.check_sees(self.bodies, self.obs_mode, self.reward_mode)
            first, self._state = self._state is None, None
            if first:  # or after something went wrong
                way = "by the way that it came, or straight if it came none"
                known = self._live.what_is_known(self.bodies)
                motion = f"The arm is about to go to its home position, {way}."
                self._live.operator.confirm(f"{known} {motion}")
            else:
                self._live.operator.confirm("The arm is about to go home, by the way that it came.")
        self._state = None
        state = self.world.reset(home, self.bodies, collides, varied.stiffness)
        self._state = state if self._live is None else self._lay_out(self._live, home, state)
        varied.begin(home, self._state)
        self._success_steps = 0
        observation, _, info = self._evaluate()
        if self.render_mode == "human":
            self.render()
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Follow ``action`` for a tenth of a second.

        Raises:
            ActionError: the action is not an array of finite numbers of the action space's shape.
                Nothing has moved, and the episode can go on.
            RobotStopped: the robot has been stopped, for safety's sake: reset the env.
            RuntimeError: the env has not been reset, or the simulator failed: reset it.
        """
        if self.world is None or self._state is None or self._world_pid != os.getpid():
            raise RuntimeError("the env is not running in this process: call reset first")
        checked = self.controller.check(action)
        before = self.controller.command
        reference = self.controller.reference(checked)
        # Whatever interrupts the motion, Ctrl-C too, leaves arm and command apart: the episode
        # is over then.
        self._state = None
        if self.dry_run:
            print(f"would be sent to {np.round(reference, 4).tolist()} rad")
        self._state = self._seen(self.world.step(self._variation.send(reference)))
        self._variation.arrive(self._state)
        if not self._state.followed:
            self.controller.reset(before)
            self._variation.take_back()
        self.actions.append(checked)
        observation, reward, info = self._evaluate()
        self._success_steps = self._success_steps + 1 if info["is_success"] else 0
        terminated = self._success_steps >= HOLD_STEPS
        if self.render_mode == "human":
            self.render()
        return observation, reward, terminated, False, info

    def check_scene(self, scene: Any) -> Scene:
        """A scene as ``reset`` takes it, with plain numbers.

        Raises:
            ValueError: it is not one that this env can set up.
        """
        if self.randomization is None or not isinstance(scene, Mapping):
            return self.task.check_scene(scene)
        rest = {key: value for key, value in scene.items() if key != "randomize"}
        checked = self.task.check_scene(rest)
        bodies, draw = self.task.bodies(checked), scene.get("randomize")
        checked["randomize"] = self.randomization.check(draw, bodies, self.task.cameras)
        return checked

    def render(self) -> np.ndarray | None:
        """The scene as uint8 (H, W, 3) of ``render_size``, or shown in a window in human mode.

        Raises:
            RuntimeError: the env has not been reset, or human mode cannot open a window.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing: make the env with render_mode='rgb_array'")
            return None
        picture = self.show()
        if self.render_mode == "rgb_array":
            return picture
        viewer, self._viewer = self._open_viewer(), None  # one that fails is of no more use
        viewer.show(picture, self.metadata["render_fps"])
        self._viewer = viewer
        return None

    def show(self, state: WorldState | None = None) -> np.ndarray:
        """What ``render`` shows, of any state of this episode, the present one if none is given."""
        [image] = self.take_pictures((self.task.view,), self.render_size, shadows=True, state=state)
        return image.rgb

    def take_pictures(
        self,
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadows: bool = False,
        state: WorldState | None = None,
    ) -> list[Image]:
        """RGB, depth and segmentation of a state, the present one if none is given, from any
        cameras at any size.
        """
        state = state or self.state
        self.renderer.set_bodies(self.bodies)
        poses = (state.link_poses, self._variation.shown(state.body_poses))
        return self.renderer.render(*poses, cameras, size, shadows, self._variation.look)

    def ask_outcome(self) -> bool | None:
        """Whether the operator calls the episode a success; None if the env sees that itself."""
        if self._live is None or not self._live.unseen(self.bodies):
            return None
        return self._live.operator.outcome()

    def keep_pictures(self) -> None:
        """Have the operator keep what a live camera showed at the start and at last, if any did."""
        if self._live is not None:
            self._live.keep(self._static_camera)

    def use_world(self, world: World) -> None:
        """From the next reset on, act in ``world``, which the env then owns, and no other."""
        self.close()  # what a forked process inherits of its parent's world is of no use
        self.world, self._world_pid = world, os.getpid()

    def close(self) -> None:
        """Free simulator, renderer and window. A later reset starts them again."""
        if self.world is not None:
            self.world.close()
            self.world = self._world_pid = None
        if self._live is not None:
            self._live.close()
            self._live = None
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
        self.renderer.close()
        self._state = None

    def proprioception(self) -> Array:
        """What the robot knows of itself (P,): q, commanded q, end-effector, commanded one."""
        q, command = self.state.q, self.controller.command
        ee = self.controller.coordinates(q)
        return np.concatenate([q, command, ee, self.controller.ee_command])

    def _compute_reward(
        self,
        achieved_goal: np.ndarray,
        desired_goal: np.ndarray,
        info: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ) -> Any:
        if self.reward_mode == "sparse":
            reward = self.task.is_success(achieved_goal, desired_goal) - np.float64(1)
        else:
            infos = [info] if isinstance(info, Mapping) else info
            if not all("reward_terms" in i and "tool" in i for i in infos):
                raise ValueError(
                    "info: expected the infos of the steps, for the terms of the dense reward; "
                    "Stable-Baselines3 gives them with HerReplayBuffer(copy_info_dict=True)"
                )
            tool = np.array([i["tool"] for i in infos])
            tool = tool[0] if isinstance(info, Mapping) else tool
            goal_terms = self.task.goal_reward_terms(achieved_goal, desired_goal, tool)
            others = [
                sum(value for name, value in i["reward_terms"].items() if name not in goal_terms)
                for i in infos
            ]
            other = others[0] if isinstance(info, Mapping) else np.array(others)
            reward = np.sum(list(goal_terms.values()), axis=0) + other
        return float(reward) if np.ndim(reward) == 0 else reward

    def _evaluate(self) -> tuple[Observation, float, dict[str, Any]]:
        """Observation, reward and info of the present state."""
        tool = self.controller.kinematics.tool_pose(self.state.q)
        if self._live is not None and self._live.unseen(self.bodies):
            return self.observe(self.obs_mode), -1.0, self._info(tool, False, math.nan, {})
        achieved = self.task.achieved_goal(self.scene, self.state)
        desired = self.task.desired_goal(self.scene)
        terms: dict[str, Any] = {
            **self.task.goal_reward_terms(achieved, desired, tool),
            **self.task.other_reward_terms(self.scene, self.state, tool),
        }
        success = bool(self.task.is_success(achieved, desired))
        info = self._info(tool, success, float(self.task.distance(achieved, desired)), terms)
        reward = self._compute_reward(achieved, desired, info)
        return self.observe(self.obs_mode), reward, info

    def _info(
        self, tool: Array, success: bool, distance: float, terms: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            # An array and no np.bool_, of which Gymnasium's vector envs would make objects.
            "is_success": np.array(success),
            "distance": np.float64(distance),
            "reward_terms": {name: np.float64(value) for name, value in terms.items()},
            "scene": recordable(self.scene),
            "tool": tool,
            "tracking_error": np.abs(self.state.q - self.controller.command).max(),
            "delay": np.float64(self.state.delay),
        }

    def observe(self, obs_mode: str) -> Observation:
        """What any observation mode sees of the present state.

        Raises:
            RuntimeError: the env has not been reset.
        """
        proprioception, desired = self.proprioception(), self.task.desired_goal(self.scene)
        if obs_mode == "state":
            privileged = self.task.privileged(self.scene, self.state)
            if self._live is not None:  # what is hidden is taken to stand where it was last
                privileged = np.nan_to_num(privileged)
            vectors = {
                "observation": np.concatenate([proprioception, self.state.qdot, privileged]),
                "achieved_goal": self.task.achieved_goal(self.scene, self.state),
                "desired_goal": desired,
            }
        else:
            vectors = {"agent_pos": proprioception, "goal": desired[:-1]}
        observation = self._pictures(obs_mode)
        for key, value in vectors.items():
            low, high = self._bounds[key]
            # Inside its space, whatever the simulation did.
            observation[key] = np.clip(value.astype(np.float32), low, high)
        return observation

    def observation_space_of(self, obs_mode: str) -> spaces.Dict:
        """The space of what ``observe`` returns."""
        keys: tuple[str, ...] = ("observation", "achieved_goal", "desired_goal")
        if obs_mode != "state":
            keys = ("agent_pos", "goal")
        vectors = {key: spaces.Box(*self._bounds[key]) for key in keys}
        return spaces.Dict({**self._picture_spaces(obs_mode), **vectors})

    def _pictures(self, obs_mode: str) -> Observation:
        if obs_mode == "state":
            return {}
        live = self._live and self._live.pictures(self.cameras, self.image_size)
        pictures = live or self._drawn_pictures()
        values = dict(zip(("pixels", "depth"), zip(*pictures, strict=True), strict=True))
        return {key: self._per_camera(values[key]) for key in OBS_MODES[obs_mode]}

    def _drawn_pictures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Colours and depth as the cameras observe them, with all that varies."""
        cameras, state = self._variation.cameras(self.cameras), self._variation.seen()
        images = self.take_pictures(cameras, self.image_size, self.shadows, state)
        first = len(self.actions) * len(images)
        return [
            (
                image.rgb,
                np.minimum(self._variation.measured(image.depth, first + number), camera.far),
            )
            for number, (image, camera) in enumerate(zip(images, cameras, strict=True))
        ]

    def _open_viewer(self) -> Viewer:
        """The window, which is opened if there is none."""
        if self._viewer is None:
            self._viewer = Viewer(self.task_description, self.render_size)
        return self._viewer

    def _enter_world(self) -> None:
        """Make the world, and open the laboratory's cameras."""
        lab = self.lab
        if self.world_name != "real" or lab is None:
            self.use_world(make_world(self.world_name))
            return
        address, is_safe = None, None
        if lab.robot == "franka":
            if type(self.task).__module__ == "__main__":  # which no other process can import
                raise ValueError("task: defined in __main__; expected one of a module, for a robot")
            address, is_safe = lab.address, IsSafe(self.task)
        operator = self.operator or TerminalOperator(Path("layouts"))
        observed = [] if self.obs_mode == "state" else [camera.name for camera in self.cameras]
        live = Live(lab, operator, lab.calibrated(self.task.cameras), observed)
        self.use_world(make_world("real", address, self.dry_run, is_safe))
        self._live = live

    def _lay_out(self, live: Live, home: Array, wanted_state: WorldState) -> WorldState:
        """Have the scene laid out as in a state, and look at it; the arm is at home."""
        assert self.world is not None
        live.begin()
        camera = self._static_camera
        [wanted] = self.take_pictures((camera,), self.render_size, True, wanted_state)
        live.operator.lay_out(live.overlaid(wanted.rgb, camera))
        while True:
            # However long it took, the episode begins now.
            state = self._seen(replace(self.world.step(home), delay=0.0, followed=True))
            if hidden := live.hidden(state, self.bodies):
                live.operator.confirm(f"The marker of {', '.join(hidden)} is not seen: uncover it.")
            elif wrong := live.misplaced(state, wanted_state, self.bodies):
                live.operator.confirm(f"Not laid out yet: {wrong}.")
                live.operator.lay_out(live.overlaid(wanted.rgb, camera))
            else:
                live.start()
                return state

    @property
    def _static_camera(self) -> Camera:
        """The first that stands still of those that policies see through, else the task's view."""
        return next((c for c in self.cameras if c.parent is None), self.task.view)

    def _seen(self, state: WorldState) -> WorldState:
        """The state, as far as it is known."""
        return state if self._live is None else self._live.look(state, self.bodies)

    def _sample_scene(self) -> Scene:
        scene = self.task.sample_scene(self.np_random)
        if self.randomization is not None:  # last, so that the rest is what it is without
            bodies, cameras = self.task.bodies(scene), self.task.cameras
            scene["randomize"] = self.randomization.sample(self.np_random, bodies, cameras)
        return scene

    def _per_camera(self, values: Sequence[Any]) -> Any:
        """One value as it is, several as a dict by the cameras' names."""
        if len(values) == 1:
            return values[0]
        return {camera.name: value for camera, value in zip(self.cameras, values, strict=True)}

    @functools.cached_property
    def _bounds(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The least and the most of the vectors that are observed, float32, by key."""
        task, size = self.task, len(self.task.end_effector.names)
        joint_low, joint_high = JOINT_LOW - 0.5, JOINT_HIGH + 0.5  # the physics gives way a little
        far, fast = np.full(2 * size, 4.0), np.full(7, 20.0)
        agent_low = np.concatenate([joint_low, JOINT_LOW, -far])
        agent_high = np.concatenate([joint_high, JOINT_HIGH, far])
        bounds = {
            "agent_pos": (agent_low, agent_high),
            "goal": (task.goal_low[:-1], task.goal_high[:-1]),
            "observation": (
                np.concatenate([agent_low, -fast, -task.privileged_high]),
                np.concatenate([agent_high, fast, task.privileged_high]),
            ),
            "achieved_goal": (task.goal_low, task.goal_high),
            "desired_goal": (task.goal_low, task.goal_high),
        }
        return {
            key: (low.astype(np.float32), high.astype(np.float32))
            for key, (low, high) in bounds.items()
        }

    def _picture_spaces(self, obs_mode: str) -> dict[str, spaces.Space[Any]]:
        height, width = self.image_size
        far = max(camera.far for camera in self.cameras)
        boxes = {
            "pixels": spaces.Box(0, 255, (height, width, 3), np.uint8),
            "depth": spaces.Box(0.0, far, (height, width, 1), np.float32),
        }
        pictures: dict[str, spaces.Space[Any]] = {}
        for key in OBS_MODES[obs_mode]:
            space = self._per_camera([boxes[key]] * len(self.cameras))
            pictures[key] = spaces.Dict(space) if isinstance(space, dict) else space
        return pictures
