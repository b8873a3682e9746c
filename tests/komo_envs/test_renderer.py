"""The cameras: geometry, identity of pixels, and life with forks, threads and other contexts."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from komo_envs.entities import Body, Camera
from komo_envs.poses import look_at
from komo_envs.rendering import Image, Renderer
from komo_envs.rendering import renderer as renderer_module
from komo_envs.rendering.meshes import bodies_mesh

ROOT = Path(__file__).parents[2]

# A stretched-out arm, well out of the cameras' way where a test does not want it.
LINKS = np.array([[0.0, 2.0, 0.1 * i, 1.0, 0.0, 0.0, 0.0] for i in range(11)])
BODIES = (
    Body("table", "box", (1.0, 1.0, 0.1), (0.4, 0.4, 0.4), (0, 0, -0.05, 1, 0, 0, 0), bevel=0.01),
    Body("box", "box", (0.2, 0.2, 0.2), (0.8, 0.1, 0.1), (0.1, 0, 0.1, 1, 0, 0, 0)),
    Body(
        "can", "cylinder", (0.1, 0.05), (0.1, 0.6, 0.2), (-0.2, 0.1, 0.05, 1, 0, 0, 0), bevel=0.01
    ),
)
POSES = np.array([body.pose for body in BODIES])
TOP = Camera("top", (0.0, 0.0, 1.2, 0.0, 1.0, 0.0, 0.0), fov=50.0)
SIDE = Camera("side", look_at((0.9, -0.7, 0.6), (0.0, 0.0, 0.05)))


def render(*cameras: Camera, size: tuple[int, int] = (96, 96), shadow: bool = False) -> list[Image]:
    renderer = Renderer()
    renderer.set_bodies(BODIES)
    return renderer.render(LINKS, POSES, cameras, size, shadow)


def digest(shadow: bool = True) -> str:
    """A hash of all pixels of two cameras at a small and a large size."""
    total = hashlib.sha256()
    for size in ((96, 96), (240, 320)):
        for image in render(TOP, SIDE, size=size, shadow=shadow):
            for pixels in (image.rgb, image.depth, image.segmentation):
                total.update(pixels.tobytes())
    return total.hexdigest()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("size", [(96, 96), (240, 320)])
def test_depth_and_ids_are_the_geometry(size: tuple[int, int]) -> None:
    [image] = render(TOP, size=size)
    height, width = size
    assert image.rgb.shape == (height, width, 3)
    assert image.rgb.dtype == np.uint8
    assert image.depth.shape == (height, width, 1)
    assert image.depth.dtype == np.float32
    assert image.segmentation.shape == (height, width)
    assert image.segmentation.dtype == np.uint8

    focal = height / 2 / np.tan(np.radians(TOP.fov) / 2)
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = (columns - width / 2) / focal, (height / 2 - rows) / focal  # at 1 m from the camera
    # The box's top face is 1 m away; keep a pixel's distance from its edges.
    on_box = (abs(x - 0.1) < 0.1 - 2 / focal) & (abs(y) < 0.1 - 2 / focal)
    assert np.all(image.segmentation[on_box] == 3)
    np.testing.assert_allclose(image.depth[on_box, 0], 1.0, atol=1e-3)
    on_table = (abs(x * 1.2) < 0.45) & (y * 1.2 < -0.25) & (y * 1.2 > -0.45)
    assert np.all(image.segmentation[on_table] == 2)
    np.testing.assert_allclose(image.depth[on_table, 0], 1.2, atol=1e-3)
    # The can's area, at the distance of its top.
    area = np.pi * 0.05**2 * (focal / 1.1) ** 2
    assert np.sum(image.segmentation == 4) == pytest.approx(area, rel=0.15)
    background = image.segmentation == 0
    assert np.array_equal(background, image.depth[..., 0] == 0)
    assert not background.all()
    assert set(np.unique(image.segmentation)) <= {0, 2, 3, 4}


def test_depth_is_along_the_axis_on_a_slanted_face() -> None:
    for size in ((96, 128), (240, 320)):
        [image] = render(SIDE, size=size)
        height, width = size
        focal = height / 2 / np.tan(np.radians(SIDE.fov) / 2)
        rows, columns = np.nonzero(image.segmentation == 2)
        z = image.depth[rows, columns, 0].astype(float)
        points = np.stack(
            [z * (columns + 0.5 - width / 2) / focal, z * (rows + 0.5 - height / 2) / focal, z]
        )
        _, _, ez, w, i, j, k = SIDE.pose
        down = np.array([2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)])
        heights = ez + down @ points
        # Nearly all is the table's top; the rest is its rounded edge and its sides.
        assert np.mean(abs(heights) < 1e-3) > 0.8
        assert heights.max() < 1e-3


def test_a_small_body_is_where_a_pinhole_camera_puts_it() -> None:
    point = np.array([0.21, -0.13, 0.3])
    ball = Body("dot", "cylinder", (0.01, 0.005), (1.0, 1.0, 0.0))
    renderer = Renderer()
    renderer.set_bodies([ball])
    for size in ((120, 160), (480, 640)):
        [image] = renderer.render(LINKS, np.array([[*point, 1, 0, 0, 0]]), [SIDE], size)
        x, y, z, w, i, j, k = SIDE.pose
        axes = np.array(
            [
                [1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w)],
                [2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w)],
                [2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)],
            ]
        )
        right, down, forward = axes.T @ (point - [x, y, z])
        focal = size[0] / 2 / np.tan(np.radians(SIDE.fov) / 2)
        expected = (size[0] / 2 + focal * down / forward, size[1] / 2 + focal * right / forward)
        seen = np.argwhere(image.segmentation == 2).mean(axis=0) + 0.5
        np.testing.assert_allclose(seen, expected, atol=1.0)


def test_a_wrist_camera_moves_with_its_link() -> None:
    wrist = Camera("wrist", (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0), parent="link3", near=0.3)
    renderer = Renderer()
    renderer.set_bodies(BODIES)
    links = LINKS.copy()
    links[3] = TOP.pose
    static = Camera("static", TOP.pose, near=0.3)
    carried, fixed = renderer.render(links, POSES, [wrist, static], (64, 64))
    assert np.array_equal(carried.rgb, fixed.rgb)
    assert np.array_equal(carried.depth, fixed.depth)
    links[3, 0] += 0.1
    [moved] = renderer.render(links, POSES, [wrist], (64, 64))
    before = np.argwhere(carried.segmentation == 3).mean(axis=0)
    after = np.argwhere(moved.segmentation == 3).mean(axis=0)
    assert after[1] < before[1] - 3
    assert after[0] == pytest.approx(before[0], abs=0.5)


def test_robot_is_seen_and_casts_a_shadow() -> None:
    renderer = Renderer()
    renderer.set_bodies(BODIES[:1])
    links = np.array([[0.0, 0.0, 0.1 * i, 1.0, 0.0, 0.0, 0.0] for i in range(11)])
    [plain] = renderer.render(links, POSES[:1], [SIDE], (96, 96))
    [shaded] = renderer.render(links, POSES[:1], [SIDE], (96, 96), shadow=True)
    assert np.sum(plain.segmentation == 1) > 300
    table = plain.segmentation == 2
    darker = plain.rgb[table].mean(axis=-1) - shaded.rgb[table].mean(axis=-1)
    assert 0.01 < np.mean(darker > 10) < 0.6
    assert np.array_equal(plain.depth, shaded.depth)


def test_pixels_are_the_same_in_any_process_and_after_any_history() -> None:
    expected = digest()
    others = [Renderer() for _ in range(3)]
    for i in range(30):
        body = Body("b", "box", (0.1, 0.1, 0.02 + 0.01 * i), (0.3, 0.5, 0.1 + 0.02 * i))
        renderer = others[i % 3]
        renderer.set_bodies([body] * (1 + i % 3))
        renderer.render(LINKS, POSES[: 1 + i % 3], [SIDE], (40 + 10 * i, 64), shadow=i % 2 == 0)
    assert digest() == expected
    code = "from tests.komo_envs.test_renderer import digest; print(digest())"
    for variables in ({}, {"DISPLAY": ":99"}):
        result = run_python(code, **variables)
        assert (result.returncode, result.stdout.strip(), result.stderr) == (0, expected, "")


def test_renderers_close_in_any_order() -> None:
    renderers = [Renderer() for _ in range(8)]
    first = []
    for renderer in renderers:
        renderer.set_bodies(BODIES)
        first.append(renderer.render(LINKS, POSES, [TOP], (32, 32))[0].rgb)
    for i in (3, 0, 7):
        renderers[i].close()
        renderers[i].close()
    for i in (1, 2, 4, 5, 6):
        assert np.array_equal(renderers[i].render(LINKS, POSES, [TOP], (32, 32))[0].rgb, first[0])
    renderers[0].set_bodies(BODIES)
    assert np.array_equal(renderers[0].render(LINKS, POSES, [TOP], (32, 32))[0].rgb, first[0])


def test_meshes_lie_on_the_shapes_they_stand_for() -> None:
    for bevel in (0.0, 0.01):
        for shape, size in (("box", (0.3, 0.2, 0.1)), ("cylinder", (0.1, 0.06))):
            mesh = bodies_mesh((Body("b", shape, size, (1, 1, 1), bevel=bevel),))  # type: ignore[arg-type]
            points = mesh.vertices["position"].astype(float)
            half = np.array(size) / 2 if shape == "box" else np.array([0.06, 0.05])
            if shape == "cylinder":  # in the half plane of radius and height it is a box
                points = np.stack([np.linalg.norm(points[:, :2], axis=1), points[:, 2]], axis=1)
            beyond = abs(points) - (half - bevel)
            distance = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
            np.testing.assert_allclose(distance, bevel, atol=1e-6)
            a, b, c = mesh.vertices["position"][mesh.triangles].swapaxes(0, 1)
            volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
            exact = np.prod(size) if shape == "box" else np.pi * 0.06**2 * 0.1
            assert 0.9 * exact < volume <= exact * (1 + 1e-6)


def test_wrong_input_raises() -> None:
    renderer = Renderer()
    renderer.set_bodies(BODIES)
    with pytest.raises(ValueError, match="poses"):
        renderer.render(LINKS, POSES[:1], [TOP], (32, 32))
    with pytest.raises(ValueError, match="253"):
        renderer.set_bodies([BODIES[0]] * 254)


OTHER_CONTEXT = """
import moderngl
other = moderngl.create_context(
    standalone=True, backend="egl", libgl="libGL.so.1", libegl="libEGL.so.1"
)
"""


@pytest.mark.parametrize("before", ["", OTHER_CONTEXT])
def test_a_forked_child_renders_the_same(before: str) -> None:
    code = f"""
