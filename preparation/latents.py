"""Adds latents to shards, so that training reads them and encodes nothing; restartable like all preparation.

    python -m preparation.latents 'data/small/objects-train-*.tar' --output data/latents \\
        --autoencoder scene4d.networks.PatchAutoencoder --autoencoder.channels 48 --autoencoder.weights FILE
    python -m preparation.latents 'data/small/objects-train-*.tar' --output data/latents \\
        --config configs/latents/small.yaml
    python -m preparation.latents 'data/small/homography-train-*.tar' --output data/latents \\
        --config configs/latents/small.yaml --size 64 64 --variants 4 --homography datamodules.HomographyViews \\
        --augmentation '{flip: 0.5}'

Pictures, depth and the rest stay to the byte. Shards may be paths, globs, http addresses and pipes, as in the data
configs; a shard keeps its name. Each view is encoded alone, in float32, 4k + 1 frames from its first one on. A still
is encoded as a video of `--frames` equal frames: latent frame 0 stands for one frame, the others for four each, so
the latents of a still scene are not one latent frame repeated.

With `--variants` several latents are stored per clip, and training draws one of them each time. Variant 0 is the plain
clip, and `--augmentation` changes the others. With `--homography` every variant has views of its own, made of one
stored view, and `--augmentation` changes all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from datamodules import GridAugmentation, HomographyViews
from datamodules.archives import Members
from preparation.writing.jobs import start_logging
from preparation.writing.reports import Report, write_reported
from preparation.writing.rewriting import (
    built,
    finish_part,
    instance,
    one_line_errors,
    plain,
    rewriting_parser,
    rewritten,
    shards_of_part,
    spec_of,
)
from preparation.writing.variants import ClipVariants
from scene4d.networks.autoencoder import autoencoder_fingerprint, encode_grid
from scene4d.networks.contracts import Autoencoder
from scene4d.sample_changes import add_latents

VARIANTS = ("frames", "variants", "size", "augmentation", "homography", "seed")


@dataclass(frozen=True)
class LatentsJob:
    """All that a process needs to write one shard.

    Attributes:
        url: Shard to read.
        path: Shard to write.
        autoencoder: Class path and arguments of the autoencoder as JSON.
        fingerprint: Fingerprint of the autoencoder.
        variants: Options of `ClipVariants` as JSON, those with their default aside.
        device: Device that encodes.
    """

    url: str
    path: Path
    autoencoder: str
    fingerprint: str
    variants: str
    device: str

    def recipe(self) -> dict[str, object]:
        """Returns everything that decides the content of the shard."""
        return {"url": self.url, "autoencoder": self.fingerprint, **json.loads(self.variants)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Raises:
        SystemExit: A shard cannot be read or named, or finished ones were made with other options.
    """
    options = _parser().parse_args(arguments)
    start_logging()
    with one_line_errors("latents"):
        finish_part("latents", options, _plan(options), make_shard)


def make_shard(job: LatentsJob) -> Report:
    """Writes one shard and its report and returns the report."""
    autoencoder = _autoencoder(job.autoencoder, job.device)
    if autoencoder_fingerprint(autoencoder) != job.fingerprint:
        raise ValueError(f"the autoencoder is another in every process, it needs weights: {job.autoencoder}")
    clips = _clips(job.variants)
    add = partial(with_latents, autoencoder=autoencoder, fingerprint=job.fingerprint, clips=clips)
    skipped = dict[str, str]()
    return write_reported(job, rewritten(job, add, skipped), skipped)


def with_latents(
    members: Members, autoencoder: Autoencoder, fingerprint: str, clips: ClipVariants
) -> Members:
    """Adds the latents of all variants to a sample.

    Args:
        members: An encoded sample.
        autoencoder: Encodes the pictures.
        fingerprint: Its fingerprint, which takes long to compute.
        clips: Makes the variants.

    Raises:
        ValueError: The sample is damaged or its size does not suit the autoencoder; names its key.
    """
    variants, geometry = [], []
    for variant in clips.read(members):
        variants.append(encode_views(autoencoder, variant.images))
        geometry.append(variant.geometry)
    return add_latents(members, np.stack(variants), fingerprint, clips.size_of(members), geometry)


def encode_views(
    autoencoder: Autoencoder, images: Float[Tensor, "v t c h w"]
) -> Float[np.ndarray, "v z n y x"]:
    """Encodes every view as a video of its own, one after another, and returns normalised latents.

    Args:
        autoencoder: An autoencoder of `scene4d.networks`.
        images: Pictures of 4k + 1 frames in [0, 1].
    """
    device = next(autoencoder.parameters()).device
    with torch.no_grad():
        latents = [encode_grid(autoencoder, view[None, None].to(device))[0, 0].cpu() for view in images]
    return rearrange(torch.stack(latents).float(), "v n z y x -> v z n y x").numpy()


def _plan(options: Namespace) -> list[LatentsJob]:
    chosen = {name: value for name in VARIANTS if (value := plain(options[name])) is not None}
    defaults = {"variants": 1, "seed": 0}  # left out, so that they do not make another recipe
    variants = {name: value for name, value in chosen.items() if defaults.get(name) != value}
    text = json.dumps(variants, sort_keys=True)
    _clips(text)
    spec = spec_of(options, "autoencoder")
    fingerprint = autoencoder_fingerprint(_autoencoder(spec, options.device))
    return [
        LatentsJob(url, path, spec, fingerprint, text, options.device)
        for url, path in shards_of_part("latents", options)
    ]


def _clips(text: str) -> ClipVariants:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClipVariants, "clips")
    clips = instance(parser, "clips", text)
    assert isinstance(clips, ClipVariants)  # what the parser was told
    return clips


def _autoencoder(spec: str, device: str) -> Autoencoder:
    autoencoder = built("autoencoder", spec, device)
    if not isinstance(autoencoder, Autoencoder):
        raise ValueError(
            f"{type(autoencoder).__name__} lacks members of scene4d.networks.contracts.Autoencoder: {spec}"
        )
    return autoencoder


def _parser() -> ArgumentParser:
    parser = rewriting_parser(__doc__, "autoencoder", "encodes")
    add = parser.add_argument
    add(
        "--frames",
        type=int,
        default=29,
        help="frames as which a still is encoded, 4k + 1, at least as many as training asks for",
    )
    add("--variants", type=int, default=1, help="latents stored per clip, of which training draws one")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="size to which pictures are brought first")
    add(
        "--augmentation", type=GridAugmentation | None, help="random changes of the variants behind the first"
    )
    add("--homography", type=HomographyViews | None, help="makes views of one stored view, in every variant")
    add("--seed", type=int, default=0, help="decides the random numbers of all variants")
    return parser


if __name__ == "__main__":
    main()
