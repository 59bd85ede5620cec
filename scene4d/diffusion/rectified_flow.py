"""Rectified flow on a grid with given reference latents: schedule, objective, samplers.

x_sigma = (1 - sigma) x + sigma eps, velocity = eps - x (Liu et al. 2022, Eq. 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Network = Callable[..., Tensor]


class Guidance(NamedTuple):
    """Classifier-free guidance away from the null condition.

    Attributes:
        weights: One for each grid; 1 changes nothing.
        text: The null condition.
    """

    weights: Float[Tensor, " b"]
    text: Float[Tensor, "b l d"]


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """sigma' = s sigma / (1 + (s - 1) sigma) (Esser et al. 2024, Eq. 23); s > 1 spends more steps in noise."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def sampling_sigmas(steps: int, shift: float = 1.0) -> Float[Tensor, " {steps}+1"]:
    """Noise levels from 1 to 0. Own sigmas: diffusers' scheduler would shift them twice.

    Raises:
        ValueError: `steps` < 1.
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, got {steps}")
    return shift_sigmas(torch.linspace(1, 0, steps + 1), shift)


@dataclass
class RectifiedFlow:
    """The training objective and the sampler of the diffusion model.

    Args:
        prediction: Meaning of the network's output: "velocity" (the form of public Wan checkpoints) or "data"
            (clean latents; much faster to learn for a small network with many channels per token).
        clean_references: Whether reference positions are fed without noise. The patch embedding is linear, so noise
            and reference, once added, cannot be told apart: at sigma = 1 a noised reference has 0 dB.
            False is the paper's wording.
        logit_mean: Training noise levels are sigmoid(normal(logit_mean, logit_std)). A larger mean trains more on
            strong noise.
        logit_std: A larger value spreads the training noise levels more widely, see `logit_mean`. None draws them
            uniformly from [0, 1] instead, whatever `logit_mean` is.
        pure_noise: Fraction of training samples at sigma = 1, where sampling starts.
        shift: Shift of the noise levels in training; above 1 more samples have strong noise.
        sampling_shift: Shift of the sampler's noise levels; below 1 more steps go to small noise. None means `shift`.
        noise_scale: Multiplies the noise that the sampler keeps at every step. Below 1 samples are sharper; 1 is the
            exact flow.
        sampling_order: 1 is Euler's method. 2 is a multistep method, which extrapolates the velocity from the last two
            network evaluations and needs no more of them (Adams-Bashforth).
        sigma_floor: Lower bound of sigma in the loss where "data" predictions become velocities, which divides by
            sigma: a higher floor gives small noise levels less weight.
    """

    prediction: str = "velocity"
    clean_references: bool = True
    logit_mean: float = 0.0
    logit_std: float | None = 1.0
    pure_noise: float = 0.0
    shift: float = 1.0
    sampling_shift: float | None = None
    noise_scale: float = 1.0
    sampling_order: int = 1
    sigma_floor: float = 0.3

    def __post_init__(self) -> None:
        if self.prediction not in ("velocity", "data"):
            raise ValueError(f"prediction is {self.prediction!r}, expected 'velocity' or 'data'")
        if self.sampling_order not in (1, 2):
            raise ValueError(f"sampling_order is {self.sampling_order}, expected 1 or 2")

    def draw_sigmas(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, " count"]:
        """Noise levels for training, on the generator's device."""
        device = None if generator is None else generator.device
        if self.logit_std is None:
            sigmas = torch.rand(count, generator=generator, device=device)
        else:
            normal = torch.randn(count, generator=generator, device=device)
            sigmas = torch.sigmoid(normal * self.logit_std + self.logit_mean)
        pure = torch.rand(count, generator=generator, device=device) < self.pure_noise
        return shift_sigmas(torch.where(pure, 1.0, sigmas), self.shift)

    def loss(
        self,
        network: Network,
        latents: Float[Tensor, "b v n z y x"],
        reference_mask: Bool[Tensor, "b v n"],
        text: Float[Tensor, "b l d"] | None = None,
        sigmas: Float[Tensor, " b"] | None = None,
        noise: Float[Tensor, "b v n z y x"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Mean squared velocity error of every sample, over the latents that are to be generated."""
        noise = torch.randn_like(latents) if noise is None else noise
        sigmas = self.draw_sigmas(len(latents)).to(latents.device) if sigmas is None else sigmas
        level = sigmas.view(-1, 1, 1, 1, 1, 1)
        noisy = (1 - level) * latents + level * noise
        output = self.call(network, noisy, sigmas, latents, reference_mask, text)
        if self.prediction == "velocity":
            error = output - (noise - latents)
        else:
            error = (output - latents) / level.clamp(min=self.sigma_floor)
        error = error.square().mean((3, 4, 5))
        generated = (~reference_mask).float()
        return (error * generated).sum((1, 2)) / generated.sum((1, 2)).clamp(min=1)

    def call(
        self,
        network: Network,
        noisy: Float[Tensor, "b v n z y x"],
        sigmas: Float[Tensor, " b"],
        references: Float[Tensor, "b v n z y x"],
        reference_mask: Bool[Tensor, "b v n"],
        text: Float[Tensor, "b l d"] | None,
    ) -> Float[Tensor, "b v n z y x"]:
        """One network evaluation; output in float32, still as `prediction` says."""
        mask = reference_mask[..., None, None, None]
        if self.clean_references:
            noisy = torch.where(mask, references, noisy)
        return network(noisy, sigmas, text, torch.where(mask, references, 0), reference_mask).float()

    def denoise(
        self,
        network: Network,
        noisy: Tensor,
        sigma: float,
        references: Tensor,
        reference_mask: Tensor,
        text: Float[Tensor, "b l d"] | None,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "b v n z y x"]:
        """Mean prediction of the clean grid at one noise level.

        Args:
            guidance: Classifier-free guidance (Ho and Salimans 2022, Eq. 6); None leaves it out.
        """
        sigmas = noisy.new_full((len(noisy),), sigma)
        output = self.call(network, noisy, sigmas, references, reference_mask, text)
        if guidance is not None:
            empty = self.call(network, noisy, sigmas, references, reference_mask, guidance.text)
            output = empty + guidance.weights.view(-1, 1, 1, 1, 1, 1) * (output - empty)
        return output if self.prediction == "data" else noisy - sigma * output

    @torch.no_grad()
    def predictions(
        self,
        network: Network,
        noise: Float[Tensor, "b v n z y x"],
        references: Float[Tensor, "b v n z y x"],
        reference_mask: Bool[Tensor, "b v n"],
        text: Float[Tensor, "b l d"] | None = None,
        steps: int = 8,
        guidance: Guidance | None = None,
    ) -> Iterator[Float[Tensor, "b v n z y x"]]:
        """Mean predictions of the clean grid along the path from noise, one per network evaluation.

        The first is the mean given pure noise, the last is the sample: the last step goes all the way to it.

        Args:
            noise: Unit Gaussian.
            references: Clean latents under `reference_mask`, which every prediction repeats.
            steps: Network evaluations (twice as many with guidance).
            guidance: Classifier-free guidance; None leaves it out.
        """
        shift = self.shift if self.sampling_shift is None else self.sampling_shift
        sigmas = sampling_sigmas(steps, shift).tolist()
        x, given, last = noise, reference_mask[..., None, None, None], None
        scale = torch.where(given, 1.0, self.noise_scale)  # given latents follow their path of training
        for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):
            clean = self.denoise(network, x, sigma, references, reference_mask, text, guidance)
            velocity = (x - clean) / sigma
            if last is not None and self.sampling_order == 2:
                ratio = (sigma - following) / (sigmas[step - 1] - sigma)
                clean = x - sigma * (velocity + ratio / 2 * (velocity - last))
            last = velocity
            clean = torch.where(given, references, clean)
            x = clean + scale * (x - clean) * (following / sigma)
            yield clean
