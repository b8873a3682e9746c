"""Draws a scene's robot and bodies with OpenGL on EGL: no screen, no X server.

One process has one GL context, made at the first render and shared by every ``Renderer``, which
itself holds plain arrays only. A forked child makes its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from komo_envs.cameras import shaders
from komo_envs.cameras.meshes import LAYOUT, Mesh, bodies_mesh, robot_mesh
from komo_envs.scene import ROBOT_LINKS, Array, Body, Camera, Look

COARSE_UP_TO = 256
"""Images of at most so many pixels either way are made for speed: the robot's coarse mesh, each
pixel drawn once, edges smoothed afterwards. Larger ones are made to be looked at: the fine mesh,
each pixel the mean of 2 x 2, a finer shadow."""

_MAX_TARGETS = 8
PLAIN = Look()


@dataclass(frozen=True)
class Image:
    """What one camera sees; row 0 is the top."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), as a screen shows it."""
    depth: NDArray[np.float32]
    """(H, W, 1), metres along the optical axis; 0 where nothing is hit within the far plane."""
    segmentation: NDArray[np.uint8]
    """(H, W): 0 background, 1 robot, 2 + i for ``bodies[i]``."""


class Renderer:
    """Pictures of the robot and of a list of bodies, from any cameras at any sizes.

    Making one costs nothing; the first render in a process loads OpenGL. Any number may be alive,
    used from any thread, and closed in any order. Equal input gives equal pixels, bit for bit.
    """

    def __init__(self) -> None:
        self._bodies: tuple[Body, ...] = ()
        self._mesh = bodies_mesh(())

    def set_bodies(self, bodies: Sequence[Body]) -> None:
        """Says what is in the scene besides the robot: shapes, sizes, colours and their order.

        Raises:
            ValueError: there are more than 253 bodies, the most that segmentation can number.
        """
        bodies = tuple(bodies)
        if bodies != self._bodies:
            self._mesh = bodies_mesh(bodies)
            self._bodies = bodies

    def render(
        self,
        link_poses: Array,
        body_poses: Array,
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadow: bool = False,
        look: Look = PLAIN,
    ) -> list[Image]:
        """One image a camera.

        Args:
            link_poses: (11, 7) world poses of the links, in the order of ``ROBOT_LINKS``.
            body_poses: (N, 7) world poses of the bodies, in the order of ``set_bodies``.
            cameras: static ones, or carried by a link.
            size: (height, width) in pixels.
            shadow: whether the main light casts soft shadows.
            look: of light and surfaces.

        Raises:
            ValueError: the number of poses does not fit.
            RuntimeError: there is no working EGL; the message says how to get one.
        """
        poses = np.concatenate([link_poses, np.reshape(body_poses, (-1, 7))])
        if len(poses) != len(ROBOT_LINKS) + len(self._bodies):
            raise ValueError(
                f"{len(poses)} poses for {len(ROBOT_LINKS)} links and {len(self._bodies)} bodies"
            )
        matrices = pose_matrices(poses)
        return _thread.submit(_draw, self._mesh, matrices, cameras, size, shadow, look).result()

    def close(self) -> None:
        """Forgets the bodies. The process keeps its GL context, which other renderers share."""
        self.set_bodies(())


def pose_matrices(poses: Array) -> NDArray[np.float32]:
    """(N, 3, 4) matrices [rotation | position] of (N, 7) poses."""
    x, y, z, w, i, j, k = np.asarray(poses, float).T
    matrices = np.array(
        [
            [1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w), x],
            [2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w), y],
            [2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j), z],
        ]
    )
    return matrices.transpose(2, 0, 1).astype(np.float32, order="C")


class _Drawable:
    """A mesh in GL memory. ``load`` replaces it; the same mesh again costs nothing."""

    def __init__(self, graphics: _Graphics) -> None:
        self._graphics = graphics
        self._mesh: Mesh | None = None
        self._buffers: list[Any] = []
        self._arrays: dict[Any, Any] = {}

    def load(self, mesh: Mesh) -> None:
        if mesh is self._mesh:
            return
        for item in (*self._arrays.values(), *self._buffers):
            item.release()
        self._buffers, self._arrays, self._mesh = [], {}, mesh
        if len(mesh.triangles):
            context = self._graphics.context
            vertices = context.buffer(mesh.vertices.tobytes())
            triangles = context.buffer(mesh.triangles.tobytes())
            self._buffers = [vertices, triangles]
            names = ("position", "normal", "color", "body")
            self._arrays = {
                program: context.vertex_array(program, [(vertices, layout, *names)], triangles)
                for program, layout, names in (
                    (self._graphics.plain, LAYOUT, names),
                    (self._graphics.shaded, LAYOUT, names),
                    (self._graphics.shadow, "3f 24x 1i", ("position", "body")),
                )
            }

    def draw(self, program: Any) -> None:
        if self._arrays:
            self._arrays[program].render()


