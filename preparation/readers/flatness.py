"""Whether depth is what a data set says, distance or planar: floors and walls are flat in one of them only.

In a picture of a pinhole camera, 1 / z of a plane is a linear function of the pixel's place. If z is taken for a
distance or the other way around, that function is bent by the length of the rays.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

WINDOWS = 6  # per side of the picture
FEWEST = 4  # flat windows that are evidence
FLAT = 2e-4  # relative deviation from a plane, root mean square
BENT = 5.0  # times as far from a plane in the one reading as in the other


def check_depth_kind(
    stored: Float[ndarray, "h w"], lengths: Float[ndarray, "h w"], kind: str, place: str
) -> None:
    """Refuses depth whose surfaces are flat only if it is read the other way.

    Args:
        stored: Depth as the file holds it, 0 where unknown.
        lengths: Length of every pixel's ray up to z = 1.
        kind: `distance` or `planar`: how it is to be read.
        place: File that the error names.

    Raises:
        ValueError: At least four windows of the picture are flat in the other reading and bent in this one, and
            more than the other way around.
    """
    as_distance, as_planar = np.array([_deviations(stored, lengths, scale) for scale in (lengths, 1.0)])
    this, other = (as_distance, as_planar) if kind == "distance" else (as_planar, as_distance)
    against, in_favour = _evidence(other, this), _evidence(this, other)
    if against >= FEWEST and against > 3 * in_favour:
        right = "planar" if kind == "distance" else "distance"
        raise ValueError(
            f"{place}: surfaces are flat if the depth is {right}, not if it is {kind} ({against} of {len(this)} "
            f"windows of the picture); expected the option --depth {right}"
        )


def _evidence(flat: Float[ndarray, " n"], bent: Float[ndarray, " n"]) -> int:
    """Counts the windows that are flat in the one reading and clearly less so in the other."""
    return int(((flat < FLAT) & (bent > BENT * flat) & (bent > FLAT / 2)).sum())


def _deviations(
    stored: Float[ndarray, "h w"], lengths: Float[ndarray, "h w"], scale: Float[ndarray, "h w"] | float
) -> list[float]:
    """Returns how far every window of known depth is from a plane, relative to its depth.

    Background that has one value, the largest, says nothing and is left out, unless there is nothing else.
    """
    known = stored > 0
    if (stored[known] < stored.max()).any():
        known &= stored < stored.max()
    depth = np.where(known, stored, 1) / scale
    rows, columns = (np.array_split(np.arange(side), WINDOWS) for side in stored.shape)
    windows = [np.ix_(high, wide) for high in rows for wide in columns]
    return [_off_plane(1 / depth[window]) if known[window].all() else np.inf for window in windows]


def _off_plane(inverse: Float[ndarray, "h w"]) -> float:
    y, x = np.mgrid[-1 : 1 : inverse.shape[0] * 1j, -1 : 1 : inverse.shape[1] * 1j]
    design = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    values = inverse.ravel() / inverse.mean()
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.sqrt(np.mean((design @ solution - values) ** 2)))
