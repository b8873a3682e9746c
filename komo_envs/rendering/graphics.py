"""The drawing itself, with OpenGL on EGL. It runs in a process of its own: see ``renderer.py``."""

from __future__ import annotations

import ctypes
import math
import os
import pickle
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from komo_envs.entities import ROBOT_LINKS, Camera, Look
from komo_envs.rendering import shaders
from komo_envs.rendering.meshes import LAYOUT, Mesh, bodies_mesh, robot_mesh
from komo_envs.rendering.renderer import Image, pose_matrices

COARSE_UP_TO = 256
"""Images of at most so many pixels either way are made for speed: the robot's coarse mesh, each
pixel drawn once, edges smoothed afterwards. Larger ones are made to be looked at: the fine mesh,
each pixel the mean of 2 x 2, a finer shadow."""
DEVICE_VARIABLES = ("GLCONTEXT_DEVICE_INDEX", "EGL_DEVICE_ID", "MUJOCO_EGL_DEVICE_ID")
"""Environment variables by which users choose an EGL device, by its index."""
_MAX_TARGETS = 8


class _Drawable:
    """A mesh in GL memory. ``load`` replaces it; the same mesh again costs nothing."""

    def __init__(self, graphics: Graphics) -> None:
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


class Graphics:
    """A GL context with everything in it."""

    def __init__(self, context: Any) -> None:
        self.context = context
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

    def driver(self) -> str:
        """Name and version of the GL driver."""
        return f"{self.context.info['GL_RENDERER']}, {self.context.info['GL_VERSION']}"

    def close(self) -> None:
        """Free the context."""
        self.context.release()

    def draw(
        self,
        bodies: bytes,
        matrices: NDArray[np.float32],
        cameras: Sequence[Camera],
        size: tuple[int, int],
        shadow: bool,
        look: Look,
    ) -> list[Image]:
        """See ``Renderer.render``; ``bodies`` are pickled, ``matrices`` are those of all poses."""
        self.poses.write(matrices)
        self.bodies.load(_mesh_of(bodies))
        target = self.target(size)
        scene = self.shaded if shadow else self.plain
        base = matrices[0, :, 3]
        scene["center"].write(base[:2].tobytes())
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


@lru_cache(maxsize=64)
def _mesh_of(bodies: bytes) -> Mesh:
    return bodies_mesh(pickle.loads(bodies))


def open_graphics() -> Graphics:
    """Graphics on the EGL device that the user has chosen, else on the first that works.

    Raises:
        RuntimeError: There is none. The message says which were tried, and what may help.
    """
    # llvmpipe, Mesa's software renderer, is as fast with no threads of its own. Without its cache
    # Mesa writes no files and no complaints.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")
    # Full file names, because development packages would be needed to find shorter ones.
    settings: Any = {"backend": "egl", "libgl": "libGL.so.1", "libegl": "libEGL.so.1"}
    failures = []
    for device in _devices():
        settings["device_index"] = device
        try:
            return Graphics(moderngl.create_context(standalone=True, **settings))
        except Exception as error:
            failures.append(f"device {device}: {error}")
    tried = "; ".join(failures) or "there is no device"
    raise RuntimeError(
        f"Cameras need an EGL device, and there is none that works ({tried}). Without a GPU they "
        "need Debian's libegl1 and libgl1-mesa-dri, which ./setup.sh installs; a GPU needs its "
        "driver, and permission to open its file in /dev/dri or /dev/nvidia*. "
        f"{DEVICE_VARIABLES[1]} chooses a device by its index"
    )


def _devices() -> Sequence[int]:
    """Indices of the EGL devices to try, in order."""
    for variable in DEVICE_VARIABLES:
        if value := os.environ.get(variable):
            if not value.isdecimal():
                raise RuntimeError(f"{variable}={value!r}: expected the index of an EGL device")
            return [int(value)]
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise RuntimeError(
            f"Cameras need EGL, which cannot be loaded ({error}). Run ./setup.sh, or: apt-get "
            "update && apt-get install libegl1 libgl1-mesa-dri"
        ) from error
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if address is None:
        return [0]  # creating a context says what is missing
    query = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    )(address)
    count = ctypes.c_int(0)
    query(0, None, ctypes.byref(count))
    return range(count.value)
