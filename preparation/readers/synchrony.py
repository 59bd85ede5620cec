"""Whether the cameras of a rig run at the same time: what moves, moves in all views at once.

The motion energy of a view is how much its picture changes from frame to frame. Its bursts come at the same instants
in all views, even from opposite sides, so a camera that is late shows as a shift that makes them agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

NOISE = 8  # grey levels; smaller changes are noise of the camera and of the codec
TREND = 15  # frames over which the mean is subtracted, so that bursts count and not how much moves in all
FEWEST = 17  # frames that can be judged
AGREEMENT = 0.5  # least correlation of a view that was shifted with the others
GAIN = 0.15  # of the correlation, by the shift


@dataclass(frozen=True)
class LateView:
    """A view that agrees with the others only when it is shifted.

    Attributes:
        view: Index of the view.
        frames: Frames by which it is late; negative if it is early.
        shifted: Mean correlation of its motion with that of the other views after the shift.
        unshifted: The same as the views are.
    """

    view: int
    frames: int
    shifted: float
    unshifted: float


def late_view(images: UInt8[ndarray, "v t h w 3"]) -> LateView | None:
    """Finds the view that is most clearly late, or early, by up to a quarter of the frames.

    Returns None where the motion of the views does not agree under any shift, so that nothing can be said: too
    little moves, every view sees something else, or there are fewer than 17 frames.
    """
    if len(images) < 2 or images.shape[1] < FEWEST:
        return None
    bursts = np.stack([_bursts(view) for view in images])
    lags = np.arange(-(images.shape[1] // 4), images.shape[1] // 4 + 1)
    late = []
    for view, own in enumerate(bursts):
        others = np.delete(bursts, view, axis=0)
        curve = [np.mean([_correlation(own, other, lag) for other in others]) for lag in lags]
        best = int(np.argmax(curve))
        late.append(LateView(view, int(lags[best]), float(curve[best]), float(curve[len(lags) // 2])))
    clear = [x for x in late if x.frames and x.shifted >= AGREEMENT and x.shifted - x.unshifted >= GAIN]
    return max(clear, key=lambda x: x.shifted - x.unshifted, default=None)


def _bursts(view: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, " n"]:
    """Returns the motion energy between successive frames, without its slow trend."""
    grey = view.mean(-1, dtype=np.float32)
    change = np.abs(np.diff(grey, axis=0))
    energy = np.where(change > NOISE, change, 0).mean((1, 2))
    padded = np.pad(energy, TREND // 2, mode="edge")
    return energy - np.convolve(padded, np.full(TREND, 1 / TREND), "valid")


def _correlation(late: Float[ndarray, " n"], other: Float[ndarray, " n"], lag: int) -> float:
    """Correlates `late` at t + lag with `other` at t."""
    count = len(late)
    pair = np.stack([late[max(lag, 0) : count + min(lag, 0)], other[max(-lag, 0) : count - max(lag, 0)]])
    pair = pair - pair.mean(1, keepdims=True)
    norm = np.sqrt((pair**2).sum(1).prod())
    return float(pair.prod(0).sum() / norm) if norm > 1e-9 else 0.0
