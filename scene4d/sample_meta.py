"""What `meta.json` of a sample may hold: everything else is damage, named in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
from jaxtyping import Float

ORTHONORMAL = 1e-3  # largest entry of R^T R - I
TEXTS = ("source", "caption", "group", "license")
SIZES = ("views", "frames", "height", "width")
ENTRIES = (*TEXTS, *SIZES, "fps", "c2w", "intrinsics", "depth_scale", "depth_frames")
LARGEST = float(np.finfo(np.float32).max)


def check_meta(meta: Mapping[str, object]) -> None:
    """Checks every entry that decoding and the losses rely on.

    Raises:
        ValueError: An entry is missing, of another type, or impossible; names it and its value.
    """
    missing = [name for name in ENTRIES if name not in meta]
    if missing:
        raise ValueError(f"meta.json has no {', '.join(missing)}")
    for name in TEXTS:
        if not isinstance(meta[name], str):
            raise ValueError(f"meta.json: {name} must be text, is {_short(meta[name])}")
    for name in SIZES:
        if not _whole(meta[name], 1):
            raise ValueError(f"meta.json: {name} must be a positive integer, is {_short(meta[name])}")
    check_fps(meta["fps"])
    _check_depth(meta)
    c2w, intrinsics = (_matrices(meta, name, side) for name, side in (("c2w", 4), ("intrinsics", 3)))
    problems = camera_problems(c2w, intrinsics)
    if problems:
        raise ValueError("; ".join(problems))
    _check_arrays(meta)


def check_fps(fps: object) -> None:
    """Checks a frame rate.

    Raises:
        ValueError: It is no positive number; gives it.
    """
    if not _number(fps) or not fps > 0:  # type: ignore[operator]  # a number by now
        raise ValueError(f"fps must be a positive number, is {_short(fps)}")


def camera_problems(
    c2w: Float[np.ndarray, "v 4 4"] | None, intrinsics: Float[np.ndarray, "v 3 3"] | None
) -> list[str]:
    """Why matrices are no pinhole cameras in pixels: rotations, last rows, focal lengths; empty if they are."""
    given = [matrices for matrices in (c2w, intrinsics) if matrices is not None]
    if not all(np.isfinite(matrices).all() for matrices in given):
        return ["a camera is not finite"]
    problems = []
    if c2w is not None:
        rotation = c2w[:, :3, :3].astype(np.float64)
        error = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max()
        if error > ORTHONORMAL:
            problems.append(f"camera rotations are not orthonormal, off by {error:.2g}")
        elif (np.linalg.det(rotation) < 0).any():
            problems.append("a camera rotation is a reflection")
        if not np.allclose(c2w[:, 3], [0, 0, 0, 1]):
            problems.append("the last row of a camera is not 0 0 0 1")
    if intrinsics is not None:
        focal = intrinsics[:, [0, 1], [0, 1]]
        if (focal <= 0).any() or not np.allclose(intrinsics[:, 2], [0, 0, 1]):
            problems.append(
                f"intrinsics are no pinhole camera in pixels, focal lengths {focal.round(3).tolist()}"
            )
    return problems


def _check_depth(meta: Mapping[str, object]) -> None:
    frames, scale, count = meta["depth_frames"], meta["depth_scale"], meta["frames"]
    assert isinstance(count, int)  # checked before
    whole = isinstance(frames, list) and all(_whole(frame, 0) and frame < count for frame in frames)
    if not isinstance(frames, list) or not whole or len(set(frames)) < len(frames):
        raise ValueError(
            f"meta.json: depth_frames must be different integers below {count}, is {_short(frames)}"
        )
    most = LARGEST / 65535  # the largest level must fit into float32
    if frames and not (_number(scale) and 0 < scale <= most):  # type: ignore[operator]
        raise ValueError(f"meta.json: depth_scale must be a positive number, is {_short(scale)}")


def _check_arrays(meta: Mapping[str, object]) -> None:
    """Checks the entries `text` and `latents`, which may be absent."""
    text, latents = meta.get("text", {"encoder": ""}), meta.get("latents")
    if not isinstance(text, dict) or not isinstance(text.get("encoder"), str):
        raise ValueError(f"meta.json: text must hold the fingerprint of its encoder, is {_short(text)}")
    if latents is None and "latents" not in meta:
        return
    if not isinstance(latents, dict) or not isinstance(latents.get("autoencoder"), str):
        raise ValueError(
            f"meta.json: latents must hold the fingerprint of their autoencoder, is {_short(latents)}"
        )
    shape, size = latents.get("shape"), latents.get("size", [1, 1])
    geometry, views = latents.get("geometry", [True]), latents.get("views", meta["views"])
    fine = {
        "shape": isinstance(shape, list) and len(shape) == 4 and all(_whole(side, 1) for side in shape),
        "size": isinstance(size, list) and len(size) == 2 and all(_whole(side, 1) for side in size),
        "geometry": isinstance(geometry, list)
        and len(geometry) > 0
        and all(isinstance(x, bool) for x in geometry),
    }
    fine["views"] = _whole(views, 1) and (
        views == meta["views"] or not (isinstance(geometry, list) and any(geometry))
    )
    for name in fine:
        if not fine[name]:
            raise ValueError(f"meta.json: latents.{name} is impossible, is {_short(latents.get(name))}")


def _matrices(meta: Mapping[str, object], name: str, side: int) -> Float[np.ndarray, "v n n"] | None:
    """Cameras of all views.

    Raises:
        ValueError: They are no matrices of numbers, or more or fewer than the views.
    """
    if meta[name] is None:
        return None
    expected = (meta["views"], side, side)
    try:
        matrices = np.asarray(meta[name], np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"meta.json: {name} must be numbers {expected}: {error}") from error
    if matrices.shape != expected:
        raise ValueError(f"meta.json: {name} must be {expected}, is {matrices.shape}")
    return matrices


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
