"""A grid of images to cameras and one set of 3D Gaussians for each timestep (sec. 3.2), without Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.gaussians.blur import with_blur
from scene4d.geometry.bundle_adjustment import Correspondences
from scene4d.geometry.cameras import scale_cameras
from scene4d.networks.vggt.gaussian_activation import gaussians_from_maps, placing_cameras
from scene4d.networks.vggt.match_refinement import cameras_from_matches, depths_from_matches, match_timesteps
from scene4d.pipelines.trained_on import TrainedOn
from scene4d.rendering.render import render_gaussians
from scene4d.types import Cameras, Gaussians, Prediction, Reconstruction, SceneBatch

Images = Float[Tensor, "b v t 3 h w"]


class Located(NamedTuple):
    """Where the pixels of the input views lie.

    Attributes:
        cameras: Cameras of the views, `b v`.
        depths: Planar z, in the unit of length of the cameras.
    """

    cameras: Cameras
    depths: Float[Tensor, "b v t h w"]


class Reconstructor:
    """Turns images of a scene into cameras and 3D Gaussians, and renders them.

    `scene = reconstructor(images)` does all of it without gradients. A training calls the network itself and then
    `locate`, `place` and `render`, through which gradients pass.

    Args:
        network: Predicts cameras, depths and raw Gaussians of images, for example a `ReconstructionNetwork`.
        pixel_scale: Standard deviation of an untrained Gaussian, in pixels; see `gaussians_from_maps`.
        opacity_shift: Logit of the opacity of an untrained Gaussian.
        background: Colour behind the Gaussians, in [0, 1]. None takes the median colour of the outermost pixels of
            the images: white around an object on white, the colour of the walls in a room.
        refine: Whether depths, and cameras that are not given, are made to agree with the matches between views.
            The network must have a view matcher then.
        trained_on: The training data of the weights; a call with a batch warns of inputs that differ. None says
            nothing.
    """

    def __init__(
        self,
        network: Callable[[Images], Prediction],
        pixel_scale: float = 0.3,
        opacity_shift: float = 2.0,
        background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
        refine: bool = False,
        trained_on: TrainedOn | None = None,
    ) -> None:
        self.trained_on = trained_on
        self.network, self.background, self.refine = network, background, refine
        self.pixel_scale, self.opacity_shift = pixel_scale, opacity_shift

    @torch.no_grad()
    def __call__(self, scene: SceneBatch | Images, cameras: Cameras | None = None) -> Reconstruction:
        """Reconstructs scenes from all of their views.

        The Gaussians include the blur of the rasterizer, so that they look the same at every size in every viewer.
        Those of `assemble` and `place`, which are trained and scored, do not.

        Args:
            scene: Images `b v t 3 h w` in [0, 1], or a batch that holds them.
            cameras: Known cameras `b v` of the views, in the network's unit of length; None means predicted ones.
        """
        images = scene.images if isinstance(scene, SceneBatch) else scene
        if isinstance(scene, SceneBatch) and self.trained_on is not None:
            self.trained_on.warn(scene)
        result = self.assemble(self.network(images), images, cameras)
        result = replace(result, gaussians=with_blur(result.gaussians, result.cameras))
        if isinstance(scene, SceneBatch):
            result.frame_times, result.keys = scene.frame_times, list(scene.keys)
        return result

    def assemble(
        self, prediction: Prediction, images: Images, cameras: Cameras | None = None
    ) -> Reconstruction:
        """Turns the network's prediction for `images` into a scene whose Gaussians are not blurred.

        Args:
            prediction: The network's.
            images: Those of the prediction.
            cameras: Those of `__call__`.
        """
        located = self.locate(prediction, cameras)
        gaussians = self.place(prediction, images, located)
        return Reconstruction(located.cameras, gaussians, self.background_of(images), located.depths)

    def match(self, prediction: Prediction) -> list[Correspondences] | None:
        """The matches between views that refinement needs, for each timestep; None without refinement.

        Raises:
            ValueError: The network has no view matcher.
        """
        return match_timesteps(prediction) if self.refine else None

    def find_cameras(
        self, prediction: Prediction, matches: Sequence[Correspondences] | None = None
    ) -> Cameras:
        """Cameras `b v` of the views: those that explain the matches, or the predicted ones where there are none."""
        return prediction.cameras if matches is None else cameras_from_matches(prediction, matches)

    def locate(
        self,
        prediction: Prediction,
        cameras: Cameras | None = None,
        matches: Sequence[Correspondences] | None = None,
    ) -> Located:
        """Cameras and depths of the views, refined if wanted; refined depths keep the gradient of predicted ones.

        Args:
            prediction: The network's.
            cameras: Known cameras `b v`, or those of `find_cameras`; None means that they are found here.
            matches: The result of `match`, to save its time; None means that it is called here.
        """
        matches = self.match(prediction) if matches is None else matches
        cameras = self.find_cameras(prediction, matches) if cameras is None else cameras
        depths = prediction.depths.float()
        if matches is not None:
            depths = depths * (depths_from_matches(prediction, matches, cameras) / depths).detach()
        return Located(cameras, depths)

    def place(self, prediction: Prediction, images: Images, located: Located) -> Gaussians:
        """One Gaussian for each pixel of all views, `b t g`, in the world of the cameras.

        Raises:
            ValueError: The network has no Gaussian head.
        """
        if prediction.gaussians is None:
            raise ValueError("Gaussians need a Gaussian head: build the network with gaussian_head: true")
        with torch.autocast(images.device.type, enabled=False):
            return gaussians_from_maps(
                prediction.gaussians,
                images,
                located.depths,
                placing_cameras(prediction, located.cameras),
                self.pixel_scale,
                self.opacity_shift,
            )

    def background_of(self, images: Images) -> Float[Tensor, "b 3"]:
        """Colour behind the Gaussians of every scene."""
        if self.background is not None:
            return images.new_tensor(self.background).expand(len(images), 3)
        border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
        return rearrange(border, "b v t c n -> b (v t n) c").median(1).values

    def render(
        self, gaussians: Gaussians, cameras: Cameras, size: Sequence[int], background: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b r t 3 h w"]:
        """Renders Gaussians `b t g` from the same cameras `b r` at every timestep.

        Args:
            gaussians: Sets of all timesteps.
            cameras: The views to render, in the world of the Gaussians.
            size: Height and width, pixels.
            background: Colour behind the Gaussians.
        """
        height, width = size
        images, _, alphas = render_gaussians(gaussians, cameras[:, None], height, width, (0.0, 0.0, 0.0))
        behind = rearrange(background, "b c -> b 1 1 c 1 1")
        images = images + (1 - alphas[:, :, :, None]) * behind
        return rearrange(images, "b t r c h w -> b r t c h w")

    @torch.no_grad()
    def pose_free_cameras(self, images: Images, scene: Reconstruction, visible: float = 0.5) -> Cameras:
        """Cameras of target views without given poses, the paper's way (sec. 4.2).

        The network runs again on the first input and the targets. Both runs put the first input at the origin.
        Their units of length are made equal by the ratio of the two medians of the depth of that shared first
        frame, over its pixels whose Gaussians are visible.

        Args:
            images: All views, inputs first.
            scene: The reconstruction of the inputs.
            visible: Least opacity of a visible Gaussian.

        Returns:
            Cameras of the targets in the world of `scene`.
        """
        inputs = scene.cameras.c2w.shape[1]
        again = self(images[:, [0, *range(inputs, images.shape[1])]])
        ratio = _shared_scale(scene, again, visible)
        return scale_cameras(again.cameras[:, 1:], ratio)


def _shared_scale(scene: Reconstruction, other: Reconstruction, visible: float) -> Float[Tensor, " b"]:
    """Length of the other's unit in that of `scene`, by the depth of the first frame of both."""
    assert scene.depths is not None and other.depths is not None
    depths, others = scene.depths[:, 0, 0], other.depths[:, 0, 0]
    height, width = depths.shape[-2:]
    opacities = scene.gaussians.opacities[:, 0, : height * width].unflatten(1, (height, width))
    scales = []
    for depth, again, opacity in zip(depths, others, opacities):
        seen = opacity >= visible
        seen = seen if bool(seen.any()) else torch.ones_like(seen)
        scales.append(depth[seen].median() / again[seen].median())
    return torch.stack(scales)