class _Target:
    """Frame buffers for one image size: what the scene is drawn on, and the image."""

    def __init__(self, context: Any, size: tuple[int, int]) -> None:
        height, width = size
        self.fine = max(size) > COARSE_UP_TO
        scale = 2 if self.fine else 1
        shape = (scale * width, scale * height)
        self.colors = context.texture(shape, 4)
        self.depths = context.texture(shape, 1, dtype="f4")
        self.buffers = [context.depth_renderbuffer(shape)]
        self.scene = context.framebuffer([self.colors, self.depths], self.buffers[0])
        self.buffers += [
            context.renderbuffer((width, height), 4),
            context.renderbuffer((width, height), 1, dtype="f4"),
        ]
        self.image = context.framebuffer(self.buffers[1:])

    def release(self) -> None:
        for item in (self.scene, self.image, self.colors, self.depths, *self.buffers):
            item.release()


class _Graphics:
    """The process's GL context with everything in it."""

    def __init__(self) -> None:
        context = self.context = _make_context()
        context.front_face = "cw"  # of an image drawn from its top row
        self.plain = context.program(shaders.SCENE_VERTEX, shaders.SCENE_FRAGMENT)
        self.shaded = context.program(shaders.SCENE_VERTEX, shaders.SCENE_SHADOW_FRAGMENT)
        self.shadow = context.program(shaders.SHADOW_VERTEX, shaders.SHADOW_FRAGMENT)
        self.resolve = {
            fine: context.program(shaders.RESOLVE_VERTEX, fragment)
            for fine, fragment in (
                (False, shaders.SMOOTH_FRAGMENT),
                (True, shaders.AVERAGE_FRAGMENT),
            )
        }
        self.full_screen = {
            fine: context.vertex_array(program, []) for fine, program in self.resolve.items()
        }
        for program in self.resolve.values():
            program["colors"], program["depths"] = 0, 1
        self.shaded["shadow_map"] = 2
        self.poses = context.buffer(reserve=48 * shaders.MAX_MATRICES)
        self.poses.bind_to_uniform_block(0)
        self.robot = {fine: _Drawable(self) for fine in (False, True)}
        for fine, drawable in self.robot.items():
            drawable.load(robot_mesh(fine))
        self.bodies = _Drawable(self)
        self.targets: dict[tuple[int, int], _Target] = {}
        self.shadow_maps = {}
        for fine, side in ((False, 512), (True, 1024)):
            texture = context.depth_texture((side, side))
            texture.compare_func = "<="
            texture.filter = (moderngl.NEAREST, moderngl.NEAREST)
            self.shadow_maps[fine] = (texture, context.framebuffer(depth_attachment=texture))

    def target(self, size: tuple[int, int]) -> _Target:
        """The frame buffers for a size, of which the last few used are kept."""
        target = self.targets.pop(size, None) or _Target(self.context, size)
        self.targets[size] = target
        if len(self.targets) > _MAX_TARGETS:
            self.targets.pop(next(iter(self.targets))).release()
        return target

    def draw(
        self,
        mesh: Mesh,
        matrices: NDArray[np.float32],
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadow: bool,
        look: Look,
    ) -> list[Image]:
        """See ``Renderer.render``; ``matrices`` are those of all poses."""
        self.poses.write(matrices)
        self.bodies.load(mesh)
        target = self.target(size)
        scene = self.shaded if shadow else self.plain
        base = matrices[0, :, 3]
        scene["centre"].write(base[:2].tobytes())
        light = np.array(look.light, np.float32)
        light *= 1 / np.sqrt(light @ light)
        scene["key_direction"].write(light.tobytes())
        scene["brightness"], scene["texture_contrast"] = look.brightness, look.texture
        scene["pattern"] = look.pattern
        if shadow:
            self._draw_shadow_map(target.fine, base, light)
        return [self._draw_camera(scene, matrices, camera, target, size) for camera in cameras]

    def _draw_camera(
        self,
        scene: Any,
        matrices: NDArray[np.float32],
        camera: Camera,
        target: _Target,
        size: tuple[int, int],
    ) -> Image:
        height, width = size
        pose = pose_matrices(np.array([camera.pose]))[0]
        rotation, eye = pose[:, :3], pose[:, 3]
        if camera.parent is not None:
            parent = matrices[ROBOT_LINKS.index(camera.parent)]
            rotation, eye = parent[:, :3] @ rotation, parent[:, :3] @ eye + parent[:, 3]
        focal = 1.0 / math.tan(math.radians(camera.fov) / 2)
        near, far = camera.near, camera.far
        # y points down in the camera and up in the frame buffer, whose row 0 is at its bottom:
        # with no flip, row 0 is the image's top row.
        projection = np.zeros((4, 3))
        projection[0, 0], projection[1, 1] = focal * height / width, focal
        projection[2, 2], projection[3, 2] = (far + near) / (far - near), 1.0
        matrix = np.zeros((4, 4), np.float32)
        matrix[:, :3] = projection @ rotation.T
        matrix[:, 3] = matrix[:, :3] @ -eye
        matrix[2, 3] -= 2 * far * near / (far - near)
        scene["view_projection"].write(matrix.T.tobytes())
        scene["eye"].write(eye.tobytes())
        target.scene.use()
        # A small image gains much speed by leaving out what faces away; but a few details of the
        # robot are open shells, which would be seen through in a large one.
        self.context.enable_only(
            moderngl.DEPTH_TEST if target.fine else moderngl.DEPTH_TEST | moderngl.CULL_FACE
        )
        target.scene.clear()
        self.robot[target.fine].draw(scene)
        self.bodies.draw(scene)

        scale = 2.0 / (focal * height)
        pixel = np.array(
            [[scale, 0, -scale * width / 2], [0, scale, -scale * height / 2], [0, 0, 1]]
        )
        ray = (rotation @ pixel).T.astype(np.float32)
        self.resolve[target.fine]["pixel_ray"].write(ray.tobytes())
        target.image.use()
        self.context.enable_only(moderngl.NOTHING)
        target.colors.use(0)
        target.depths.use(1)
        self.full_screen[target.fine].render(vertices=3)
        rgba = np.empty((height, width, 4), np.uint8)
        depth = np.empty((height, width, 1), np.float32)
        target.image.read_into(rgba, components=4)
        target.image.read_into(depth, components=1, attachment=1, dtype="f4")
        return Image(rgba[..., :3].copy(), depth, rgba[..., 3].copy())

    def _draw_shadow_map(
        self, fine: bool, base: NDArray[np.float32], light: NDArray[np.float32]
    ) -> None:
        """Covers all that is within 1.2 m of a point 0.3 m above the robot's base."""
        forward = -light
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        matrix = np.eye(4, dtype=np.float32)
        matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward]) / 1.2
        matrix[:3, 3] = -matrix[:3, :3] @ (base + np.array([0.0, 0.0, 0.3], np.float32))
        self.shadow["light_matrix"].write(matrix.T.tobytes())
        self.shaded["light_matrix"].write(matrix.T.tobytes())
        self.shaded["fine"] = fine
        texture, target = self.shadow_maps[fine]
        target.use()
        self.context.enable_only(moderngl.DEPTH_TEST)
        target.clear()
        self.robot[fine].draw(self.shadow)
        self.bodies.draw(self.shadow)
        texture.use(2)


