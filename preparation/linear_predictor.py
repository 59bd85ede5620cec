"""Fits the linear predictor, a baseline of the diffusion model that needs no network, and writes it as a small file.

    python -m preparation.linear_predictor --config configs/evaluation/linear_predictor.yaml \\
        --output assets/small/weights/linear_predictor.safetensors

The file belongs to one autoencoder, whose fingerprint it holds; `GridEvaluation` takes its path.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from jaxtyping import Float
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch import Tensor, nn

from scene4d.evaluation.linear_predictor import LinearPredictor, write_linear_predictor
from scene4d.networks.autoencoder import autoencoder_fingerprint, decode_grid, encode_grid

log = logging.getLogger(__name__)


def training_images(data: LightningDataModule, batches: int) -> Iterator[Float[Tensor, "b v t c h w"]]:
    """Yields the images of the first training batches."""
    data.setup("fit")
    for batch in islice(data.train_dataloader(), batches):
        yield batch.images


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line.

    Raises:
        SystemExit: A shard or a weights file is missing, or an option is wrong.
    """
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="config", help="YAML with any of these options")
    parser.add_argument("--batches", type=int, default=3, help="training batches to fit")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_subclass_arguments(nn.Module, "autoencoder", required=True)
    try:
        options = parser.instantiate(parser.parse_args(arguments))
        autoencoder = options.autoencoder.eval()
        predictor = LinearPredictor(partial(encode_grid, autoencoder), partial(decode_grid, autoencoder))
        predictor.fit(training_images(options.data, options.batches))
    except ValueError as error:
        raise SystemExit(f"linear_predictor: {error}") from error
    assert predictor.weights is not None
    write_linear_predictor(options.output, predictor.weights, autoencoder_fingerprint(autoencoder))
    log.info("linear predictor of %d channels -> %s", len(predictor.weights), options.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
