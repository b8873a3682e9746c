"""Makes ``panda.npz``, the robot's meshes, from those in the ``robotic`` wheel.

    pip install robotic fast-simplification
    python -m komo_envs.rendering.build_meshes

The originals have 135 thousand triangles, most of them screws and motors inside closed shells.
Here every face that no camera can see is dropped, the rest is simplified to two levels of detail,
and normals are taken from the originals, so that a coarse mesh is still shaded smoothly.
Origin and licence of the meshes: see ``MESHES.md``. It takes about a minute.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import fast_simplification
import moderngl
import numpy as np
import robotic
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from komo_envs.entities import Array
from komo_envs.rendering.renderer import pose_matrices

IntArray = NDArray[np.int64]

FRAMES = (
    "l_panda_link0",
    *(f"l_panda_joint{i}" for i in range(1, 8)),
    "l_panda_hand_joint",
    "l_panda_finger_joint1",
    "l_panda_rightfinger_0",
)
"""rai's frames that carry the meshes, in the order of ``ROBOT_LINKS``."""

# rai's grey levels and what they become: sRGB colors nearer to the real robot's.
PALETTE = {
    (255, 255, 255): (236, 237, 239),  # the painted shells
    (230, 234, 237): (176, 181, 187),  # bare metal: flange, rings, finger bodies
    (64, 64, 64): (46, 48, 52),  # black plastic and rubber
}
TRIANGLES = {"coarse": 2_200, "fine": 20_000}
"""Targets; the coarse level ends higher, for its small parts cannot get simpler."""
ENOUGH_PIXELS = 20
"""Pixels over all views together; a face that shows less may go."""
CREASE = np.cos(np.radians(40.0))
"""Two faces that differ by a smaller angle are shaded as one smooth surface."""

ID_SHADERS = {
    "vertex_shader": """
        #version 330
        uniform mat4 matrix;
        in vec3 position;
        void main() { gl_Position = matrix * vec4(position, 1.0); }
    """,
    "fragment_shader": """
        #version 330
        out uint face;
        void main() { face = 2u * uint(gl_PrimitiveID) + (gl_FrontFacing ? 3u : 2u); }
    """,
}


class Surface:
    """Triangles of one link: points (N, 3) in the link's frame, and a color for each face."""

    def __init__(self, frame: robotic.Frame) -> None:
        self.points: Array = np.asarray(frame.getMeshPoints(), float)
        self.faces: IntArray = np.asarray(frame.getMeshTriangles(), int)
        colors = np.atleast_2d(frame.getMeshColors())[:, :3].astype(int)
        if len(colors) == 1:
            colors = np.repeat(colors, len(self.points), axis=0)
        cleaned = [min(PALETTE, key=lambda key: abs(np.subtract(key, c)).max()) for c in colors]
        self.colors: IntArray = np.array(
            [
                PALETTE[key] if abs(np.subtract(key, c)).max() < 4 else tuple(c)
                for key, c in zip(cleaned, colors, strict=True)
            ]
        )[self.faces[:, 0]]

    def corners(self) -> Array:
        """(M, 3 corners, 3)."""
        return self.points[self.faces]


def face_normals(corners: Array) -> tuple[Array, Array]:
    """Unit normals (M, 3) and areas (M,) of triangles (M, 3, 3)."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-12)[:, None], 0.5 * length


def keep_visible(config: robotic.Config, surfaces: list[Surface]) -> None:
    """Leaves the faces that are seen from outside, in any of a few poses of the arm.

    The ids of all faces are drawn around every link from directions all over the sphere. A face
    that is seen more from behind than from in front is turned round.
    """
    directions, size, span = 64, 1024, 0.36
    settings: Any = {"backend": "egl"}
    context: Any = moderngl.create_context(standalone=True, **settings)
    program = context.program(**ID_SHADERS)
    buffer = context.buffer(reserve=4 * 9 * sum(len(s.faces) for s in surfaces))
    array = context.vertex_array(program, [(buffer, "3f", "position")])
    target = context.framebuffer(
        [context.texture((size, size), 1, dtype="u4")], context.depth_renderbuffer((size, size))
    )
    target.use()
    context.enable(moderngl.DEPTH_TEST)
    context.front_face = "cw"  # the view has x right, y down, z forward

    rng = np.random.default_rng(0)
    lower, upper = np.asarray(config.getJointLimits())
    home = config.getJointState()
    seen = np.zeros(2 * (1 + sum(len(s.faces) for s in surfaces)), int)
    golden = np.pi * (3.0 - np.sqrt(5.0))
    for pose_index in range(4):
        if pose_index:
            config.setJointState(rng.uniform(lower, upper))
        else:
            config.setJointState(home)
        poses = pose_matrices(np.array([config.getFrame(f).getPose() for f in FRAMES]))
        world = [
            s.corners() @ m[:, :3].T.astype(float) + m[:, 3]
            for s, m in zip(surfaces, poses, strict=True)
        ]
        buffer.write(np.concatenate(world).astype("f4").tobytes())
        for corners in world:
            center = 0.5 * (corners.min((0, 1)) + corners.max((0, 1)))
            for i in range(directions):
                z = 1.0 - 2.0 * (i + 0.5) / directions
                radius = np.sqrt(1.0 - z * z)
                forward = np.array([radius * np.cos(golden * i), radius * np.sin(golden * i), z])
                right = np.cross(forward, np.eye(3)[np.argmin(abs(forward))])
                right /= np.linalg.norm(right)
                view = np.stack([right, np.cross(forward, right), forward])
                matrix = np.eye(4)
                # The depth range holds the whole arm, 2 m either side of the link.
                matrix[:3, :3] = view * np.array([2.0 / span, 2.0 / span, 0.5])[:, None]
                matrix[:3, 3] = -matrix[:3, :3] @ center
                program["matrix"].write(matrix.T.astype("f4").tobytes())
                target.clear()
                array.render()
                ids = np.frombuffer(target.read(components=1, dtype="u4"), np.uint32)
                seen += np.bincount(ids, minlength=len(seen))
    context.release()
    ends = np.cumsum([len(s.faces) for s in surfaces])[:-1]
    for surface, counts in zip(surfaces, np.split(seen.reshape(-1, 2)[1:], ends), strict=True):
        back, front = counts.T
        surface.faces[back > front] = surface.faces[back > front][:, ::-1]
        keep = grow(surface, back + front >= ENOUGH_PIXELS)
        surface.faces, surface.colors = surface.faces[keep], surface.colors[keep]


def grow(surface: Surface, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Adds the neighbours of seen faces: slivers that fell between pixels would leave holes."""
    _, welded = np.unique(surface.points.round(6), axis=0, return_inverse=True)
    corners = welded.reshape(-1)[surface.faces]
    touched = np.zeros(corners.max() + 1, bool)
    touched[corners[mask]] = True
    neighbours: NDArray[np.bool_] = touched[corners].sum(axis=1) >= 2
    return mask | neighbours