def _make_context() -> Any:
    # llvmpipe, Mesa's software renderer, is as fast with no threads of its own, and a forked child
    # would wait for them in vain. Without its cache Mesa writes no files and no complaints.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")
    # Full file names, because development packages would be needed to find shorter ones.
    settings: Any = {"backend": "egl", "libgl": "libGL.so.1", "libegl": "libEGL.so.1"}
    try:
        return moderngl.create_context(standalone=True, **settings)
    except Exception as error:
        raise RuntimeError(
            f"Cameras need EGL and a Mesa or GPU driver, which do not work here ({error}). "
            "Run ./setup.sh, or: apt-get install libegl1 libgl1-mesa-dri"
        ) from error


def driver() -> str:
    """What draws here, and its version: pictures of another may differ. "none" if nothing can."""

    def ask() -> str:
        try:
            context = _make_context()
        except RuntimeError:
            return "none"
        said = f"{context.info['GL_RENDERER']}, {context.info['GL_VERSION']}"
        context.release()
        return said

    with ThreadPoolExecutor(max_workers=1) as thread:  # as below
        return thread.submit(ask).result()


# A GL context is current in one thread, and a thread has one: in a thread of its own ours is
# never in the way of another library's (a window of pygame, say), nor that one in ours.
_thread = ThreadPoolExecutor(max_workers=1)
_graphics: _Graphics | None = None


def _draw(*arguments: Any) -> list[Image]:
    global _graphics
    if _graphics is None:
        _graphics = _Graphics()
    return _graphics.draw(*arguments)


def _after_fork() -> None:
    """A child has neither its parent's thread nor the use of its context."""
    global _graphics, _thread
    _graphics, _thread = None, ThreadPoolExecutor(max_workers=1)


os.register_at_fork(after_in_child=_after_fork)
