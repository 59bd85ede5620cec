"""A moving set of Gaussians as one HTML file that opens by double-click.

No server, no network, no GPU: the page carries its data (24 bytes per Gaussian and timestep) and draws with
WebGL2, or in plain JavaScript where WebGL2 is missing. Its sources are the files of `viewer_page/`.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from scene4d.atomic import write_text
from scene4d.gaussians.blur import low_pass
from scene4d.gaussians.pruning import prune_by_opacity
from scene4d.gaussians.quantization import bounding_box, pack_gaussians
from scene4d.gaussians.sampling import sample_gaussians
from scene4d.gaussians.usable import usable_gaussians
from scene4d.rendering.constants import ALPHA_THRESHOLD
from scene4d.types import Cameras, Gaussians

PAGE = Path(__file__).parent / "viewer_page"
MOST_PER_TIMESTEP, MOST_IN_PAGE = 200_000, 6_000_000  # 24 bytes each, 32 as text: 190 MB at most
SCRIPTS = ("data.js", "camera.js", "frusta.js", "software.js", "webgl.js", "controls.js")


def write_viewer(
    path: str | Path,
    frames: list[Gaussians],
    cameras: Cameras | None,
    image_size: tuple[int, int],
    fps: float = 12.0,
    title: str = "4D scene",
    background: Sequence[float] = (1.0, 1.0, 1.0),
    most: int = MOST_PER_TIMESTEP,
) -> None:
    """Writes the page; it appears whole or not at all.

    The page holds at most `most` Gaussians per timestep and six million in all, so that it opens and plays. Of more it
    takes a sample that looks alike (see `sample_gaussians`), and says how many there were.

    The page looks as the renders do at any window size: Gaussians that do not include the blur of the rasterizer
    (`Gaussians.blurred`) are drawn with that of `image_size`, 0.3 pixels^2. Gaussians fainter than 1/255 are left
    out, since no rasterizer draws them, and so are those that cannot be drawn, with a warning that counts them (see
    `usable_gaussians`).

    Args:
        path: The .html file; its folder is made.
        frames: One set of Gaussians (g, ...) per timestep, in order.
        cameras: Input cameras (v), which the page starts at and can jump to; None puts one in front of
            the scene.
        image_size: (height, width) in pixels that the cameras' intrinsics refer to.
        fps: Timesteps per second when playing.
        title: Shown in the page and its tab.
        background: RGB in [0, 1].
        most: Largest number of Gaussians per timestep.

    Raises:
        ValueError: No frames, frames with leading axes, some of them blurred and others not, without any Gaussian that
            can be drawn although they hold some, cameras not of shape (v) or not finite, or a bad size.
    """
    _check(frames, cameras, image_size, fps)
    frames = [usable_gaussians(frame, f"{path}, timestep {index}") for index, frame in enumerate(frames)]
    frames = [prune_by_opacity(frame, ALPHA_THRESHOLD) for frame in frames]
    totals = [len(frame.means) for frame in frames]
    eye = cameras.c2w[:, :3, 3].mean(0) if cameras is not None else torch.zeros(3)
    frames = [sample_gaussians(frame, min(most, MOST_IN_PAGE // len(frames)), eye) for frame in frames]
    low, high = bounding_box(frames)
    cameras = _front_camera(low, high, image_size) if cameras is None else cameras
    meta = {
        "title": title,
        "fps": fps,
        "low": low.tolist(),
        "high": high.tolist(),
        "counts": [len(frame.means) for frame in frames],
        "totals": totals,
        "imageSize": list(image_size),
        "lowPass": low_pass(frames[0]),
        "background": list(background),
        "cameras": _camera_list(cameras),
    }
    payloads = [base64.b64encode(pack_gaussians(frame, low, high)).decode("ascii") for frame in frames]
    write_text(path, _assemble(meta, payloads))


def _check(frames: list[Gaussians], cameras: Cameras | None, image_size: tuple[int, int], fps: float) -> None:
    if not frames:
        raise ValueError("a viewer needs at least one frame of Gaussians, got none")
    for index, frame in enumerate(frames):
        if frame.means.ndim != 2:
            raise ValueError(f"frame {index} has means of shape {tuple(frame.means.shape)}, expected (g, 3)")
        if frame.blurred != frames[0].blurred:
            raise ValueError(
                f"frame {index} is {'' if frame.blurred else 'not '}blurred, frame 0 is otherwise"
            )
    if cameras is not None and cameras.c2w.ndim != 3:
        raise ValueError(f"cameras have shape {tuple(cameras.c2w.shape[:-2])}, expected one axis of views")
    if cameras is not None and not all(bool(x.isfinite().all()) for x in (cameras.c2w, cameras.intrinsics)):
        raise ValueError("a camera holds NaN or infinite values")
    if min(image_size) < 1 or not fps > 0:
        raise ValueError(f"image_size and fps must be positive, got {image_size} and {fps}")


def _front_camera(low: torch.Tensor, high: torch.Tensor, image_size: tuple[int, int]) -> Cameras:
    """A camera that looks along +z at the whole bounding box, 50 degrees of view."""
    height, width = image_size
    focal = 0.5 * min(height, width) / 0.466
    radius = float((high - low).norm()) / 2
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, 3] = (low + high) / 2
    c2w[2, 3] -= 2.4 * max(radius, 1e-6)
    intrinsics = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    return Cameras(c2w[None], torch.tensor(intrinsics, dtype=torch.float64)[None])


def _camera_list(cameras: Cameras) -> list[dict[str, list]]:
    return [
        {"c2w": c2w.double().tolist(), "intrinsics": intrinsics.double().tolist()}
        for c2w, intrinsics in zip(cameras.c2w.detach().cpu(), cameras.intrinsics.detach().cpu())
    ]


def _assemble(meta: dict[str, object], payloads: list[str]) -> str:
    """Fills the page's template; data and code sit in elements of their own."""
    data = [_element("application/json", "meta", json.dumps(meta, allow_nan=False).replace("<", "\\u003c"))]
    data += [_element("text/plain", f"frame-{i}", payload) for i, payload in enumerate(payloads)]
    script = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    parts = {
        "title": html.escape(str(meta["title"])),
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "data": "\n".join(data),
        "script": f'"use strict";\n{script}',
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], page)


def _element(kind: str, name: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'
