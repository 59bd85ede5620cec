"""Whether the cameras of a rig run at the same time: what moves, moves in all views at once.

The motion energy of a view is how much its picture changes from frame to frame. Its bursts come at the same instants
in all views, even from opposite sides, so a camera that is late shows as a shift that makes them agree. Among many
shifts of a few dozen frames, unrelated motion agrees under one by chance; how often, motion of the same spectrum with
random phases tells (J. Theiler et al., Testing for nonlinearity in time series: the method of surrogate data, 1992).
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
SURROGATES = 1000  # random motions that a view which seems late is compared with
CHANCE = 0.01  # share of them that may agree with the other views as well as it does


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
    most = images.shape[1] // 4
    late = []
    for view, own in enumerate(bursts):
        curve = _agreement(own[None], np.delete(bursts, view, axis=0), most)[0]
        best = int(np.argmax(curve))
        late.append(LateView(view, best - most, float(curve[best]), float(curve[most])))
    clear = [x for x in late if x.frames and x.shifted >= AGREEMENT and x.shifted - x.unshifted >= GAIN]
    clear = [x for x in clear if not _is_chance(x, bursts, most)]
    return max(clear, key=lambda x: x.shifted - x.unshifted, default=None)


def _bursts(view: UInt8[ndarray, "t h w 3"]) -> Float[ndarray, " n"]:
    """Returns the motion energy between successive frames, without its slow trend."""
    grey = view.mean(-1, dtype=np.float32)
    change = np.abs(np.diff(grey, axis=0))
    energy = np.where(change > NOISE, change, 0).mean((1, 2))
    padded = np.pad(energy, TREND // 2, mode="edge")
    return energy - np.convolve(padded, np.full(TREND, 1 / TREND), "valid")


def _is_chance(late: LateView, bursts: Float[ndarray, "v n"], most: int) -> bool:
    """Tells whether random motion with the spectrum of a view often agrees as well under its own best shift."""
    spectrum = np.abs(np.fft.rfft(bursts[late.view]))
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (SURROGATES, len(spectrum)))
    surrogates = np.fft.irfft(spectrum * np.exp(1j * phases), bursts.shape[1])
    best = _agreement(surrogates, np.delete(bursts, late.view, axis=0), most).max(1)
    return float((best >= late.shifted).mean()) > CHANCE


def _agreement(
    late: Float[ndarray, "s n"], others: Float[ndarray, "v n"], most: int
) -> Float[ndarray, "s lags"]:
    """Mean correlation of every `late` at t + lag with the others at t, for lags from -`most` to `most`."""
    count, means = late.shape[1], []
    for lag in range(-most, most + 1):
        one, two = late[:, max(lag, 0) : count + min(lag, 0)], others[:, max(-lag, 0) : count - max(lag, 0)]
        one, two = one - one.mean(1, keepdims=True), two - two.mean(1, keepdims=True)
        norms = np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1))
        means.append(np.divide(one @ two.T, norms, out=np.zeros_like(norms), where=norms > 1e-9).mean(1))
    return np.stack(means, axis=1)
