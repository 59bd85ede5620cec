"""Writes predicted 4D scenes: one PLY per timestep, cameras, a video along a novel path, a viewer page."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from callbacks.grid_export import frame_rate
from callbacks.scene_folders import SceneFolders
from scene4d.atomic import write_json
from scene4d.gaussians.ply import write_ply
from scene4d.gaussians.pruning import prune_by_opacity
from scene4d.gaussians.usable import usable_gaussians
from scene4d.geometry.trajectories import orbit
from scene4d.rendering.render import render_gaussians
from scene4d.types import Cameras, Gaussians, Reconstruction, SceneBatch
from scene4d.viewer import write_viewer
from scene4d.visualization import to_uint8, write_video

log = logging.getLogger(__name__)
WHITE = (1.0, 1.0, 1.0)


class GaussianExport(L.Callback):
    """Writes every predicted reconstruction to `<output>/<key>/`.

    The folder of a scene holds one PLY file per timestep (`frames/frame_0001.ply` and so on), `cameras.json`,
    `orbit.mp4` (a new camera path that loops while time runs) and `viewer.html` (opens by double-click). A second
    scene with the same key gets `<output>/<key>_2/`, see `SceneFolders`.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; False is for runs that predict one scene.
        opacity_threshold: Gaussians whose opacity is lower are left out of every file.
        orbit_rounds: How often time runs from start to end during one loop of the path.
        enlarge: How many times every pixel of the video is repeated; rendering keeps the input resolution.
        background: The colour behind the Gaussians, RGB in [0, 1]; None takes the colour of the reconstruction.
    """

    def __init__(
        self,
        output: str,
        subfolders: bool = True,
        opacity_threshold: float = 0.02,
        orbit_rounds: int = 3,
        enlarge: int = 4,
        background: tuple[float, float, float] | None = None,
    ) -> None:
        self.opacity_threshold, self.background = opacity_threshold, background
        self.orbit_rounds, self.enlarge = orbit_rounds, enlarge
        self.folders = SceneFolders(output, subfolders)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self.folders.start(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves nothing but the scenes."""
        self.folders.end(trainer)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Reconstruction,
        batch: SceneBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the scenes of one batch.

        Raises:
            ValueError: The prediction is no reconstruction, or a second scene would overwrite the first.
        """
        if not isinstance(outputs, Reconstruction):
            raise ValueError(
                f"GaussianExport needs a Reconstruction, predict_step returned {type(outputs).__name__}"
            )
        times, keys = outputs.frame_times, outputs.keys
        for index in range(len(outputs.gaussians.means)):
            if self.folders.is_repeated(batch, index):
                continue
            key = keys[index] if keys else f"{len(self.folders.written):04d}"
            folder = self.folders.next(trainer, key)
            seconds = [] if times is None else times[index].tolist()
            size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
            background = self.background or tuple(outputs.background[index].tolist())
            self.write(folder, outputs.gaussians[index], outputs.cameras[index], seconds, size, background)

    @torch.no_grad()
    def write(
        self,
        folder: Path,
        gaussians: Gaussians,
        cameras: Cameras,
        frame_times: list[float],
        size: tuple[int, int],
        background: tuple[float, float, float] = WHITE,
    ) -> None:
        """Writes one scene.

        Args:
            folder: The scene's folder.
            gaussians: One set per timestep, `t g`.
            cameras: Those of the input views, `v`.
            frame_times: Seconds; empty = unknown.
            size: (height, width) that the intrinsics refer to, pixels.
            background: RGB in [0, 1].

        Raises:
            ValueError: A camera or all Gaussians of a timestep are NaN, as after a training that diverged; nothing
                is written then.
        """
        gaussians = gaussians.to(dtype=torch.float32, device="cpu")
        cameras = cameras.to(dtype=torch.float32, device="cpu")
        if not all(bool(x.isfinite().all()) for x in (cameras.c2w, cameras.intrinsics)):
            raise ValueError(f"{folder}: a predicted camera holds NaN or infinite values, nothing is written")
        frames = [
            usable_gaussians(gaussians[t], f"{folder}, timestep {t}") for t in range(len(gaussians.means))
        ]
        frames = [prune_by_opacity(frame, self.opacity_threshold) for frame in frames]
        fps = frame_rate(frame_times)
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        for old in (folder / "frames").glob("frame_*.ply"):  # of an earlier, longer run
            old.unlink()
        for number, frame in enumerate(frames, 1):
            write_ply(folder / "frames" / f"frame_{number:04d}.ply", frame)
        write_cameras(folder / "cameras.json", cameras, size, fps, frame_times)
        video = orbit_video(frames, cameras, size, self.orbit_rounds, background)
        write_video(folder / "orbit.mp4", video, fps, self.enlarge)
        write_viewer(folder / "viewer.html", frames, cameras, size, fps, background=background)
        log.info("%d timesteps of Gaussians, orbit.mp4 and viewer.html -> %s", len(frames), folder)


def write_cameras(
    path: Path, cameras: Cameras, size: tuple[int, int], fps: float, frame_times: list[float]
) -> None:
    """Cameras `v` as JSON: OpenCV camera-to-world, intrinsics in pixels, pixel centres at +0.5."""
    listed = [
        {"c2w": c2w.tolist(), "intrinsics": intrinsics.tolist()}
        for c2w, intrinsics in zip(cameras.c2w, cameras.intrinsics)
    ]
    content = {
        "convention": "OpenCV camera-to-world, x right, y down, z forward; pixel centres at +0.5",
        "height": size[0], "width": size[1], "fps": fps, "frame_times": frame_times, "cameras": listed,
    }  # fmt: skip
    write_json(path, content)


def orbit_video(
    frames: list[Gaussians],
    cameras: Cameras,
    size: tuple[int, int],
    rounds: int = 3,
    background: tuple[float, float, float] = WHITE,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Renders a looping path around the scene while time runs.

    Args:
        frames: One set of Gaussians per timestep.
        cameras: The input views, `v`; the path sways along their arc, a little beyond its ends.
        size: (height, width), pixels.
        rounds: How often time runs from start to end; a still scene gets 48 pictures.
        background: RGB in [0, 1].

    Returns:
        The pictures in the order of the path.
    """
    count = rounds * len(frames) if len(frames) > 1 else 48
    path = orbit(cameras.c2w, count, target=look_target(frames, cameras))
    intrinsics = cameras.intrinsics.mean(0, keepdim=True)
    pictures = []
    for number in range(count):
        camera = Cameras(path[number : number + 1], intrinsics)
        images, _, _ = render_gaussians(frames[number % len(frames)], camera, *size, background)
        pictures.append(images[0])
    return to_uint8(torch.stack(pictures))


def look_target(frames: list[Gaussians], cameras: Cameras) -> Float[Tensor, "3"]:
    """The point on the mean viewing axis at the median depth of the Gaussians.

    Unlike the crossing of the axes it does not run away when recovered cameras are nearly parallel.
    """
    position, forward = cameras.c2w[:, :3, 3].mean(0), cameras.c2w[:, :3, 2].mean(0)
    forward = forward / forward.norm().clamp_min(1e-9)
    means = torch.cat([frame.means for frame in frames])
    depth = (means - position) @ forward
    depth = depth[depth > 0]
    return position + forward * (depth.median() if len(depth) else 1.0)
