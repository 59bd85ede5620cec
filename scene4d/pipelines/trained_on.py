"""What a preset's weights were trained on, so that inputs of another kind do not go unsaid."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.references import WAYS, References, way_of
from scene4d.types import SceneBatch

GIVEN: dict[References, str] = {
    "both": "both reference videos",
    "fixed_view": "a fixed-view video alone",
    "freeze_time": "a freeze-time video alone",
    "none": "no reference video",
}
PLAIN = 0.9  # share of the outermost pixels that have one colour; of 188 committed scenes, those on white have 1.0
SAME_COLOUR = 0.06  # a codec changes a colour by less
SAME_RATE = 0.2  # relative

log = logging.getLogger(__name__)


@dataclass
class TrainedOn:
    """The training data of a model's weights. Other inputs are taken, and one line says what is off.

    Args:
        size: Height and width of the images in pixels, one number for squares or `[height, width]`.
        views: Numbers of views.
        frames: Numbers of frames; empty if any number will do.
        fps: Frames per second; None if any rate will do.
        background: The only plain colour that was seen behind scenes, in [0, 1]; None if any will do.
        references: Which reference videos were given: both, fixed_view, freeze_time, none; empty if any will do.

    Raises:
        ValueError: `references` holds another word; names it.
    """

    size: int | tuple[int, int]
    views: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    fps: float | None = None
    background: tuple[float, float, float] | None = None
    references: list[References] = field(default_factory=list)

    def __post_init__(self) -> None:
        if unknown := [way for way in self.references if way not in WAYS]:
            raise ValueError(
                f"trained_on.references holds {unknown[0]!r}, expected some of {', '.join(WAYS)}"
            )
        self._said: set[str] = set()

    def warn(self, batch: SceneBatch) -> None:
        """Says in one line how a batch differs from the training data, for which the result may be worse.

        Each kind of difference is said once, with the values of the first batch that has it.
        """
        found = self.differences(batch)
        if new := [phrase for kind, phrase in found.items() if kind not in self._said]:
            self._said |= found.keys()
            log.warning("the weights were trained on other inputs, expect a worse result: %s", "; ".join(new))

    def differences(self, batch: SceneBatch) -> dict[str, str]:
        """How a batch differs from the training data, one phrase per kind of difference; empty if it does not."""
        _, views, frames, _, height, width = batch.images.shape
        found = {}
        h, w = (self.size, self.size) if isinstance(self.size, int) else self.size
        if (height, width) != (h, w):
            found["size"] = f"images of {height} x {width} pixels, trained on {h} x {w}"
        for what, count, known in (("views", views, self.views), ("frames", frames, self.frames)):
            if known and count not in known:
                found[what] = f"{count} {what}, trained on {' or '.join(map(str, known))}"
        if unseen := self._unseen(batch):
            found["references"] = (
                f"{GIVEN[unseen]}, trained with {' or '.join(GIVEN[x] for x in self.references)}"
            )
        rate = frame_rate(batch)
        if self.fps is not None and rate is not None and abs(rate / self.fps - 1) > SAME_RATE:
            found["rate"] = f"{rate:.3g} frames a second, trained on {self.fps:g}"
        colour = plain_background(batch)
        if self.background is not None and colour is not None:
            if (colour - colour.new_tensor(self.background)).abs().max() > SAME_COLOUR:
                here, there = (_levels(x) for x in (colour, torch.tensor(self.background)))
                found["background"] = f"a plain background of colour {here}, trained on {there} only"
        if empty := empty_views(batch):
            found["empty"] = empty
        return found

    def _unseen(self, batch: SceneBatch) -> References | None:
        """The first way in which reference videos are given that the weights have not seen."""
        ways = [way_of(mask) for mask in batch.reference] if self.references else []
        return next((way for way in ways if way not in self.references), None)


def frame_rate(batch: SceneBatch) -> float | None:
    """Mean frames per second of the first scene; None for a single frame."""
    times = batch.frame_times[0]
    seconds = (times[-1] - times[0]).item()
    return (len(times) - 1) / seconds if seconds > 0 else None


def plain_background(batch: SceneBatch) -> Float[Tensor, "3"] | None:
    """The colour of nearly all outermost pixels of a batch's given frames; None where they have several colours."""
    given = batch.images[batch.reference]  # n c h w
    border = torch.cat([given[..., 0, :], given[..., -1, :], given[..., 0], given[..., -1]], -1)
    pixels = border.movedim(1, -1).flatten(0, 1)
    if len(pixels) == 0:
        return None
    colour = pixels.median(0).values
    same = ((pixels - colour).abs().amax(-1) < SAME_COLOUR).float().mean()
    return colour if same >= PLAIN else None


def empty_views(batch: SceneBatch) -> str:
    """The first view that shows one colour alone, or the same as the view before it; an empty text if there is none."""
    for images, reference, key in zip(batch.images, batch.reference, batch.keys or [""] * len(batch.images)):
        scene = f" of {key!r}" if key else ""
        for number, (view, given) in enumerate(zip(images, reference)):
            shown = view[given]  # n c h w
            if len(shown) and (shown.amax((0, 2, 3)) - shown.amin((0, 2, 3))).max() < SAME_COLOUR:
                return f"view {number}{scene} shows nothing but the colour {_levels(shown[0, :, 0, 0])}"
            if number and reference[number - 1 : number + 1].all() and torch.equal(view, images[number - 1]):
                return f"view {number}{scene} shows the same as view {number - 1}"
    return ""


def _levels(colour: Float[Tensor, "3"]) -> tuple[int, ...]:
    return tuple((colour * 255).round().int().tolist())
