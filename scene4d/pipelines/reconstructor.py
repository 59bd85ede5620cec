"""A grid of images to cameras and one set of 3D Gaussians for each timestep (sec. 3.2), without Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.gaussians.blur import with_blur
from scene4d.gaussians.pruning import Pruning
from scene4d.geometry.accepted_sizes import Fit, fit_to_network, whole_images
from scene4d.geometry.bundle_adjustment import Correspondences
from scene4d.geometry.cameras import scale_cameras
from scene4d.networks.contracts import SizedNetwork
from scene4d.networks.vggt.gaussian_activation import gaussians_from_maps, placing_cameras
from scene4d.networks.vggt.match_refinement import cameras_from_matches, depths_from_matches, match_timesteps
from scene4d.pipelines.known_cameras import check_known, in_world_of
from scene4d.pipelines.trained_on import TrainedOn
from scene4d.rendering.colours import check_colour
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
        pruning: What is left out of finished scenes, and merged in them; None leaves them whole. Gaussians in
            training are left alone.
        trained_on: The training data of the weights; a call with a batch warns of inputs that differ. None says
            nothing.

    Raises:
        ValueError: `pixel_scale` or `background` is out of range; names it.
    """

    def __init__(
        self,
        network: Callable[[Images], Prediction],
        pixel_scale: float = 0.3,
        opacity_shift: float = 2.0,
        background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
        refine: bool = False,
        trained_on: TrainedOn | None = None,
        pruning: Pruning | None = None,
    ) -> None:
        if not 0 < pixel_scale < math.inf:
            raise ValueError(f"pixel_scale must be a positive number of pixels, got {pixel_scale}")
        if background is not None:
            check_colour("background", background)
        self.trained_on, self.pruning = trained_on, pruning or Pruning()
        self.network, self.background, self.refine = network, background, refine
        self.pixel_scale, self.opacity_shift = pixel_scale, opacity_shift

    @torch.no_grad()
    def __call__(
        self,
        scene: SceneBatch | Images,
        cameras: Cameras | None = None,
        intrinsics: Float[Tensor, "b v 3 3"] | None = None,
    ) -> Reconstruction:
        """Reconstructs scenes from all of their views.

        The Gaussians include the blur of the rasterizer, so that they look the same at every size in every viewer.
        Those of `assemble` and `place`, which are trained and scored, do not.

        Images of a size that the network does not accept are brought to one that it does. Cameras and depths of the
        result refer to the given images all the same, see `scene4d.geometry.accepted_sizes`.

        Args:
            scene: Images `b v t 3 h w` in [0, 1] of any size, or a batch that holds them.
            cameras: Known cameras `b v` of the views, in any world and unit of length. They are brought into the
                network's: the first becomes the identity, and they become as far apart as those that would be found
                without them. None means predicted ones.
            intrinsics: Known intrinsics of the views, where no more is known of their cameras.

        Raises:
            ValueError: Both are given, there is another number of them than of views, or one cannot be.
        """
        images = scene.images if isinstance(scene, SceneBatch) else scene
        if isinstance(scene, SceneBatch) and self.trained_on is not None:
            self.trained_on.warn(scene)
        fit = self.fit(images)
        images = fit.images(images)
        prediction = self.network(images)
        matches = self.match(prediction)
        cameras = None if cameras is None else fit.cameras(cameras)
        intrinsics = None if intrinsics is None else fit.intrinsics(intrinsics)
        given = self.known_cameras(prediction, cameras, intrinsics, matches)
        result = self.assemble(prediction, images, given, matches)
        # blur first: it is that of the view that a Gaussian's pixel belongs to, known by its place in the set
        result = fit.back(
            replace(result, gaussians=self.pruning(with_blur(result.gaussians, result.cameras)))
        )
        if isinstance(scene, SceneBatch):
            result.frame_times, result.keys = scene.frame_times, list(scene.keys)
        return result

    def fit(self, images: Images) -> Fit:
        """How images of this size are brought to one that the network accepts."""
        height, width = images.shape[-2:]
        if isinstance(self.network, SizedNetwork):
            return fit_to_network(height, width, self.network.patch_size, self.network.image_size)
        return whole_images(height, width)

    def assemble(
        self,
        prediction: Prediction,
        images: Images,
        cameras: Cameras | None = None,
        matches: Sequence[Correspondences] | None = None,
    ) -> Reconstruction:
        """Turns the network's prediction for `images` into a scene whose Gaussians are not blurred.

        There is one for each pixel; those that `pruning` takes for uncertain are invisible.

        Args:
            prediction: The network's.
            images: Those of the prediction.
            cameras: Known cameras `b v`, in the network's world and unit of length; None means predicted ones.
            matches: The result of `match`, to save its time.
        """
        located = self.locate(prediction, cameras, matches)
        gaussians = self.place(prediction, images, located)
        gaussians = self.pruning.hide(gaussians, prediction.depth_confidence)
        return Reconstruction(located.cameras, gaussians, self.background_of(images), located.depths)

    def match(self, prediction: Prediction) -> list[Correspondences] | None:
        """The matches between views that refinement needs, for each timestep; None without refinement.

        Raises:
            ValueError: The network has no view matcher.
        """
        return match_timesteps(prediction) if self.refine else None

    def known_cameras(
        self,
        prediction: Prediction,
        cameras: Cameras | None = None,
        intrinsics: Float[Tensor, "b v 3 3"] | None = None,
        matches: Sequence[Correspondences] | None = None,
    ) -> Cameras | None:
        """What a user knows of the cameras, as `assemble` takes it.

        Args:
            prediction: The network's.
            cameras: Those of `__call__`.
            intrinsics: Those of `__call__`.
            matches: The result of `match`.

        Raises:
            ValueError: See `__call__`.
        """
        if cameras is not None and intrinsics is not None:
            raise ValueError("give cameras or intrinsics, not both: cameras hold intrinsics")
        shape = (prediction.depths.shape[0], prediction.depths.shape[1])
        if cameras is not None:
            check_known(cameras, shape)
            found = self.find_cameras(prediction, matches, cameras.intrinsics)
            return in_world_of(found, cameras)
        if intrinsics is None:
            return None
        check_known(Cameras(prediction.cameras.c2w, intrinsics), shape)
        return self.find_cameras(prediction, matches, intrinsics)

    def find_cameras(
        self,
        prediction: Prediction,
        matches: Sequence[Correspondences] | None = None,
        intrinsics: Float[Tensor, "b v 3 3"] | None = None,
    ) -> Cameras:
        """Cameras `b v` of the views: those that explain the matches, or the predicted ones where there are none.

        Args:
            prediction: The network's.
            matches: The result of `match`.
            intrinsics: Known intrinsics, which are kept.
        """
        if matches is not None:
            return cameras_from_matches(prediction, matches, intrinsics)
        found = prediction.cameras
        return found if intrinsics is None else Cameras(found.c2w, intrinsics)

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

    def render_depths(
        self, gaussians: Gaussians, cameras: Cameras, size: Sequence[int]
    ) -> Float[Tensor, "b r t h w"]:
        """Expected depth of what is seen, 0 where nothing is; the arguments are those of `render`."""
        height, width = size
        depths = render_gaussians(gaussians, cameras[:, None], height, width, depth=True).depths
        assert depths is not None
        return rearrange(depths, "b t r h w -> b r t h w")

    @torch.no_grad()
    def pose_free_cameras(self, images: Images, scene: Reconstruction, visible: float = 0.5) -> Cameras:
        """Cameras of target views without given poses, the paper's way (sec. 4.2).

        The network runs again on the first input and the targets, see `look_again`, and the second run is brought into
        the world of the first, see `targets_in`.

        Args:
            images: All views, inputs first.
            scene: The reconstruction of the inputs.
            visible: Least opacity of a visible Gaussian.

        Returns:
            Cameras of the targets in the world of `scene`.
        """
        assert scene.depths is not None
        fit = self.fit(images)
        again = self.look_again(fit.images(images), scene.cameras.c2w.shape[1])
        return fit.cameras_back(self.targets_in(fit.depths(scene.depths), scene.gaussians, again, visible))

    @torch.no_grad()
    def look_again(self, images: Images, inputs: int) -> Located:
        """Cameras and depths of the first input and the targets alone, without gradients.

        Args:
            images: All views, inputs first.
            inputs: Number of input views.
        """
        return self.locate(self.network(images[:, [0, *range(inputs, images.shape[1])]]))

    @torch.no_grad()
    def targets_in(
        self, depths: Float[Tensor, "b v t h w"], gaussians: Gaussians, again: Located, visible: float = 0.5
    ) -> Cameras:
        """Cameras of the targets, brought from a second run into the world of the Gaussians of the inputs.

        Both runs put the first input at the origin. Their units of length are made equal by the ratio of the two
        medians of the depth of that shared first frame, over its pixels whose Gaussians are visible.

        Args:
            depths: Those that placed the Gaussians.
            gaussians: One for each pixel of the inputs. Of pruned ones all pixels count as visible.
            again: The result of `look_again`.
            visible: Least opacity of a visible Gaussian.
        """
        first, other = depths[:, 0, 0], again.depths[:, 0, 0]
        opacities, seen = gaussians.opacities[:, 0], torch.ones_like(first, dtype=torch.bool)
        if opacities.shape[1] == depths[0, :, 0].numel():  # otherwise pruned: no Gaussian belongs to a pixel
            seen = opacities[:, : first[0].numel()].view_as(first) >= visible
        return scale_cameras(again.cameras[:, 1:], _shared_scale(first, other, seen))


def _shared_scale(
    depths: Float[Tensor, "b h w"], others: Float[Tensor, "b h w"], visible: Bool[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """Length of the other's unit in that of the scene, by the depth of the visible pixels of the first frame."""
    scales = []
    for depth, again, seen in zip(depths, others, visible):
        seen = seen if bool(seen.any()) else torch.ones_like(seen)
        scales.append(depth[seen].median() / again[seen].median())
    return torch.stack(scales)
