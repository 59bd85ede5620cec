"""Decides which views and frames of a stored scene a sample takes, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from random import Random

import numpy as np
from jaxtyping import Bool

from scene4d.latent_grid import latent_frames


@dataclass(frozen=True)
class Extent:
    """The extent of a stored scene: `views` x `frames`, with depth at `depth_frames`."""

    key: str
    views: int
    frames: int
    depth_frames: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True)
class Selected:
    """Indices into the stored views and frames, in the order of the grid.

    Attributes:
        views: v view indices.
        frames: t frame indices; a still scene repeats 0.
        frame_stride: Stored frames from one selected frame to the next, for the frame times.
        reference: True where a frame is given; None leaves it to the source's `ReferencePolicy`.
    """

    views: list[int]
    frames: list[int]
    frame_stride: int
    reference: Bool[np.ndarray, "v t"] | None = None


class GridSelection:
    """Takes a regular view x time grid for video diffusion: evenly spaced views and evenly spaced frames.

    Args:
        views: Number of views of the grid.
        view_strides: Steps between views, of which one is drawn; those that do not fit a scene are left out.
        frames: Number of frames of the grid, 4k + 1 as video autoencoders need it.
        frame_strides: Steps between frames, of which one is drawn.
        reverse_views: Probability of taking the views backwards (paper, App. B).
        reverse_time: Probability of playing the scene backwards.
        random: Whether to choose at random. False is for evaluation: it takes the first stride that fits, starts at
            view 0 and frame 0, and reverses nothing.
        first_frame: Whether to start at frame 0 always, as stored latents need.

    Raises:
        ValueError: `frames` is not 4k + 1.
    """

    def __init__(
        self,
        views: int = 4,
        view_strides: Sequence[int] = (1, 2),
        frames: int = 17,
        frame_strides: Sequence[int] = (1,),
        reverse_views: float = 0.5,
        reverse_time: float = 0.0,
        random: bool = True,
        first_frame: bool = False,
    ) -> None:
        latent_frames(frames)
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}")
        self.views, self.view_strides = views, _checked_strides("view_strides", view_strides)
        self.frames, self.frame_strides = frames, _checked_strides("frame_strides", frame_strides)
        self.reverse_views, self.reverse_time, self.random = reverse_views, reverse_time, random
        self.first_frame = first_frame

    @property
    def shape(self) -> tuple[int, int]:
        """Views and frames of every grid."""
        return self.views, self.frames

    def resized(self, views: int | None, frames: int | None) -> GridSelection:
        """The same selection with other numbers of views and frames; None keeps a number.

        Raises:
            ValueError: `frames` is not 4k + 1.
        """
        other = copy(self)
        other.views, other.frames = views or self.views, frames or self.frames
        latent_frames(other.frames)
        return other

    def select(self, extent: Extent, rng: Random) -> Selected:
        """Draws one grid.

        Raises:
            ValueError: The scene has too few views or frames; names its key.
        """
        views, _ = self._spaced(
            "views", extent, extent.views, self.views, self.view_strides, rng, not self.random
        )
        if extent.frames == 1:
            frames, stride = [0] * self.frames, self.frame_strides[0]
        else:
            at_0 = self.first_frame or not self.random
            frames, stride = self._spaced(
                "frames", extent, extent.frames, self.frames, self.frame_strides, rng, at_0
            )
        if self.random and rng.random() < self.reverse_views:
            views.reverse()
        if self.random and rng.random() < self.reverse_time:
            frames.reverse()
        return Selected(views, frames, stride)

    def _spaced(
        self,
        what: str,
        extent: Extent,
        stored: int,
        count: int,
        strides: Sequence[int],
        rng: Random,
        at_0: bool,
    ) -> tuple[list[int], int]:
        fitting = [stride for stride in strides if (count - 1) * stride < stored]
        if not fitting:
            raise ValueError(
                f"sample {extent.key!r} has {stored} {what}, GridSelection asks for {count} with stride "
                f"{min(strides)} ({(count - 1) * min(strides) + 1} {what})"
            )
        stride = rng.choice(fitting) if self.random else fitting[0]
        start = 0 if at_0 else rng.randrange(stored - (count - 1) * stride)
        return [start + k * stride for k in range(count)], stride


class ContextSelection:
    """Takes input and target views for reconstruction; in the grid, the inputs come first and then the targets.

    In training, a random subset of the views is taken and the targets are drawn from its interior, so
    that they lie inside the span of the inputs. The reference mask is True at the inputs.

    Args:
        inputs: Number of input views.
        targets: Number of target views, which are rendered and supervised.
        frames: Number of timesteps.
        frame_strides: Steps between timesteps, of which one is drawn.
        input_views: Fixed input views for evaluation; needs `target_views` too.
        target_views: Fixed target views for evaluation.
        shuffle_inputs: Probability that the inputs come in random order instead of stored order. The first
            input's camera is the network's world frame.
        depth_frames_only: Whether to take only frames that have depth, in scenes that have depth at all.
        random: Whether to choose at random. False is for evaluation: it takes evenly spread views, and frames from the
            first one on.

    Raises:
        ValueError: Only one of `input_views`, `target_views` is given, or they overlap.
    """

    def __init__(
        self,
        inputs: int = 4,
        targets: int = 2,
        frames: int = 1,
        frame_strides: Sequence[int] = (4,),
        input_views: Sequence[int] | None = None,
        target_views: Sequence[int] | None = None,
        shuffle_inputs: float = 0.5,
        depth_frames_only: bool = True,
        random: bool = True,
    ) -> None:
        if (input_views is None) != (target_views is None):
            raise ValueError(
                f"give both or neither of input_views={input_views} and target_views={target_views}"
            )
        if input_views and set(input_views) & set(target_views or ()):
            raise ValueError(
                f"views {sorted(set(input_views) & set(target_views or ()))} are input and target"
            )
        if inputs < 1 or targets < 0 or frames < 1:
            raise ValueError(f"inputs={inputs}, targets={targets}, frames={frames}: need >= 1, >= 0, >= 1")
        self.inputs, self.targets = inputs, targets
        self.frames, self.frame_strides = frames, _checked_strides("frame_strides", frame_strides)
        self.input_views, self.target_views = input_views, target_views
        self.shuffle_inputs, self.depth_frames_only, self.random = shuffle_inputs, depth_frames_only, random

    @property
    def shape(self) -> tuple[int, int]:
        """Views, inputs and targets together, and frames of every grid."""
        if self.input_views is not None and self.target_views is not None:
            return len(self.input_views) + len(self.target_views), self.frames
        return self.inputs + self.targets, self.frames

    def select(self, extent: Extent, rng: Random) -> Selected:
        """Draws inputs, targets and timesteps.

        Raises:
            ValueError: The scene has too few views or frames; names its key.
        """
        inputs, targets = self._views(extent, rng)
        frames, stride = self._frames(extent, rng)
        reference = np.zeros((len(inputs) + len(targets), self.frames), bool)
        reference[: len(inputs)] = True
        return Selected(inputs + targets, frames, stride, reference)

    def _views(self, extent: Extent, rng: Random) -> tuple[list[int], list[int]]:
        if self.input_views is not None and self.target_views is not None:
            inputs, targets = list(self.input_views), list(self.target_views)
            if max(inputs + targets) >= extent.views:
                raise ValueError(
                    f"sample {extent.key!r} has {extent.views} views, "
                    f"ContextSelection asks for {inputs + targets}"
                )
            return inputs, targets
        wanted = self.inputs + self.targets
        if wanted > extent.views:
            raise ValueError(
                f"sample {extent.key!r} has {extent.views} views, ContextSelection asks for {wanted} "
                f"({self.inputs} inputs, {self.targets} targets)"
            )
        return self._random_views(extent, rng) if self.random else self._even_views(extent)

    def _random_views(self, extent: Extent, rng: Random) -> tuple[list[int], list[int]]:
        chosen = sorted(rng.sample(range(extent.views), self.inputs + self.targets))
        interior = chosen[1:-1] if self.inputs >= 2 else chosen
        targets = sorted(rng.sample(interior, self.targets))
        inputs = [view for view in chosen if view not in targets]
        if rng.random() < self.shuffle_inputs:
            rng.shuffle(inputs)
        return inputs, targets

    def _even_views(self, extent: Extent) -> tuple[list[int], list[int]]:
        inputs = _evenly(list(range(extent.views)), self.inputs)
        rest = [view for view in range(extent.views) if view not in inputs]
        return inputs, _evenly(rest, self.targets)

    def _frames(self, extent: Extent, rng: Random) -> tuple[list[int], int]:
        if extent.frames == 1:
            return [0] * self.frames, self.frame_strides[0]
        with_depth = self.depth_frames_only and len(extent.depth_frames) > 0
        usable = set(extent.depth_frames) if with_depth else set(range(extent.frames))
        runs = [
            ([start + k * stride for k in range(self.frames)], stride)
            for stride in self.frame_strides
            for start in sorted(usable)
            if all(start + k * stride in usable for k in range(self.frames))
        ]
        if not runs:
            raise ValueError(
                f"sample {extent.key!r} has {len(usable)} usable frames of {extent.frames}, ContextSelection "
                f"asks for {self.frames} with strides {list(self.frame_strides)}"
            )
        return rng.choice(runs) if self.random else runs[0]


def _evenly(items: list[int], count: int) -> list[int]:
    if count == 0:
        return []
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, count)]


def _checked_strides(name: str, strides: Sequence[int]) -> tuple[int, ...]:
    if not strides or min(strides) < 1:
        raise ValueError(f"{name} must be positive integers, got {list(strides)}")
    return tuple(strides)