class Piece:
    """All faces of one link that have one color, as a welded mesh."""

    def __init__(self, link: int, surface: Surface, faces: NDArray[np.bool_]) -> None:
        self.link = link
        self.color = surface.colors[faces][0]
        self.points, welded = np.unique(
            surface.corners()[faces].reshape(-1, 3).round(6), axis=0, return_inverse=True
        )
        self.faces = welded.reshape(-1, 3)
        area = face_normals(self.points[self.faces])[1].sum()
        self.weight = float(np.sqrt(area * len(self.faces)))
        """Its share of triangles: more for what is large, and for what is intricate."""

    def simplified(self, count: int) -> Array:
        """(K, 3 corners, 3) triangles, about ``count`` of them."""
        points, faces, count = self.points, self.faces, max(count, 8)
        if count < len(faces):
            # Mild, it stops before the shape suffers, even if that leaves more than `count`.
            points, faces = fast_simplification.simplify(
                points.astype("f4"), faces.astype("i4"), target_count=count, agg=3.0
            )
        corners = np.asarray(points, float)[faces]
        return corners[face_normals(corners)[1] > 1e-9]


class SmoothNormals:
    """Normals of a surface near any points on it, from samples spread over it."""

    def __init__(self, corners: Array) -> None:
        rng = np.random.default_rng(0)
        normals, areas = face_normals(corners)
        pick = rng.choice(len(areas), 200_000, p=areas / areas.sum())
        u, v = rng.random((2, len(pick), 1))
        u, v = np.where(u + v > 1.0, 1.0 - u, u), np.where(u + v > 1.0, 1.0 - v, v)
        a, b, c = corners[pick].swapaxes(0, 1)
        self.normals = normals[pick]
        self.tree = cKDTree(a + u * (b - a) + v * (c - a))

    def of(self, corners: Array) -> Array:
        """(K, 3, 3) normals at triangles' corners; across a sharp edge they differ."""
        flat = face_normals(corners)[0]
        _, near = self.tree.query(corners.reshape(-1, 3), k=16)
        around = self.normals[near].reshape(len(corners), 3, 16, 3)
        alike = np.einsum("fcki,fi->fck", around, flat) > CREASE
        smooth = (around * alike[..., None]).sum(axis=2)
        length = np.linalg.norm(smooth, axis=-1, keepdims=True)
        return np.where(length > 0.5, smooth / np.maximum(length, 1e-9), flat[:, None])


def main() -> None:
    """Writes ``panda.npz`` beside this file."""
    target = Path(__file__).resolve().with_name("panda.npz")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # rai writes its log into the current directory
        config = robotic.Config()
        config.addFile(robotic.raiPath("scenarios/pandaSingle.g"))
        surfaces = [Surface(config.getFrame(name)) for name in FRAMES]
        full = sum(len(s.faces) for s in surfaces)
        keep_visible(config, surfaces)
    print(f"{full} triangles, {sum(len(s.faces) for s in surfaces)} of them visible")

    pieces, normals = [], []
    for link, surface in enumerate(surfaces):
        normals.append(SmoothNormals(surface.corners()))
        for color in np.unique(surface.colors, axis=0):
            pieces.append(Piece(link, surface, (surface.colors == color).all(axis=1)))
    total = sum(piece.weight for piece in pieces)

    data: dict[str, NDArray[np.generic]] = {}
    for level, count in TRIANGLES.items():
        tables = []
        for piece in pieces:
            corners = piece.simplified(round(count * piece.weight / total))
            shape = (*corners.shape[:2], 1)
            # Rounding to 10 um and a thousandth makes equal corners one vertex, the file small.
            columns = (
                corners.round(5),
                normals[piece.link].of(corners).round(3),
                np.broadcast_to(piece.color, corners.shape),
                np.full(shape, piece.link),
            )
            tables.append(np.concatenate(columns, axis=-1).reshape(-1, 10))
        vertices, triangles = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
        data[f"{level}_position"] = vertices[:, :3].astype(np.float32)
        data[f"{level}_normal"] = vertices[:, 3:6].astype(np.float32)
        data[f"{level}_color"] = vertices[:, 6:9].astype(np.uint8)
        data[f"{level}_link"] = vertices[:, 9].astype(np.uint8)
        data[f"{level}_triangles"] = triangles.reshape(-1, 3).astype(np.uint16)
        print(f"{level}: {len(triangles) // 3} triangles, {len(vertices)} vertices")
    np.savez_compressed(target, **data)  # type: ignore[arg-type]
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
