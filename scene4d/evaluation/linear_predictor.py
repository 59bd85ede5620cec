"""A linear map from the references to the grid, without a network: a baseline that every model has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scene4d.atomic import replacing
from scene4d.evaluation.baselines import copy_freeze_time

Grid = Float[Tensor, "b v t c h w"]
Latents = Float[Tensor, "b v n z y x"]


class LinearPredictor:
    """Predicts every latent value of a generated frame as `w_a a + w_b b + w_c c + w_0`.

    Here a is the freeze-time copy's latent at the same place, b the fixed-view copy's, and c the corner frame's,
    standing still. The four numbers of every channel are found by ridge regression.

    Args:
        encode: Turns images in [0, 1] into latents.
        decode: The inverse of `encode`.
        weights: The four numbers of every latent channel; None before `fit`.
        ridge: Added to the diagonal of the normalised normal equations.
    """

    def __init__(
        self,
        encode: Callable[[Grid], Latents],
        decode: Callable[[Latents], Grid],
        weights: Float[Tensor, "z 4"] | None = None,
        ridge: float = 1e-4,
    ) -> None:
        self.encode, self.decode, self.weights, self.ridge = encode, decode, weights, ridge

    @torch.no_grad()
    def fit(self, batches: Iterable[Grid]) -> LinearPredictor:
        """Fits the weights to batches of training grids.

        Raises:
            ValueError: There was no batch.
        """
        gram, cross, count = torch.zeros(()), torch.zeros(()), 0
        for images in batches:
            features = rearrange(
                self._features(images)[:, 1:, 1:], "b v n z y x k -> z (b v n y x) k"
            ).double()
            target = rearrange(self.encode(images)[:, 1:, 1:], "b v n z y x -> z (b v n y x) 1").double()
            gram = features.mT @ features + gram.to(features)
            cross = features.mT @ target + cross.to(features)
            count += features.shape[1]
        if count == 0:
            raise ValueError("the linear predictor needs at least one batch with a generated frame")
        regularised = gram / count + self.ridge * torch.eye(4, dtype=torch.float64, device=gram.device)
        self.weights = torch.linalg.solve(regularised, cross / count).squeeze(-1)
        return self

    @torch.no_grad()
    def predict(self, images: Grid) -> Grid:
        """Predicts a grid from row 0 and column 0 of `images`.

        Raises:
            ValueError: There are no weights yet.
        """
        if self.weights is None:
            raise ValueError("the linear predictor is not fitted; call fit(batches) first")
        features = self._features(images)
        return self.decode(torch.einsum("bvnzyxk,zk->bvnzyx", features, self.weights.to(features)))

    def _features(self, images: Grid) -> Float[Tensor, "b v n z y x k"]:
        still = copy_freeze_time(images)
        latents = [self.encode(still)]
        for row in (images[:, :1], still[:, :1]):  # copied to all views: encoded once
            latents.append(self.encode(row).expand_as(latents[0]))
        return torch.stack([*latents, torch.ones_like(latents[0])], -1)


def write_linear_predictor(path: str | Path, weights: Float[Tensor, "z 4"], fingerprint: str) -> None:
    """Writes fitted weights, with the fingerprint of the autoencoder whose latents they predict."""
    with replacing(path) as temporary:
        save_file({"weights": weights.cpu().contiguous()}, temporary, metadata={"autoencoder": fingerprint})


def read_linear_predictor(path: str | Path, fingerprint: str) -> Float[Tensor, "z 4"]:
    """Reads fitted weights for the latents of one autoencoder.

    Raises:
        ValueError: The file is missing, no such file, or was fitted to another autoencoder; names both.
    """
    try:
        with safe_open(str(path), "pt") as file:
            fitted, weights = (file.metadata() or {}).get("autoencoder"), file.get_tensor("weights")
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"linear predictor {str(path)!r} cannot be read ({error}); python -m preparation.linear_predictor makes it"
        ) from error
    if fitted != fingerprint:
        raise ValueError(
            f"linear predictor {str(path)!r} was fitted to autoencoder {fitted}, the model's is {fingerprint}: fit it "
            "again with python -m preparation.linear_predictor"
        )
    if weights.ndim != 2 or weights.shape[1] != 4 or not bool(torch.isfinite(weights).all()):
        raise ValueError(
            f"linear predictor {str(path)!r}: weights must be finite `z 4`, are {tuple(weights.shape)}"
        )
    return weights
