"""A view x time grid as one safetensors file: what the diffusion model hands to the reconstruction.

    images       uint8 `v t h w c`
    frame_times  float32 `t`, seconds
    reference    bool `v t`, True where a frame was given
    c2w, intrinsics   float32 `v 4 4`, `v 3 3`; only where cameras are known

The metadata holds the format version, the key and the source.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scene4d.atomic import replacing
from scene4d.types import Cameras, SceneBatch

FORMAT_VERSION = "1"


def write_grid(path: str | Path, batch: SceneBatch, index: int = 0) -> None:
    """Writes one scene of a batch, whole or not at all; images are rounded to 8 bits.

    Args:
        path: The safetensors file; its folder is made.
        batch: The grids.
        index: The place of the scene in the batch.
    """
    images = (batch.images[index].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    tensors = {
        "images": images.movedim(2, -1),
        "frame_times": batch.frame_times[index].float(),
        "reference": batch.reference[index],
    }
    cameras = batch.cameras
    if cameras is not None and bool(torch.isfinite(cameras.c2w[index]).all()):
        tensors |= {"c2w": cameras.c2w[index].float(), "intrinsics": cameras.intrinsics[index].float()}
    key = batch.keys[index] if batch.keys else str(index)
    header = {"version": FORMAT_VERSION, "key": key, "source": batch.source[index]}
    with replacing(path) as temporary:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=header)


def read_grid(path: str | Path) -> SceneBatch:
    """Reads a grid as a batch of one scene.

    Raises:
        ValueError: Missing, no safetensors file, or of another format; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"grid {str(path)!r} does not exist; predict with the diffusion model writes it")
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors raises its own Rust types
        raise ValueError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    missing = {"images", "frame_times", "reference"} - tensors.keys()
    if header.get("version") != FORMAT_VERSION or missing:
        raise ValueError(
            f"{str(path)!r} is no grid of format {FORMAT_VERSION}: version {header.get('version')}, "
            f"missing {sorted(missing)}"
        )
    cameras = None
    if "c2w" in tensors:
        cameras = Cameras(tensors["c2w"][None], tensors["intrinsics"][None])
    return SceneBatch(
        images=tensors["images"].movedim(-1, 2)[None].float() / 255,
        cameras=cameras,
        frame_times=tensors["frame_times"][None],
        reference=tensors["reference"][None],
        source=[header["source"]],
        keys=[header["key"]],
    )