import multiprocessing
{before}
from tests.komo_envs.test_renderer import digest

def work(queue):
    queue.put(digest())

expected = digest()
context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=work, args=(queue,)) for _ in range(2)]
for child in children:
    child.start()
assert [queue.get(timeout=40) for _ in children] == [expected] * 2
for child in children:
    child.join(timeout=10)
    assert child.exitcode == 0
assert digest() == expected
"""
    # llvmpipe's threads do not come along into a fork, which waits for them in vain.
    done = run_python(code, LP_NUM_THREADS="4", PYTHONWARNINGS="ignore")
    assert (done.returncode, done.stderr) == (0, "")


def test_other_libraries_find_no_llvm_of_ours() -> None:
    code = """
import gymnasium as gym, komo_envs
env = gym.make("KomoPush-v0", obs_mode="rgb", render_mode="rgb_array")
env.reset(seed=0)
env.render()
with open("/proc/self/maps") as file:
    print([line.split()[-1] for line in file if "LLVM" in line or "EGL" in line or "_dri" in line])
import triton._C.libtriton
import torch
torch.optim.Adam(torch.nn.Linear(3, 3).parameters())
env.step(env.action_space.sample())
"""
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_process_that_draws_no_more_is_replaced() -> None:
    expected = digest()
    child = renderer_module._child
    assert child is not None
    child.process.kill()
    child.process.wait()
    assert digest() == expected
    assert renderer_module._child is not child


def test_threads_take_turns() -> None:
    expected = digest()
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(digest())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3


def test_missing_egl_names_the_remedy(tmp_path: Path) -> None:
    # Files of these names that are no libraries, found before the real ones.
    for name in ("libEGL.so.1", "libGL.so.1"):
        (tmp_path / name).write_text("not a library")
    code = "from tests.komo_envs.test_renderer import digest; digest()"
    result = run_python(code, LD_LIBRARY_PATH=str(tmp_path))
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError")
    assert "./setup.sh" in last
    assert "libegl1" in last


EGL_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
/* The machine's EGL, with one more device in front, which cannot be initialised. */
typedef void *P;
static P real(const char *name) {
    static P library;
    if (!library) library = dlopen(REAL, RTLD_LAZY);
    return dlsym(library, name);
}
static int broken;
static P (*address)(const char *);
static unsigned query(int most, P *devices, int *count) {
    unsigned (*ask)(int, P *, int *) = address("eglQueryDevicesEXT");
    unsigned done = most < 2 ? ask(0, 0, count) : ask(most - 1, devices + 1, count);
    if (most > 0) devices[0] = &broken;
    if (most == 1) *count = 0;
    ++*count;
    return done;
}
static P display(unsigned platform, P device, const int *attributes) {
    P (*get)(unsigned, P, const int *) = address("eglGetPlatformDisplayEXT");
    return device == &broken ? device : get(platform, device, attributes);
}
P eglGetProcAddress(const char *name) {
    if (!address) address = real("eglGetProcAddress");
    if (!strcmp(name, "eglQueryDevicesEXT")) return query;
    if (!strcmp(name, "eglGetPlatformDisplayEXT")) return display;
    return address(name);
}
unsigned eglInitialize(P d, int *major, int *minor) {
    unsigned (*initialize)(P, int *, int *) = real("eglInitialize");
    return d == &broken ? 0 : initialize(d, major, minor);
}
int eglGetError(void) { return ((int (*)(void))real("eglGetError"))(); }
P eglGetDisplay(P d) { return ((P (*)(P))real("eglGetDisplay"))(d); }
unsigned eglBindAPI(unsigned api) { return ((unsigned (*)(unsigned))real("eglBindAPI"))(api); }
unsigned eglChooseConfig(P d, const int *a, P *c, int n, int *k) {
    return ((unsigned (*)(P, const int *, P *, int, int *))real("eglChooseConfig"))(d, a, c, n, k);
}
P eglCreateContext(P d, P c, P s, const int *a) {
    return ((P (*)(P, P, P, const int *))real("eglCreateContext"))(d, c, s, a);
}
unsigned eglDestroyContext(P d, P c) {
    return ((unsigned (*)(P, P))real("eglDestroyContext"))(d, c);
}
unsigned eglMakeCurrent(P d, P a, P b, P c) {
    return ((unsigned (*)(P, P, P, P))real("eglMakeCurrent"))(d, a, b, c);
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_device_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    where = run_python(
        "import ctypes; ctypes.CDLL('libEGL.so.1'); "
        "print(next(line.split()[-1] for line in open('/proc/self/maps') if 'libEGL' in line))"
    ).stdout.strip()
    shim = tmp_path / "libEGL.so.1"
    compiler = ["gcc", "-shared", "-fPIC", "-w", f'-DREAL="{where}"', "-o", str(shim)]
    subprocess.run([*compiler, "-x", "c", "-"], input=EGL_SHIM, text=True, check=True)
    code = "from tests.komo_envs.test_renderer import digest; print(digest())"
    done = run_python(code, LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, digest(), "")
    for variable, value, message in (
        ("MUJOCO_EGL_DEVICE_ID", "0", "none that works (device 0: eglInitialize failed"),
        ("EGL_DEVICE_ID", "second", "EGL_DEVICE_ID='second': expected the index"),
    ):
        failed = run_python(code, LD_LIBRARY_PATH=str(tmp_path), **{variable: value})
        assert failed.returncode == 1
        assert message in failed.stderr.strip().splitlines()[-1]
