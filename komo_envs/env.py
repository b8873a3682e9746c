"""The Gymnasium environment: spaces, reset, step, render, close."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from komo_envs.arguments import (
    check_backend,
    check_choice,
    check_size,
    make_lab,
    make_task,
    select_cameras,
    select_options,
)
from komo_envs.control import CONTROL_MODES, Controller
from komo_envs.entities import Array, Body, Camera
from komo_envs.observations import OBS_MODES, Observation, Observer
from komo_envs.randomization import (
    EpisodeRandomization,
    check_scene,
    make_randomization,
    sample_scene,
)
from komo_envs.rendering import Image, Renderer
from komo_envs.rendering.viewer import Viewer, check_display, has_display
from komo_envs.tasks import Scene
from komo_envs.tasks.rewards import REWARD_MODES, evaluate_state, reward_of_goals
from komo_envs.utils.recordable import recordable
from komo_envs.worlds import (
    CONTROL_PERIOD,
    Backend,
    World,
    WorldState,
    has_leaked,
    make_world,
)

if TYPE_CHECKING:
    from komo_envs.lab import Lab, Operator

HOLD_STEPS = round(0.5 / CONTROL_PERIOD)
"""Steps for which success must hold until the episode ends: half a second."""


def unwrap(env: gym.Env[Any, Any]) -> KomoEnv:
    """The environment inside all wrappers.

    Raises:
        TypeError: It is not one of this package.
    """
    inner = env.unwrapped
    if not isinstance(inner, KomoEnv):
        raise TypeError(f"env: expected an environment of komo_envs, got {type(inner).__name__}")
    return inner


class KomoEnv(gym.Env[Observation, np.ndarray]):
    """A Franka Panda moves an object without grasping it.

    The class of each task, ``env.unwrapped.task``, documents what is particular to it: scene and
    starting state, end-effector coordinates, goals, privileged state, success, options.

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

    With ``obs_mode="rgb"``, ``"depth"`` or ``"rgbd"``, the observations of a real robot:

    | key         | type                | content                                                  |
    | ----------- | ------------------- | -------------------------------------------------------- |
    | `pixels`    | uint8 (H, W, 3)     | color image (rgb and rgbd)                              |
    | `depth`     | float32 (H, W, 1)   | metres along the optical axis, 0 where nothing is seen   |
    | `agent_pos` | float32 (14 + 2E,)  | the first 14 + 2E numbers of the state's `observation`   |
    | `goal`      | float32 (G - 1,)    | the goal without its last number: where to, m            |

    With several ``cameras``, `pixels` and `depth` are dicts with one image for each camera's name;
    Stable-Baselines3 refuses nested dicts, and docs/benchmark.md has a wrapper that flattens them.

    ## Rewards
    ``reward_mode="sparse"`` (default): 0 on success, -1 otherwise. ``"dense"``: the sum of the
    task's named terms, which ``info["reward_terms"]`` holds in either mode. With
    ``obs_mode="state"``, ``compute_reward(achieved_goal, desired_goal, info)`` gives the same for
    one pair of goals or a batch of them, for hindsight relabeling.

    ## Starting State
    The arm starts at the task's home position, the scene is sampled from the seed.
    ``reset(options={"scene": {...}})`` sets the scene.

    ## Episode End
    The episode terminates when success has held for half a second, and is truncated after the
    id's time limit. ``info``, of reset and of every step, has ``is_success``, ``distance`` (m),
    ``reward_terms``, ``scene`` (the episode's scene, as ``reset`` takes it), ``tcp_pose`` (pose
    (7,) of the tool), ``tracking_error`` (the largest distance of a joint from its last command,
    rad) and ``latency`` (from the last observation to the action that followed, s; 0 in
    simulation). Numbers are NumPy's scalars and ``is_success`` is an array of no axis, as TorchRL
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
        backend: Backend = "sim",
        lab: Lab | Mapping[str, Any] | str | Path | None = None,
        operator: Operator | None = None,
        dry_run: bool = False,
        render_mode: str | None = None,
        render_size: tuple[int, int] = (480, 640),
        **options: Any,
    ) -> None:
        """Make the env. Simulator and renderer start at the first reset and the first image.

        Args:
            task: ``"module:Class"`` of the task, set by the registered id.
            obs_mode: ``"state"``, ``"rgb"``, ``"depth"`` or ``"rgbd"``.
            control_mode: ``"joint"``, ``"ee"`` or ``"ee_delta"``.
            reward_mode: ``"sparse"`` or ``"dense"``.
            image_size: Side, or (height, width), of observed images in pixels.
            cameras: Names of the cameras observed: ``"front"`` (static), ``"wrist"``.
            shadows: Whether observed images have soft shadows, which are slower to render.
            randomize: Domain randomization: None, ``"visual"``, ``"dynamics"``, ``"all"``, or a
                dict with fields of ``komo_envs.randomization.Randomization``.
            backend: ``"sim"``; ``"botop"``, rai's BotOp, the interface of the real robot, with a
                robot that it simulates in real time; or ``"real"``, the robot of the ``lab``.
            lab: A ``komo_envs.lab.Lab``, its fields, or the file that has them. Cameras stand
                where it has them, with any backend.
            operator: Lays out the scenes of a real robot; asked at the terminal if None.
            dry_run: Whether a real robot is sent nothing, and its commands are printed instead.
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
        check_choice("backend", backend, get_args(Backend))
        if render_mode == "human":
            check_display()
        if not has_display():
            self.metadata = {**self.metadata, "render_modes": ["rgb_array"]}
        self.task = make_task(task, options)
        self.randomization = make_randomization(randomize)
        self.backend = backend
        self.lab = make_lab(lab)
        check_backend(backend, self.lab is not None, dry_run, self.randomization is not None)
        self.operator = operator
        self.dry_run = dry_run
        given = {"task": task, "control_mode": control_mode, "randomize": randomize}
        self._task_arguments: dict[str, Any] = {**given, **options}
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
        self._observer = Observer(self.task, self.cameras, self.image_size, shadows)
        self.observation_space = self.observation_space_of(obs_mode)

        self.world: World | None = None
        self._world_pid: int | None = None
        self.renderer = Renderer()
        self._viewer: Viewer | None = None
        self._state: WorldState | None = None
        self.scene: Scene = {}
        self.bodies: tuple[Body, ...] = ()
        self._randomized = EpisodeRandomization(None)
        self.actions: list[np.ndarray] = []
        """Actions since the reset. With the scene, they bring about the same state again."""
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

    def clone(self) -> KomoEnv:
        """Another env of the same task and control mode, which observes the state.

        After a reset to the same scene and the same ``actions``, it is in the same state.
        """
        return KomoEnv(**self._task_arguments)

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

        See ``komo_envs.tasks.rewards.reward_of_goals``. With ``obs_mode="state"`` only: other
        libraries take any env that has it for a goal env.
        """
        if self.obs_mode != "state":
            raise AttributeError(f"compute_reward: there is none with obs_mode={self.obs_mode!r}")
        return functools.partial(reward_of_goals, self.task, self.reward_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of this scene and of those that follow.
            options: None, or ``{"scene": ...}`` with the scene to set up in place of a sampled one.
                Options of other names are ignored, with one warning each: some libraries mark
                resets with options of their own.

        Raises:
            ValueError: an option is a misspelt ``"scene"``, or the task cannot set up the scene.
        """
        taken = select_options(options, self._ignored_options)
        given = self.check_scene(taken["scene"]) if taken else None
        super().reset(seed=seed)
        scene = given or sample_scene(self.task, self.randomization, self.np_random)
        if self.world is None or self._world_pid != os.getpid() or has_leaked(self.world):
            self.set_world(self._make_world())
            assert self.world is not None
        if self.render_mode == "human":
            self._open_viewer()  # a display that does not answer is found out before anything moves
        self.scene = scene
        self.actions = []
        self._randomized = EpisodeRandomization(scene.get("randomize"))
        self.bodies = self._randomized.bodies(self.task.bodies(scene))
        self._desired_goal = self.task.desired_goal(scene)
        self.controller.reset(self.task.home)
        home = self.controller.command
        self._state = None
        stiffness = self._randomized.stiffness
        self._arrive(self.world.reset(home, self.bodies, self.task.arm_collides, stiffness))
        self._randomized.begin(home, self.state)
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
        # An interruption, Ctrl-C too, leaves arm and command apart: the episode is over then.
        self._state = None
        self._arrive(self.world.step(self._randomized.delayed(reference)))
        self._randomized.record(self.state)
        if not self.state.followed:
            self.controller.reset(before)
            self._randomized.take_back()
        self.actions.append(checked)
        observation, step_reward, info = self._evaluate()
        self._success_steps = self._success_steps + 1 if info["is_success"] else 0
        terminated = self._success_steps >= HOLD_STEPS
        if self.render_mode == "human":
            self.render()
        return observation, step_reward, terminated, False, info

    def check_scene(self, scene: Any) -> Scene:
        """A scene as ``reset`` takes it, with plain numbers.

        Raises:
            ValueError: this env cannot set it up.
        """
        return check_scene(self.task, self.randomization, scene)

    def render(self) -> np.ndarray | None:
        """The scene as uint8 (H, W, 3) of ``render_size``, or shown in a window in human mode.

        Raises:
            RuntimeError: the env has not been reset, or human mode cannot open a window.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing: make the env with render_mode='rgb_array'")
            return None
        image = self.render_state()
        if self.render_mode == "rgb_array":
            return image
        viewer, self._viewer = self._open_viewer(), None  # one that fails is of no more use
        viewer.show(image, self.metadata["render_fps"])
        self._viewer = viewer
        return None

    def render_state(self, state: WorldState | None = None) -> np.ndarray:
        """The image of ``render`` for any state of this episode, the present one if None."""
        cameras = (self.task.render_camera,)
        [image] = self.render_images(cameras, self.render_size, shadows=True, state=state)
        return image.rgb

    def render_images(
        self,
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadows: bool = False,
        state: WorldState | None = None,
    ) -> list[Image]:
        """RGB, depth and segmentation of a state, the present one if None, from any cameras.

        Args:
            cameras: Static ones, or carried by a link of the robot.
            size: (height, width) in pixels.
            shadows: Whether the main light casts soft shadows.
            state: A state of this episode.
        """
        state = state or self.state
        self.renderer.set_bodies(self.bodies)
        poses = (state.link_poses, self._randomized.rendered_poses(state.body_poses))
        return self.renderer.render(*poses, cameras, size, shadows, self._randomized.look)

    def set_world(self, world: World) -> None:
        """From the next reset on, act in ``world``, which the env then owns, and no other."""
        self.close()  # a forked process cannot use the world of its parent
        self.world, self._world_pid = world, os.getpid()

    def close(self) -> None:
        """Free simulator, renderer and window. A later reset starts them again."""
        if self.world is not None:
            self.world.close()
            self.world = self._world_pid = None
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
        self.renderer.close()
        self._state = None

    def proprioception(self) -> Array:
        """Joint positions, their command, end-effector coordinates, their command (14 + 2E,).

        Raises:
            RuntimeError: the env has not been reset.
        """
        q, command = self.state.q, self.controller.command
        coordinates = self.task.tool_coordinates(self._tcp_pose)
        return np.concatenate([q, command, coordinates, self.controller.ee_command])

    def observe(self, obs_mode: str) -> Observation:
        """The observation of the present state in any observation mode.

        Raises:
            RuntimeError: the env has not been reset.
        """
        state, proprioception = self.state, self.proprioception()
        if obs_mode == "state":
            privileged = self.task.privileged(self.scene, state)
            if self.backend == "real":  # a hidden body has no known velocity
                privileged = np.nan_to_num(privileged)
            vectors = {
                "observation": np.concatenate([proprioception, state.qdot, privileged]),
                "achieved_goal": self._achieved_goal,
                "desired_goal": self._desired_goal,
            }
        else:
            vectors = {"agent_pos": proprioception, "goal": self._desired_goal[:-1]}
        step = len(self.actions)
        images = self._observer.images(obs_mode, state, step, self._randomized, self.render_images)
        return {**images, **self._observer.vectors(vectors)}

    def observation_space_of(self, obs_mode: str) -> spaces.Dict:
        """The space of what ``observe`` returns."""
        return self._observer.space(obs_mode)

    def _arrive(self, state: WorldState) -> None:
        """Take a new state, and compute once what observation and reward both need of it."""
        self._tcp_pose = self.controller.kinematics.tool_pose(state.q)
        self._achieved_goal = self.task.achieved_goal(self.scene, state)
        self._state = state

    def _evaluate(self) -> tuple[Observation, float, dict[str, Any]]:
        """Observation, reward and info of the present state."""
        goals = (self._achieved_goal, self._desired_goal)
        step_reward, evaluated = evaluate_state(
            self.task, self.reward_mode, self.scene, self.state, *goals, self._tcp_pose
        )
        info = {
            **evaluated,
            "scene": recordable(self.scene),
            "tcp_pose": self._tcp_pose.copy(),
            "tracking_error": np.abs(self.state.q - self.controller.command).max(),
            "latency": np.float64(self.state.latency),
        }
        return self.observe(self.obs_mode), step_reward, info

    def _open_viewer(self) -> Viewer:
        """The window, which is opened if there is none."""
        if self._viewer is None:
            self._viewer = Viewer(self.task_description, self.render_size)
        return self._viewer

    def _make_world(self) -> World:
        if self.backend != "real" or self.lab is None:
            return make_world(self.backend)
        from komo_envs.lab.world import LabWorld  # needs what a simulation does without

        return LabWorld(
            self.lab,
            self.task,
            self.cameras,
            self.image_size,
            self.render_size,
            self.obs_mode,
            self.reward_mode,
            self.operator,
            self.dry_run,
        )
