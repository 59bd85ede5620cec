"""Reference videos to the whole view x time grid: the inference of the paper's 4D video diffusion (sec. 3.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.diffusion.rectified_flow import Guidance, RectifiedFlow
from scene4d.latent_grid import latent_reference_mask, video_frames
from scene4d.networks.autoencoder import autoencoder_fingerprint, decode_grid, encode_grid
from scene4d.networks.contracts import Autoencoder, DiffusionNetwork
from scene4d.pipelines.captions import Captions, Text, given
from scene4d.pipelines.sampling import Sampling
from scene4d.pipelines.trained_on import TrainedOn
from scene4d.types import SceneBatch

Latents = Float[Tensor, "b v n z y x"]


class GridGenerator:
    """Encodes the given frames, samples the latents of all others, and decodes them.

    The noise of a sample depends on the seed, its source and its key alone: neither on the batch it is in nor on
    the number of processes.

    Args:
        network: The network of the diffusion model.
        autoencoder: The frozen autoencoder.
        flow: The training objective and the sampler that belongs to it.
        sampling: Number of steps, guidance and seed of the noise; None is `Sampling()`.
        captions: Embeds prompts; None is `Captions()`, which refuses them.
        trained_on: The training data of the weights; a call warns of inputs that differ. None says nothing.

    Attributes:
        watch: Wraps the iterator over the network evaluations of a sample, of which the second argument is the
            number, to show progress. It changes nothing by default.
    """

    def __init__(
        self,
        network: DiffusionNetwork,
        autoencoder: Autoencoder,
        flow: RectifiedFlow,
        sampling: Sampling | None = None,
        captions: Captions | None = None,
        trained_on: TrainedOn | None = None,
    ) -> None:
        self.network, self.autoencoder, self.flow = network, autoencoder, flow
        self.sampling, self.captions = sampling or Sampling(), captions or Captions()
        self.trained_on = trained_on
        self.watch: Callable[[Iterator[Latents], int], Iterator[Latents]] = lambda evaluations, count: (
            evaluations
        )

    @torch.no_grad()
    def __call__(self, batch: SceneBatch) -> SceneBatch:
        """Returns the batch with every frame that is not a reference replaced by a generated one.

        Raises:
            ValueError: The batch holds stored latents instead of pictures, or guidance lacks a prompt.
        """
        if self.trained_on is not None and batch.has_images:
            self.trained_on.warn(batch)
        latents = deque(self.predictions(batch), maxlen=1)[0]
        return replace(batch, images=self.complete(batch, latents), depths=None)

    @torch.no_grad()
    def predictions(self, batch: SceneBatch) -> Iterator[Float[Tensor, "b v n z y x"]]:
        """Yields the sampler's predictions of the clean grid: first the mean given pure noise, last the sample."""
        if not batch.has_images:
            raise ValueError(
                f"source {batch.source[0]!r} gives latents, scores and predictions need pictures: set latents to false"
            )
        references = self.encode_references(batch.images, batch.reference)
        noise, mask = self.noise(batch, references.shape[1:]), latent_reference_mask(batch.reference)
        text, guidance = self.conditions(batch)
        steps = self.sampling.steps
        path = self.flow.predictions(self.network, noise, references, mask, text, steps, guidance)
        yield from self.watch(path, steps)

    def conditions(self, batch: SceneBatch) -> tuple[Text | None, Guidance | None]:
        """What the network is told of the captions of a batch, and the guidance by them.

        Raises:
            ValueError: Guidance is wanted where there is no caption; names the scene.
        """
        text, weights = self.captions.embed_or_nothing(batch), self.sampling.weights(batch.reference)
        if (lacking := (weights != 1) & ~given(batch)).any():
            scene = int(lacking.nonzero()[0])
            raise ValueError(
                f"guidance is {weights[scene]:g} for scene {(batch.keys or range(scene + 1))[scene]!r}, which has no "
                "prompt to guide by: give one, or set guidance to 1"
            )
        if text is None or (weights == 1).all():
            return text, None
        return text, Guidance(weights, self.captions.without(text, weights > -torch.inf))

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b v t c h w"]) -> Float[Tensor, "b v n z y x"]:
        """Turns images in [0, 1] into normalised latents, float32."""
        return encode_grid(self.autoencoder, images).float()

    def encode_references(
        self, images: Float[Tensor, "b v t c h w"], reference: Bool[Tensor, "b v t"]
    ) -> Float[Tensor, "b v n z y x"]:
        """Returns latents of the given frames.

        The autoencoder is causal, so that a view is encoded up to its last given frame only.
        """
        given = torch.where(reference[..., None, None, None], images, 1.0)
        views = []
        for view, needed in enumerate(latent_reference_mask(reference).any(0)):
            length = 1 + max(needed.nonzero().flatten().tolist(), default=0)
            latents = self.encode(given[:, [view], : video_frames(length)])
            views.append(F.pad(latents, (0, 0, 0, 0, 0, 0, 0, len(needed) - length)))
        return torch.cat(views, 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b v n z y x"]) -> Float[Tensor, "b v t c h w"]:
        """Turns normalised latents into images in [0, 1], float32."""
        return decode_grid(self.autoencoder, latents).float()

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the autoencoder; read it after its weights are loaded."""
        return autoencoder_fingerprint(self.autoencoder)

    def latents(self, batch: SceneBatch) -> Float[Tensor, "b v n z y x"]:
        """Returns the stored latents of a batch that has them, otherwise its images encoded.

        Raises:
            ValueError: The stored latents are another autoencoder's; names both.
        """
        if batch.latents is None:
            return self.encode(batch.images)
        if batch.autoencoder != self.fingerprint:
            raise ValueError(
                f"latents of source {batch.source[0]!r} were made by autoencoder {batch.autoencoder}, the model's is "
                f"{self.fingerprint}: make them with its class and weights (preparation.latents)"
            )
        return batch.latents.float()

    def images(self, batch: SceneBatch) -> Float[Tensor, "b v t c h w"]:
        """Returns the images of a batch, or what its stored latents decode to."""
        return batch.images if batch.has_images else self.decode(self.latents(batch))

    def complete(
        self, batch: SceneBatch, latents: Float[Tensor, "b v n z y x"]
    ) -> Float[Tensor, "b v t c h w"]:
        """Returns the given frames of a batch, and decoded latents for all others.

        Views that are given whole are not decoded.
        """
        views = ~batch.reference.all(2).all(0)
        if not views.any():
            return batch.images
        grid = batch.images.clone()
        grid[:, views] = self.decode(latents[:, views])
        return torch.where(batch.reference[..., None, None, None], batch.images, grid)

    def noise(self, batch: SceneBatch, shape: torch.Size) -> Float[Tensor, "b v n z y x"]:
        """Returns unit Gaussian noise, the same for the same scene, run after run.

        Args:
            batch: The scenes, told apart by source and key.
            shape: Shape of one scene's latents, `v n z y x`.
        """
        keys = batch.keys or [str(index) for index in range(len(batch.images))]
        noise = [
            self._noise(f"{source}/{key}", shape) for source, key in zip(batch.source, keys, strict=True)
        ]
        return torch.stack(noise).to(batch.images.device)

    def _noise(self, scene: str, shape: torch.Size) -> Float[Tensor, "v n z y x"]:
        digest = blake2b(f"{self.sampling.seed}/{scene}".encode(), digest_size=4).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.randn(shape, generator=generator)
