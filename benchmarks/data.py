"""Measures the data pipeline: samples per second of the whole pipeline over those of decoding alone.

    python -m benchmarks.data --config configs/data/small_grid.yaml

Decoding alone and the whole pipeline (reading, shuffling, selection, decoding, resizing, augmentation, collation)
take turns in one process on the same samples, so that a busy machine slows both. No decoded view is kept.
The last row is the mixture: times and sizes weighted by the shares of the sources, so that its ratio is that of the
samples per second of both. The needs of a cluster follow from it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

from datamodules import SceneDataModule
from datamodules.archives import Members
from datamodules.selection import Extent
from datamodules.shards import expand_urls, read_shard
from datamodules.sources import Source
from scene4d.sample_format import decode_sample, read_meta

logger = logging.getLogger(__name__)


STEP_SECONDS = (1.0, 5.0, 20.0)


@dataclass(frozen=True)
class Measured:
    """The figures of one source, or of the mixture.

    Attributes:
        name: Name of the source.
        seconds: CPU seconds per sample of the whole pipeline.
        decoding: CPU seconds per sample of decoding alone.
        megabytes: Compressed size of a stored sample, all of which is read.
    """

    name: str
    seconds: float
    decoding: float
    megabytes: float

    @property
    def ratio(self) -> float:
        """Samples a second of the whole pipeline over those of decoding alone."""
        return self.decoding / self.seconds

    def log(self) -> None:
        """Logs a row of the table."""
        times = f"{1e3 * self.seconds:8.2f}  {1e3 * self.decoding:11.2f}"
        logger.info("%-12s %s  %5.2f  %11.3f", self.name, times, self.ratio, self.megabytes)


def main(arguments: Sequence[str] | None = None) -> list[Measured]:
    """Measures every training source of a data config and logs a table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/data/small_grid.yaml"))
    parser.add_argument("--samples", type=int, default=48, help="a source and round")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument(
        "--batch", type=int, default=96, help="of the whole cluster; the paper's is 96 on 48 GPUs"
    )
    parser.add_argument(
        "--step_seconds", type=float, nargs="*", default=STEP_SECONDS, help="assumed, nothing measures them"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as in a data worker
    data = _data_module(options.config)
    measured = [measure(source, data, options.samples, options.rounds) for source in data.train]
    whole = mixture(measured, [source.weight for source in data.train])
    logger.info("source       whole ms  decoding ms  ratio  MB a sample")
    for row in [*measured, whole]:
        row.log()
    _log_needs(whole, options.batch, options.step_seconds)
    return [*measured, whole]


def mixture(measured: Sequence[Measured], weights: Sequence[float]) -> Measured:
    """A sample of the mixture on average."""
    average = {
        name: sum(weight * getattr(row, name) for weight, row in zip(weights, measured)) / sum(weights)
        for name in ("seconds", "decoding", "megabytes")
    }
    return Measured("mixture", **average)


def _log_needs(sample: Measured, batch: int, step_seconds: Sequence[float]) -> None:
    """Logs what feeding a cluster takes, if its steps take so long."""
    logger.info("needed for a batch of %d\nstep s  samples/s    MB/s  cores", batch)
    for step in step_seconds:
        rate = batch / step
        needs = (step, rate, rate * sample.megabytes, rate * sample.seconds)
        logger.info("%6.1f  %9.1f  %6.1f  %5.2f", *needs)


def measure(source: Source, data: SceneDataModule, samples: int, rounds: int) -> Measured:
    """Times one source, batches as in training, in rounds that alternate with decoding alone."""
    urls = expand_urls(source.name, source.urls)
    size = sum(Path(url).stat().st_size for url in urls)
    count = sum(1 for url in urls for _ in read_shard(url))
    whole, alone = [], []
    alone_module = SceneDataModule(
        train=[source],
        batch_size=data.batch_size,
        num_workers=0,
        size=data.size,
        depth=data.depth,
        cache_mb=0,
    )
    alone_module.setup("fit")
    batches = iter(alone_module.train_dataloader())
    stored = list(islice((sample for url in urls for sample in read_shard(url)), samples))
    for _ in range(rounds):
        whole.append(_seconds(batches, -(-samples // data.batch_size)) / data.batch_size)
        alone.append(_seconds(_decoded(source, stored, data.depth), len(stored)))
    return Measured(source.name, median(whole), median(alone), size / count / 1e6)


def _decoded(source: Source, stored: Sequence[Members], depth: bool) -> Iterator[None]:
    """Decodes what a selection takes of each sample, and nothing else."""
    for members in stored:
        yield _decode(source, members, depth, Random(0))


def _decode(source: Source, members: Members, depth: bool, rng: Random) -> None:
    meta = read_meta(members)
    if source.homography is not None:
        decode_sample(members, [rng.randrange(meta["views"])], depth=False)
        return
    extent = Extent(str(members["__key__"]), meta["views"], meta["frames"], meta["depth_frames"])
    decode_sample(members, source.selection.select(extent, rng).views, depth)


def _seconds(items: Iterator, count: int) -> float:
    """CPU seconds of this process an item: other processes on the machine do not count."""
    begin = time.process_time()
    for _ in islice(items, count):
        pass
    return (time.process_time() - begin) / count


def _data_module(config: Path) -> SceneDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    return parser.instantiate(parser.parse_args([f"--data={config}"])).data


if __name__ == "__main__":
    main()
