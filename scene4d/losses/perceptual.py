"""Perceptual distance between images: LPIPS where its trunk is found, the SqueezeNet distance otherwise."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
import torchvision
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

SQUEEZENET = Path(__file__).parents[2] / "assets" / "small" / "weights" / "squeezenet1_1.safetensors"
VGG_FILE = "vgg16-397923af.pth"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Compares two images by the features of a frozen network that was trained on ImageNet.

    This is LPIPS (Zhang et al. 2018, VGG trunk) if torchvision's `vgg16-397923af.pth` lies in
    `$TORCH_HOME/hub/checkpoints`; it is never downloaded. Otherwise it is the same formula, without LPIPS's learned
    linear layers, on SqueezeNet 1.1, whose weights this repository holds. The two are on different scales and
    must not be compared: `name` says which one it is.

    The weights are buffers outside the state dict: no optimizer, EMA, FSDP or checkpoint sees them. A pickle, such
    as the hyperparameters in a checkpoint, holds the arguments in the place of the weights.

    Args:
        squeezenet: safetensors of torchvision's `squeezenet1_1`; None = the repository's own file. An installed
            package lacks that; a model can be built and used to predict without, only comparing images fails.
        prefer_lpips: Whether LPIPS is used where its trunk is found.

    Attributes:
        name: "LPIPS (vgg)" or "SqueezeNet distance", for texts.
        score: "lpips_vgg" or "squeezenet_distance", the name of its scores in tables, files and logs.

    Raises:
        ValueError: `squeezenet` is given and neither trunk is found, or the file holds other weights;
            names where it looked.
    """

    def __init__(self, squeezenet: str | None = None, prefer_lpips: bool = True) -> None:
        super().__init__()
        self.arguments = (squeezenet, prefer_lpips)
        path = Path(squeezenet) if squeezenet is not None else SQUEEZENET
        vgg = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
        # the CPU also where the model around it is built on the meta device; no one's random numbers are used up
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            if prefer_lpips and vgg.is_file():
                self.name, self.score, self.distance = "LPIPS (vgg)", "lpips_vgg", _lpips()
            elif path.is_file():
                self.name, self.score = "SqueezeNet distance", "squeezenet_distance"
                self.distance = SqueezeNetDistance(path)
            else:
                message = f"no weights for the perceptual distance: neither {vgg} nor {path} exists"
                if squeezenet is not None:
                    raise ValueError(message)
                self.name, self.score = "SqueezeNet distance", "squeezenet_distance"
                self.distance = _WithoutWeights(message)
        _freeze(self)

    def forward(
        self, images: Float[Tensor, "n 3 h w"], others: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, " n"]:
        """Returns one distance per pair, 0 for equal images, in float32 also under autocast.

        Args:
            images: In [0, 1], with sides of at least 17 pixels (SqueezeNet) or 16 (VGG).
            others: The images to compare them with, in [0, 1].

        Raises:
            ValueError: Neither trunk was found; names where it looked.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.distance(images.float() * 2 - 1, others.float() * 2 - 1).flatten()

    def announce(self, expected: str | None = None) -> None:
        """Says in the log which distance this is, and warns if a weight was chosen for another one.

        Args:
            expected: The `score` of the distance that a weight was chosen for; None if it was chosen for none.
        """
        log.info("perceptual distance: %s", self.name)
        if expected is not None and expected != self.score:
            place = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
            where = f"; {place} does not exist" if expected == "lpips_vgg" else ""
            log.warning(
                "the weight of the perceptual loss was chosen for %s, and this is %s, on another scale%s",
                expected, self.score, where,
            )  # fmt: skip

    def __reduce__(self) -> tuple[type[PerceptualLoss], tuple[str | None, bool]]:
        """Pickles the arguments alone."""
        return type(self), self.arguments

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation mode: LPIPS has dropout before its linear layers."""
        return super().train(False)


class SqueezeNetDistance(nn.Module):
    """Mean squared difference of channel-normalised SqueezeNet 1.1 features, summed over seven depths.

    LPIPS's formula with all of its linear weights at 1 (`lpips.LPIPS(lpips=False)`).

    Args:
        path: safetensors of torchvision's `squeezenet1_1`.
    """

    shift: Tensor
    scale: Tensor
    LAST_OF_SLICE = (1, 4, 7, 9, 10, 11, 12)

    def __init__(self, path: Path) -> None:
        super().__init__()
        network = torchvision.models.squeezenet1_1(weights=None)
        try:
            network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        except Exception as error:
            raise ValueError(f"{path} does not hold torchvision's squeezenet1_1: {error}") from error
        self.features = network.features
        self._last: tuple[Tensor, list[Tensor]] | None = None
        self.register_buffer("shift", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(
        self, images: Float[Tensor, "n 3 h w"], others: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, " n"]:
        """Takes images in [-1, 1], as LPIPS does."""
        pairs = zip(self._slices(images), self._remembered(others))
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)

    def _remembered(self, others: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Features; without gradients those of the last images are kept: many methods are scored on one truth."""
        if torch.is_grad_enabled():
            return self._slices(others)
        if self._last is None or not torch.equal(self._last[0], others):
            self._last = (others, self._slices(others))
        return self._last[1]

    def _slices(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        x = ((images + 1) / 2 - self.shift) / self.scale
        kept = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.LAST_OF_SLICE:
                kept.append(x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt())
        return kept


class _WithoutWeights(nn.Module):
    """Stands where no trunk was found, and says so when images are compared.

    Args:
        message: Where it was looked for.
    """

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Raises the error."""
        raise ValueError(
            f"{self.message}; training and scoring need one: run in a checkout of the repository"
        )


def _lpips() -> nn.Module:
    import lpips

    with warnings.catch_warnings():  # torchvision's deprecated `pretrained` argument
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="vgg", verbose=False)


def _freeze(module: nn.Module) -> None:
    """Turns every parameter and buffer below `module` into a buffer that is not saved."""
    module.train(False)
    for child in module.modules():
        tensors = dict(child.named_parameters(recurse=False)) | dict(child.named_buffers(recurse=False))
        for name, tensor in tensors.items():
            delattr(child, name)
            child.register_buffer(name, tensor.detach(), persistent=False)
