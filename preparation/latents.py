"""Adds latents to shards, so that training reads them and encodes nothing; restartable like all preparation.

    python -m preparation.latents 'data/small/objects-train-*.tar' --output data/latents \\
        --autoencoder scene4d.networks.PatchAutoencoder --autoencoder.channels 48 --autoencoder.weights FILE
    python -m preparation.latents 'data/small/objects-train-*.tar' --output data/latents \\
        --config configs/latents/small.yaml

Pictures, depth and the rest stay to the byte. Shards may be paths, globs, http addresses and pipes, as in the data
configs; a shard keeps its name. Each view is encoded alone, in float32, 4k + 1 frames from its first one on. A still
is encoded as a video of `--frames` equal frames: latent frame 0 stands for one frame, the others for four each, so
the latents of a still scene are not one latent frame repeated.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from datamodules.archives import Members, is_remote
from datamodules.shards import expand_urls, read_shard
from preparation.writing.jobs import finish, parse_part, start_logging
from preparation.writing.reports import Report, skip, write_reported
from scene4d.latent_grid import latent_frames, whole_frames
from scene4d.networks.autoencoder import autoencoder_fingerprint, encode_grid
from scene4d.networks.contracts import Autoencoder
from scene4d.sample_format import add_latents, decode_sample


@dataclass(frozen=True)
class LatentsJob:
    """All that a process needs to write one shard.

    Attributes:
        url: Shard to read.
        path: Shard to write.
        autoencoder: Class path and arguments of the autoencoder as JSON.
        fingerprint: Fingerprint of the autoencoder.
        frames: Number of equal frames as which a still is encoded.
        device: Device that encodes.
    """

    url: str
    path: Path
    autoencoder: str
    fingerprint: str
    frames: int
    device: str

    def recipe(self) -> dict[str, object]:
        """Returns everything that decides the content of the shard."""
        return {"url": self.url, "autoencoder": self.fingerprint, "frames": self.frames}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Raises:
        SystemExit: A shard cannot be read or named, or finished ones were made with other options.
    """
    options = _parser().parse_args(arguments)
    start_logging()
    try:
        _run(options)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise SystemExit(f"latents: {error}") from error


def _run(options: Namespace) -> None:
    latent_frames(options.frames)
    jobs = _plan(options)
    index, count = parse_part(options.part)
    report = options.output / "reports" / f"latents-part-{index}-of-{count}.json"
    finish(jobs, make_shard, options.workers, report, None)


def make_shard(job: LatentsJob) -> Report:
    """Writes one shard and its report and returns the report."""
    skipped = dict[str, str]()
    return write_reported(job, _encoded(job, skipped), skipped)


def encode_views(
    autoencoder: Autoencoder, images: UInt8[np.ndarray, "v t h w 3"], frames: int
) -> Float[np.ndarray, "v z n y x"]:
    """Encodes every view from its first frame on and returns normalised latents.

    Args:
        autoencoder: An autoencoder of `scene4d.networks`.
        images: Pictures of a whole scene. With t = 1 the scene is still; otherwise frames behind 4k + 1 are left out.
        frames: Number of frames of a still scene, 4k + 1.
    """
    t, device = images.shape[1], next(autoencoder.parameters()).device
    count = frames if t == 1 else whole_frames(t)
    latents = []
    for view in images:
        video = rearrange(torch.from_numpy(view[:count]).to(device), "t h w c -> t c h w").float() / 255
        video = repeat(video, "t c h w -> 1 1 (t again) c h w", again=count if t == 1 else 1)
        with torch.no_grad():
            latents.append(encode_grid(autoencoder, video)[0, 0].float().cpu().numpy())
    return rearrange(np.stack(latents), "v n z y x -> v z n y x")


def _encoded(job: LatentsJob, skipped: dict[str, str]) -> Iterator[Members]:
    """Yields all samples that can be read, with latents; the others are named in `skipped`."""
    autoencoder = _autoencoder(job.autoencoder, job.device)
    if autoencoder_fingerprint(autoencoder) != job.fingerprint:
        raise ValueError(f"the autoencoder is another in every process, it needs weights: {job.autoencoder}")
    for members in _readable(job, skipped):
        try:
            latents = encode_views(autoencoder, decode_sample(members).images, job.frames)
            encoded = add_latents(members, latents, job.fingerprint)
        except (RuntimeError, MemoryError):  # no fault of the sample
            raise
        except Exception as error:  # whatever is wrong with one sample, the others go on
            skip(skipped, f"{job.path.name}: {members['__key__']!s}", error)
            continue
        yield encoded


def _readable(job: LatentsJob, skipped: dict[str, str]) -> Iterator[Members]:
    """Yields the samples in front of any damage; a remote shard that fails raises, and the next start tries again."""
    try:
        yield from read_shard(job.url)
    except ValueError as error:
        if is_remote(job.url):
            raise
        skip(skipped, job.path.name, error)


def _plan(options: Namespace) -> list[LatentsJob]:
    spec = json.dumps(options.autoencoder.as_dict(), sort_keys=True)
    fingerprint = autoencoder_fingerprint(_autoencoder(spec, options.device))
    urls = expand_urls("latents", options.urls)
    paths = [options.output / _name(url) for url in urls]
    for url, path in zip(urls, paths):
        if paths.count(path) > 1:
            raise ValueError(f"two shards are named {path.name}; choose an --output for each")
        if not is_remote(url) and path.resolve() == Path(url).resolve():
            raise ValueError(f"{path} would replace the shard that is read; choose another --output")
    jobs = [
        LatentsJob(url, path, spec, fingerprint, options.frames, options.device)
        for url, path in zip(urls, paths)
    ]
    index, count = parse_part(options.part)
    return jobs[index::count]


def _name(url: str) -> str:
    names = re.findall(r"[\w.-]+\.tar", url)
    if not names:
        raise ValueError(f"shard {url!r} names no .tar file, which the new one could be called after")
    return names[-1]


@lru_cache(1)
def _autoencoder(spec: str, device: str) -> Autoencoder:
    """Builds the autoencoder once per process."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "autoencoder", required=True)
    autoencoder = parser.instantiate(parser.parse_object({"autoencoder": json.loads(spec)})).autoencoder
    if not isinstance(autoencoder, Autoencoder):
        raise ValueError(
            f"{type(autoencoder).__name__} lacks members of scene4d.networks.contracts.Autoencoder: {spec}"
        )
    return autoencoder.eval().to(device)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", action="config", help="YAML with any of these options")
    add("urls", type=str, nargs="+", help="shards: paths, globs, brace patterns, addresses")
    add("--output", type=Path, required=True, help="folder of the new shards and of reports/")
    add(
        "--frames",
        type=int,
        default=29,
        help="frames as which a still is encoded, 4k + 1, at least as many as training asks for",
    )
    add("--part", type=str, default="0/1", help="i/n: make only every n-th shard, starting with shard i")
    add("--workers", type=int, default=1, help="number of processes; each writes one shard at a time")
    add("--device", type=str, default="cpu", help="device that encodes, for example cuda:0")
    parser.add_subclass_arguments(nn.Module, "autoencoder", required=True)
    return parser


if __name__ == "__main__":
    main()
