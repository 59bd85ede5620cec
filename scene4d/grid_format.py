"""A view x time grid as one safetensors file: what the diffusion model hands to the reconstruction.

    images       uint8 `v t h w 3`; float in [0, 1] is read, too
    frame_times  float32 `t`, seconds, finite
    reference    bool `v t`, True where a frame was given
    c2w, intrinsics   float32 `v 4 4`, `v 3 3`; only where cameras are known

The metadata holds the format version, the key and the source. Files that others made are read strictly: what is wrong
is named with the file in one line.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scene4d.atomic import replacing
from scene4d.types import Cameras, SceneBatch

FORMAT_VERSION = "1"
REQUIRED = ("images", "frame_times", "reference")


def write_grid(path: str | Path, batch: SceneBatch, index: int = 0) -> None:
    """Writes one scene of a batch, whole or not at all; images are rounded to 8 bits.

    Args:
        path: The safetensors file; its folder is made.
        batch: The grids.
        index: The place of the scene in the batch.

    Raises:
        ValueError: The camera of a view is not finite, although others are; a scene without known cameras has none.
    """
    images = (batch.images[index].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    tensors = {
        "images": images.movedim(2, -1),
        "frame_times": batch.frame_times[index].float(),
        "reference": batch.reference[index],
    }
    key = batch.keys[index] if batch.keys else str(index)
    if batch.cameras is not None:
        tensors |= _known(batch.cameras.c2w[index].float(), batch.cameras.intrinsics[index].float(), key)
    header = {"version": FORMAT_VERSION, "key": key, "source": batch.source[index]}
    with replacing(path) as temporary:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=header)


def _known(c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 3 3"], key: str) -> dict[str, Tensor]:
    """Cameras as they are written: none where nothing is known of any (in a batch these are NaN)."""
    finite = torch.isfinite(torch.cat([c2w.flatten(1), intrinsics.flatten(1)], 1)).all(1)
    if not finite.any():
        return {}
    if not finite.all():
        raise ValueError(f"the camera of view {int(finite.int().argmin())} of scene {key!r} is not finite")
    return {"c2w": c2w, "intrinsics": intrinsics}


def read_grid(path: str | Path) -> SceneBatch:
    """Reads a grid as a batch of one scene.

    Raises:
        ValueError: Missing, no safetensors file, of another format, or with values that cannot be: NaN, other shapes,
            pictures outside [0, 1]; names the file and the part.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        return _batch(header, tensors)
    except ValueError as error:
        raise ValueError(f"grid {str(path)!r}: {error}") from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a grid file of this version."""
    if not path.is_file():
        raise ValueError(f"grid {str(path)!r} does not exist; predict with the diffusion model writes it")
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors raises its own Rust types
        raise ValueError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    missing = set(REQUIRED) - tensors.keys() | {"key", "source"} - header.keys()
    if header.get("version") != FORMAT_VERSION or missing:
        raise ValueError(
            f"{str(path)!r} is no grid of format {FORMAT_VERSION}: version {header.get('version')}, "
            f"missing {sorted(missing)}"
        )
    return header, tensors


def _batch(header: dict[str, str], tensors: dict[str, Tensor]) -> SceneBatch:
    """The batch of one scene; raises ValueError that names the part that cannot be."""
    images = _images(tensors["images"])
    v, t = images.shape[:2]
    times, reference = _checked(tensors, "frame_times", (t,)), tensors["reference"]
    if reference.dtype != torch.bool or reference.shape != (v, t):
        raise ValueError(f"reference must be bool {(v, t)}, is {reference.dtype} {tuple(reference.shape)}")
    cameras = None
    if "c2w" in tensors or "intrinsics" in tensors:
        shapes = {"c2w": (v, 4, 4), "intrinsics": (v, 3, 3)}
        cameras = Cameras(*(_checked(tensors, name, shape)[None] for name, shape in shapes.items()))
    return SceneBatch(
        images=images[None],
        cameras=cameras,
        frame_times=times[None],
        reference=reference[None],
        source=[header["source"]],
        keys=[header["key"]],
    )


def _images(stored: Tensor) -> Float[Tensor, "v t 3 h w"]:
    """Pictures in [0, 1]."""
    if stored.ndim != 5 or stored.shape[-1] != 3 or not stored.numel():
        raise ValueError(f"images must be `v t h w 3`, are {tuple(stored.shape)}")
    if stored.dtype != torch.uint8 and not stored.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [0, 1], are {stored.dtype}")
    images = stored.movedim(-1, 2).float()
    if stored.dtype == torch.uint8:
        return images / 255
    if not bool(((images >= 0) & (images <= 1)).all()):  # also where NaN
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"float images must lie in [0, 1], lie in [{low:g}, {high:g}]")
    return images


def _checked(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of real numbers as float32, with its shape and without NaN."""
    if name not in tensors:
        raise ValueError(f"{name} is missing, although the other half of the cameras is there")
    found = tensors[name]
    if tuple(found.shape) != shape or not found.is_floating_point():
        raise ValueError(f"{name} must be float {shape}, is {found.dtype} {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name} holds NaN or infinite values")
    return found.float()
