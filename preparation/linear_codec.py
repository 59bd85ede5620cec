"""Finds the linear part of the small autoencoder, from which its training starts: principal components of patches.

    python -m preparation.linear_codec --data configs/data/small_videos_full.yaml \\
        --data.init_args.train_defaults.selection.init_args.frames 9 \\
        --network.channels 48 --output runs/autoencoder/linear_codec.safetensors

`AutoencoderTraining` takes the file as one of its `initial_weights`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from safetensors.torch import save_file

from preparation.linear_predictor import training_images
from scene4d.atomic import replacing
from scene4d.networks.autoencoder import PatchAutoencoder

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line.

    Raises:
        SystemExit: A shard is missing, or an option is wrong.
    """
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="config", help="YAML with any of these options")
    parser.add_argument("--batches", type=int, default=16, help="training batches to look at")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_class_arguments(PatchAutoencoder, "network")
    try:
        options = parser.instantiate(parser.parse_args(arguments))
        images = torch.cat(list(training_images(options.data, options.batches)))
    except ValueError as error:
        raise SystemExit(f"linear_codec: {error}") from error
    network = options.network
    network.initialize(rearrange(images, "b v t c h w -> (b v) c t h w") * 2 - 1)
    linear = {name: value for name, value in network.state_dict().items() if name.startswith("linear_")}
    with replacing(options.output) as temporary:
        save_file(linear, temporary)
    log.info("linear part of %d latent channels -> %s", network.mean.numel(), options.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
