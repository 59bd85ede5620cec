"""The things that travel between the parts: cameras, a view x time grid of images, Gaussians, reconstructions.

Axes are always named in this order: b batch, v view, t time, c channel, h height, w width, g Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from types import EllipsisType
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_Item = int | slice | list[int] | EllipsisType | Tensor | None
Index = _Item | tuple[_Item, ...]
Movable = TypeVar("Movable", bound="_Movable")


class _Movable:
    """Lets Lightning (and users) move a dataclass of tensors between devices."""

    def to(
        self: Movable,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Movable:
        """Returns a copy on another device or with another type of real numbers; expanded tensors stay so."""
        return self.apply(lambda x: _moved(x, device, dtype, non_blocking))

    def __repr__(self) -> str:
        """The fields, with shapes in the place of tensors."""
        shown = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        texts = {
            k: " ".join(map(str, v.shape)) if isinstance(v, Tensor) else repr(v) for k, v in shown.items()
        }
        return f"{type(self).__name__}({', '.join(f'{k}: {text}' for k, text in texts.items())})"

    def apply(self: Movable, function: Callable[[Tensor], Tensor]) -> Movable:
        """Returns a copy whose tensors (nested ones too) went through `function`."""
        changed: dict[str, object] = {}
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = function(value)
            elif isinstance(value, _Movable):
                changed[entry.name] = value.apply(function)
        return replace(self, **changed)  # type: ignore[type-var]


def _moved(
    x: Tensor, device: torch.device | str | None, dtype: torch.dtype | None, non_blocking: bool
) -> Tensor:
    """`x.to(...)`, masks keep their type; of an expanded tensor only what it has in memory."""
    dtype = dtype if x.is_floating_point() else None
    if 0 not in x.stride():
        return x.to(device, dtype, non_blocking)
    stored = x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())]
    return stored.to(device, dtype, non_blocking).expand(x.shape)


def _rows(x: Tensor, indices: list[int]) -> Tensor:
    """Some rows; a single one shares memory with `x`, which may be expanded."""
    return x[indices[0] : indices[0] + 1] if len(indices) == 1 else x[indices]


@dataclass(repr=False)
class Cameras(_Movable):
    """Pinhole cameras, any leading shape (usually `b v`).

    Attributes:
        c2w: Camera-to-world matrices, OpenCV axes (x right, y down, z forward), scene units.
        intrinsics: In pixels; pixel centres lie at +0.5, so the principal point of a centred
            camera is (w / 2, h / 2).
    """

    c2w: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 3 3"]

    @property
    def viewmats(self) -> Float[Tensor, "*batch 4 4"]:
        """World-to-camera matrices, for the rasterizer only."""
        return torch.linalg.inv(self.c2w)

    def __getitem__(self, index: Index) -> Cameras:
        """Indexes the leading axes, of both tensors alike."""
        return Cameras(self.c2w[index], self.intrinsics[index])


@dataclass(repr=False)
class SceneBatch(_Movable):
    """A batch of view x time grids; row v is a fixed-view video, column t a freeze-time video.

    Attributes:
        images: In [0, 1]. NaN, expanded from one number, where the batch holds `latents` instead: shape, device
            and axes are right, and a use of the values shows.
        cameras: One camera per view, shape `b v`; None where unknown (2D videos, generated grids).
        frame_times: Scene time of every frame, seconds, from 0.
        reference: True where a frame is given, False where it is to be generated or supervised.
        source: Name of the data source of every sample: objects, physics, homography, static, capture.
        keys: Name of every sample, unique within its source.
        depths: Planar z in scene units, 0 where unknown (background, frames stored without depth).
        text: Caption embedding, zeros where a caption is shorter or absent; None when no source has captions.
        text_encoder: Fingerprint of the text encoder that made `text`; None where unknown.
        prompts: Captions in plain words that are not embedded yet; empty where there are none.
        latents: Normalised latents of all frames, computed before (float16); None when images are given.
        autoencoder: Fingerprint of the autoencoder that made `latents`.
    """

    images: Float[Tensor, "b v t c h w"]
    cameras: Cameras | None
    frame_times: Float[Tensor, "b t"]
    reference: Bool[Tensor, "b v t"]
    source: list[str]
    keys: list[str] = field(default_factory=list)
    depths: Float[Tensor, "b v t h w"] | None = None
    text: Float[Tensor, "b l d"] | None = None
    text_encoder: str | None = None
    prompts: list[str] = field(default_factory=list)
    latents: Float[Tensor, "b v n z y x"] | None = None
    autoencoder: str | None = None

    @property
    def inputs(self) -> int:
        """Number of input views of a novel-view problem; they come first in the grid, target views after them.

        Raises:
            ValueError: A scene has no input view, or another number than the others.
        """
        given = self.reference[:, :, 0].sum(1)
        if not bool((given == given[0]).all()) or int(given[0]) == 0:
            raise ValueError(
                f"every scene of a batch needs the same number of input views, got {given.tolist()}"
            )
        return int(given[0])

    @property
    def has_images(self) -> bool:
        """Whether the batch holds pictures; otherwise it was read as stored latents."""
        return not bool(self.images[(0,) * self.images.ndim].isnan())

    def sample(self, index: int) -> SceneBatch:
        """One scene as a batch of one."""
        return self.scenes([index])

    def scenes(self, indices: list[int]) -> SceneBatch:
        """Some scenes of the batch."""
        source, keys, prompts = (
            [texts[k] for k in indices] if texts else [] for texts in (self.source, self.keys, self.prompts)
        )
        return replace(self.apply(lambda x: _rows(x, indices)), source=source, keys=keys, prompts=prompts)


@dataclass(repr=False)
class Gaussians(_Movable):
    """3D Gaussians with view-independent colour, any leading shape (`b t` for a dynamic scene).

    Attributes:
        means: World positions, scene units.
        quats: Rotations, wxyz, normalised.
        scales: Standard deviations along the rotated axes, scene units, positive.
        opacities: In [0, 1].
        colors: RGB in [0, 1] (unclamped inside training).
        blurred: Whether `scales` include the blur that a rasterizer adds at the size of the input pictures, as files
            for other viewers need it; `render_gaussians` then adds none. See `scene4d.gaussians.blur`.
    """

    means: Float[Tensor, "*batch g 3"]
    quats: Float[Tensor, "*batch g 4"]
    scales: Float[Tensor, "*batch g 3"]
    opacities: Float[Tensor, "*batch g"]
    colors: Float[Tensor, "*batch g 3"]
    blurred: bool = False

    def __getitem__(self, index: Index) -> Gaussians:
        """Indexes the leading axes, of all tensors alike."""
        return self.apply(lambda x: x[index])


@dataclass(repr=False)
class Prediction(_Movable):
    """The prediction of a reconstruction network for a grid, in the world of its first camera and in its own units.

    Attributes:
        cameras: One for each view, shared by all timesteps; the first is the identity.
        poses: Pose encodings after every iteration of the camera head, the last best.
        depths: Planar z, positive.
        depth_confidence: At least 1.
        points: Position of every pixel in the first camera's frame; None without a point head.
        gaussians: Raw output of the Gaussian head; None without one.
        match_features: Features of the cells of the view matcher, see `MatchedTokens`; None without one.
        timestep_cameras: Cameras `b v t`, each timestep in the world of its own first one; None with camera token
            replacement, where `cameras` hold for all timesteps.
    """

    cameras: Cameras
    poses: list[Float[Tensor, "b v 9"]]
    depths: Float[Tensor, "b v t h w"]
    depth_confidence: Float[Tensor, "b v t h w"]
    points: Float[Tensor, "b v t h w 3"] | None = None
    gaussians: Float[Tensor, "b v t c h w"] | None = None
    match_features: Float[Tensor, "b t v p f"] | None = None
    timestep_cameras: Cameras | None = None


@dataclass(repr=False)
class Reconstruction(_Movable):
    """A 4D scene, in the world of its first camera.

    Attributes:
        cameras: Cameras of the input views, `b v`: predicted, unless they were given.
        gaussians: One set for each timestep, `b t`; those of a finished scene are blurred, see `Gaussians.blurred`.
        background: Colour behind the Gaussians.
        depths: Planar z that placed the Gaussians: predicted, or refined by matches.
        frame_times: Scene time of every set, seconds; None where unknown.
        keys: Names of the scenes; empty where unknown.
    """

    cameras: Cameras
    gaussians: Gaussians
    background: Float[Tensor, "b 3"]
    depths: Float[Tensor, "b v t h w"] | None = None
    frame_times: Float[Tensor, "b t"] | None = None
    keys: list[str] = field(default_factory=list)
