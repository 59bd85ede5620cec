"""A reconstructed scene as a posed capture: where optimizers of others (COLMAP's, 3DGS, gsplat, nerfstudio) begin.

One folder serves all of them. Every timestep is a COLMAP model with its pictures beside, as the original 3DGS code and
gsplat's examples take it; `transforms.json` lists the pictures of all timesteps with their times for nerfstudio.

    capture/transforms.json, capture/points.ply
    capture/frame_0001/images/view_01.png ...
    capture/frame_0001/sparse/0/cameras.txt, images.txt, points3D.txt

Formats: https://colmap.github.io/format.html, https://docs.nerf.studio/quickstart/data_conventions.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.atomic import replacing, replacing_folder, write_json, write_text
from scene4d.geometry.rotations import matrix_to_quaternion
from scene4d.types import Cameras, Gaussians
from scene4d.visualization import write_png

MOST_POINTS = 100_000
OPAQUE = 0.5  # least opacity of a Gaussian that becomes a point, where there are some
POINT = np.dtype([(x, "<f4") for x in "xyz"] + [(x, "u1") for x in ("red", "green", "blue")])


def write_capture(
    folder: str | Path,
    images: Float[Tensor, "v t 3 h w"],
    cameras: Cameras,
    frames: Sequence[Gaussians],
    frame_times: Sequence[float] = (),
) -> None:
    """Writes pictures, cameras and points of a scene; the folder appears whole or not at all, in place of an old one.

    Args:
        folder: The folder of the capture.
        images: The input pictures in [0, 1].
        cameras: Those of the views, `v`, with intrinsics in pixels of the pictures.
        frames: One set of Gaussians per timestep; the points are the centres of at most 100,000 of them.
        frame_times: Seconds; nothing means one timestep after the other.
    """
    views, timesteps = images.shape[:2]
    here = cameras.to(device="cpu", dtype=torch.float64)
    with replacing_folder(folder) as temporary:
        for t in range(timesteps):
            part = temporary / _frame(t)
            for v in range(views):
                write_png(part / "images" / _view(v), images[v, t])
            points = cloud(frames[t])
            write_colmap(part / "sparse" / "0", here, images.shape[-2:], points)
            if t == 0:
                _write_points(temporary / "points.ply", points)
        times = list(frame_times) or [float(t) for t in range(timesteps)]
        write_json(temporary / "transforms.json", transforms(here, images.shape[-2:], times))


def cloud(gaussians: Gaussians) -> np.ndarray:
    """Centres and colours of opaque Gaussians, evenly chosen."""
    opaque = gaussians.opacities >= OPAQUE
    chosen = gaussians[opaque] if bool(opaque.any()) else gaussians
    chosen = chosen[:: max(1, -(-len(chosen.means) // MOST_POINTS))].to(device="cpu", dtype=torch.float32)
    points = np.zeros(len(chosen.means), POINT)
    for axis, name in enumerate("xyz"):
        points[name] = chosen.means[:, axis].numpy()
    for channel, name in enumerate(("red", "green", "blue")):
        points[name] = (chosen.colors[:, channel].clamp(0, 1) * 255).round().numpy()
    return points


def write_colmap(folder: Path, cameras: Cameras, size: Sequence[int], points: np.ndarray) -> None:
    """Writes a COLMAP model as text: one PINHOLE camera per view, no matches.

    Args:
        folder: `sparse/0` of a timestep.
        cameras: One per view; pictures are called `view_01.png` and so on.
        size: Height and width, pixels.
        points: Those of `cloud`.
    """
    height, width = size
    lines, pictures = [], []
    quats = matrix_to_quaternion(cameras.viewmats[:, :3, :3])
    for v, (quat, viewmat, K) in enumerate(
        zip(quats.tolist(), cameras.viewmats, cameras.intrinsics.tolist())
    ):
        lines.append(f"{v + 1} PINHOLE {width} {height} {K[0][0]} {K[1][1]} {K[0][2]} {K[1][2]}\n")
        pose = " ".join(map(str, [*quat, *viewmat[:3, 3].tolist()]))
        pictures.append(f"{v + 1} {pose} {v + 1} {_view(v)}\n\n")  # the second line is for matches
    listed = (f"{k} {' '.join(map(str, point))} 0\n" for k, point in enumerate(points.tolist(), 1))
    write_text(folder / "cameras.txt", "".join(lines))
    write_text(folder / "images.txt", "".join(pictures))
    write_text(folder / "points3D.txt", "".join(listed))


def transforms(cameras: Cameras, size: Sequence[int], times: Sequence[float]) -> dict[str, object]:
    """nerfstudio's `transforms.json`: OpenGL axes (y up, z backward), times from 0 to 1."""
    height, width = size
    span = max(times[-1] - times[0], 1e-9)
    opengl = cameras.c2w * cameras.c2w.new_tensor([1.0, -1.0, -1.0, 1.0])
    frames = [
        {
            "file_path": f"{_frame(t)}/images/{_view(v)}", "time": (seconds - times[0]) / span,
            "transform_matrix": opengl[v].tolist(), "w": width, "h": height,
            "fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2],
        }
        for t, seconds in enumerate(times)
        for v, K in enumerate(cameras.intrinsics.tolist())
    ]  # fmt: skip
    return {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}


def _write_points(path: Path, points: np.ndarray) -> None:
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {'uchar' if POINT[name] == 'u1' else 'float'} {name}" for name in POINT.names or ()]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + points.tobytes())


def _frame(t: int) -> str:
    return f"frame_{t + 1:04d}"


def _view(v: int) -> str:
    return f"view_{v + 1:02d}.png"
