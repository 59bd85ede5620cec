"""Writes predicted 4D scenes: Gaussians of every timestep, cameras, videos along camera paths, a viewer page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from callbacks.grid_export import frame_rate
from callbacks.scene_folders import SceneFolders
from scene4d.atomic import write_json
from scene4d.captures import write_capture
from scene4d.gaussians.ply import write_ply
from scene4d.gaussians.pruning import prune_by_opacity
from scene4d.gaussians.splat_files import write_compressed_ply, write_splat
from scene4d.gaussians.usable import usable_gaussians
from scene4d.rendering.colours import check_colour
from scene4d.rendering.path_videos import WHITE, CameraPath, path_video
from scene4d.types import Cameras, Gaussians, Reconstruction, SceneBatch
from scene4d.viewer import MOST_PER_TIMESTEP, write_viewer
from scene4d.visualization import write_video

Format = Literal["ply", "compressed_ply", "splat"]
WRITERS: dict[Format, tuple[str, Callable[[Path, Gaussians], None]]] = {
    "ply": (".ply", write_ply),
    "compressed_ply": (".compressed.ply", write_compressed_ply),
    "splat": (".splat", write_splat),
}

log = logging.getLogger(__name__)


class GaussianExport(L.Callback):
    """Writes every predicted reconstruction to `<output>/<key>/`.

    The folder of a scene holds one PLY file per timestep (`frames/frame_0001.ply` and so on), `cameras.json`,
    `orbit.mp4` (a new camera path that loops while time runs) and `viewer.html` (opens by double-click). A second
    scene with the same key gets `<output>/<key>_2/`, see `SceneFolders`. Videos are drawn on the device of the
    reconstruction, and the Gaussians leave it one timestep at a time.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; False is for runs that predict one scene.
        opacity_threshold: Gaussians whose opacity is lower are left out of every file, and so are those of opacity 0.
        orbit_rounds: How often time runs from start to end during one loop of the path.
        enlarge: How many times every pixel of the video is repeated; rendering keeps the input resolution.
        background: The colour behind the Gaussians, RGB in [0, 1]; None takes the colour of the reconstruction.
        formats: Files of the Gaussians of each timestep: `ply` (56 bytes each, every splat viewer), `compressed_ply`
            (16 bytes, SuperSplat), `splat` (32 bytes, antimatter15's viewer and its relatives).
        videos: Videos to draw, `NAME.mp4` each: `orbit`, `inputs` (from one input camera to the next and back),
            `freeze_time` (the orbit at the first timestep), `fixed_view` (the first input camera).
        capture: Whether pictures, cameras and points are written to `capture/` for COLMAP, 3DGS, gsplat's examples and
            nerfstudio, see `scene4d.captures`.
        viewer_gaussians: Largest number of Gaussians per timestep in the page, which samples more of them and says so.

    Raises:
        ValueError: An unknown format or video, or a number out of range; names it.
    """

    def __init__(
        self,
        output: str,
        subfolders: bool = True,
        opacity_threshold: float = 0.02,
        orbit_rounds: int = 3,
        enlarge: int = 4,
        background: tuple[float, float, float] | None = None,
        formats: list[Format] = ["ply"],  # noqa: B006 - shown by --help and never changed
        videos: list[CameraPath] = ["orbit"],  # noqa: B006
        capture: bool = False,
        viewer_gaussians: int = MOST_PER_TIMESTEP,
    ) -> None:
        for name, given, known in (("formats", formats, WRITERS), ("videos", videos, get_args(CameraPath))):
            if unknown := [x for x in given if x not in known]:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {unknown[0]!r}")
        counts = {"orbit_rounds": orbit_rounds, "enlarge": enlarge, "viewer_gaussians": viewer_gaussians}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if not 0 <= opacity_threshold <= 1:
            raise ValueError(f"opacity_threshold must lie in [0, 1], got {opacity_threshold}")
        if background is not None:
            check_colour("background", background)
        self.formats, self.videos, self.capture = formats, videos, capture
        self.viewer_gaussians = viewer_gaussians
        self.opacity_threshold, self.background = opacity_threshold, background
        self.orbit_rounds, self.enlarge = orbit_rounds, enlarge
        self.folders = SceneFolders(output, subfolders)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs.

        Raises:
            ValueError: There are no subfolders for more than one batch.
        """
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
            gaussians, cameras = outputs.gaussians[index], outputs.cameras[index]
            self.write(folder, gaussians, cameras, seconds, size, background, batch.images[index])

    @torch.no_grad()
    def write(
        self,
        folder: Path,
        gaussians: Gaussians,
        cameras: Cameras,
        frame_times: list[float],
        size: tuple[int, int],
        background: tuple[float, float, float] = WHITE,
        images: Float[Tensor, "v t 3 h w"] | None = None,
    ) -> None:
        """Writes one scene.

        Args:
            folder: The scene's folder.
            gaussians: One set per timestep, `t g`.
            cameras: Those of the input views, `v`.
            frame_times: Seconds; empty = unknown.
            size: (height, width) that the intrinsics refer to, pixels.
            background: RGB in [0, 1].
            images: The input pictures, for `capture`.

        Raises:
            ValueError: A camera or all Gaussians of a timestep are NaN, as after a training that diverged, or no
                Gaussian is as opaque as `opacity_threshold`; nothing is written then.
        """
        cameras = cameras.to(device=gaussians.means.device, dtype=torch.float32)
        if not all(bool(x.isfinite().all()) for x in (cameras.c2w, cameras.intrinsics)):
            raise ValueError(f"{folder}: a predicted camera holds NaN or infinite values, nothing is written")
        frames = self.opaque_frames(gaussians, str(folder))
        fps = frame_rate(frame_times)
        self._write_frames(folder / "frames", frames)
        write_cameras(folder / "cameras.json", cameras, size, fps, frame_times)
        for name in self.videos:
            video = path_video(name, frames, cameras, size, self.orbit_rounds, background)
            write_video(folder / f"{name}.mp4", video, fps, self.enlarge)
        if self.capture and images is not None:
            write_capture(folder / "capture", images, cameras, frames, frame_times)
        write_viewer(
            folder / "viewer.html",
            frames,
            cameras,
            size,
            fps,
            background=background,
            most=self.viewer_gaussians,
        )
        videos = ", ".join(f"{name}.mp4" for name in self.videos) or "no video"
        log.info("%d timesteps of Gaussians, %s and viewer.html -> %s", len(frames), videos, folder)

    def opaque_frames(self, gaussians: Gaussians, name: str) -> list[Gaussians]:
        """The Gaussians of each timestep that are drawn and written, where they are, in float32.

        Raises:
            ValueError: Those of `write`.
        """
        frames = [
            usable_gaussians(gaussians[t].to(dtype=torch.float32), f"{name}, timestep {t}")
            for t in range(len(gaussians.means))
        ]
        seen = [frame[frame.opacities > 0] for frame in frames]  # others fill smaller sets up
        kept = [prune_by_opacity(frame, self.opacity_threshold) for frame in seen]
        if frames and not any(len(frame.means) for frame in kept):
            highest = max((float(x.opacities.max()) for x in frames if len(x.means)), default=0.0)
            raise ValueError(
                f"{name}: no Gaussian is as opaque as opacity_threshold {self.opacity_threshold:g} "
                f"(the most opaque has {highest:.3g}), nothing is written"
            )
        return kept

    def _write_frames(self, folder: Path, frames: list[Gaussians]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, _ in WRITERS.values():  # of an earlier, longer run
            for old in folder.glob(f"frame_*{suffix}"):
                old.unlink()
        for number, frame in enumerate(frames, 1):
            here = frame.to(device="cpu")
            for suffix, write in (WRITERS[name] for name in self.formats):
                write(folder / f"frame_{number:04d}{suffix}", here)


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
