"""Lists the content of shards, validates every sample, and draws a contact sheet.

    python -m preparation.inspect 'data/small/objects-train-*.tar' --sheet objects.png

The exit code is 1 if anything is wrong. Shards may be paths, globs, http addresses and pipes, as in the data configs.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.shards import expand_urls, read_shard
from preparation.readers.synchrony import late_view
from preparation.rendering.camera_drawing import draw_cameras
from preparation.writing.manifest import ShardContent, file_sha256, recorded
from scene4d.atomic import replacing
from scene4d.sample_format import SceneSample, decode_sample, read_meta
from scene4d.sample_meta import camera_problems as matrix_problems

logger = logging.getLogger(__name__)

TILE = 96  # side of a picture of the contact sheet, pixels
TILES = 4  # views, and times of view 0, that a row of the sheet shows


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspects shards; returns the exit code, 1 if there are problems."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="+", help="shards: paths, globs, brace patterns, addresses")
    parser.add_argument("--sheet", type=Path, default=Path("contact-sheet.png"), help="PNG to write")
    parser.add_argument("--rows", type=int, default=8, help="largest number of scenes on the sheet")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    rows: list[np.ndarray] = []
    for url in expand_urls("inspect", options.urls):
        found = inspect_shard(url, rows, options.rows)
        problems += [f"{url}: {problem}" for problem in found]
    for problem in problems:
        logger.error("PROBLEM %s", problem)
    logger.info("%d problems", len(problems))
    if rows:
        with replacing(options.sheet) as temporary:
            Image.fromarray(np.concatenate(rows)).save(temporary, "PNG")
        logger.info("contact sheet: %s", options.sheet)
    return min(len(problems), 1)


def inspect_shard(url: str, rows: list[np.ndarray], most_rows: int) -> list[str]:
    """Logs the content of a shard, adds rows to the contact sheet, and returns all problems.

    Args:
        url: Path or address of the shard.
        rows: Rows of the contact sheet so far.
        most_rows: Largest number of rows.
    """
    problems, content, kinds = [], ShardContent(), Counter[str]()
    try:
        for members in read_shard(url):
            try:
                sample = decode_sample(members)
                if "latents" in read_meta(members):
                    sample.latents = decode_sample(members, depth=False, latents=True).latents
                content.add(sample.key, members["meta.json"])
            except Exception as error:  # whatever a damaged sample raises, the next one is looked at
                problems.append(str(error))
                continue
            kinds[_describe(sample)] += 1
            found = [*camera_problems(sample), *synchrony_problems(sample)]
            problems += [f"sample {sample.key!r}: {problem}" for problem in found]
            if len(rows) < most_rows:
                rows.append(sheet_row(sample))
        size, checksum = file_sha256(url)
        problems += _against_manifest(url, content, size, checksum)
        record = content.record(size, checksum)
        logger.info("%s: %d samples, %.2f MB, sha256 %s", url, record.samples, size / 1e6, checksum)
        for what, counts in (("content", kinds), ("licence", record.licenses)):
            for kind, count in counts.items():
                logger.info("  %s: %d x %s", what, count, kind or "not stated")
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return problems


def camera_problems(sample: SceneSample) -> list[str]:
    """Returns all problems of a scene's cameras: rotations, last rows, focal lengths, missing matrices."""
    problems = matrix_problems(sample.c2w, sample.intrinsics)
    if (sample.c2w is None) != (sample.intrinsics is None):
        problems.append("has only one of c2w and intrinsics")
    return problems


def synchrony_problems(sample: SceneSample) -> list[str]:
    """Returns the view whose motion agrees with that of the others only when it is shifted in time, if there is one."""
    late = late_view(sample.images)
    if late is None:
        return []
    name = f" ({sample.view_names[late.view]})" if sample.view_names else ""
    when = f"{abs(late.frames)} frames {'late' if late.frames > 0 else 'early'}"
    return [
        f"view {late.view}{name} looks {when}: shifted back, its motion agrees with that of the other views with "
        f"correlation {late.shifted:.2f}, as it is with {late.unshifted:.2f}"
    ]


def sheet_row(sample: SceneSample) -> UInt8[np.ndarray, "h w 3"]:
    """Joins views at the first time, then times of view 0, then the cameras seen from above."""
    v, t = sample.images.shape[:2]
    tiles = [_tile(sample.images[k, 0]) for k in np.linspace(0, v - 1, TILES).round().astype(int)]
    tiles += [_tile(sample.images[0, k]) for k in np.linspace(0, t - 1, TILES).round().astype(int)]
    cameras = np.full((TILE, TILE, 3), 255, np.uint8)
    if sample.c2w is not None and sample.intrinsics is not None:
        size = (sample.images.shape[2], sample.images.shape[3])
        cameras = draw_cameras(sample.c2w, sample.intrinsics, size, TILE)
    return np.concatenate([*tiles, cameras], axis=1)


def _tile(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "height width 3"]:
    picture = Image.fromarray(image)
    picture.thumbnail((TILE, TILE))
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return np.asarray(tile)


def _describe(sample: SceneSample) -> str:
    v, t, h, w, _ = sample.images.shape
    parts = [f"{sample.source}: {v} views x {t} frames, {h}x{w}, {sample.fps:g} fps"]
    parts.append("no cameras" if sample.c2w is None else "cameras")
    if sample.depths is not None:
        parts.append(f"depth at {len(sample.depth_frames)} frames")
    parts += ["caption"] * bool(sample.caption) + ["text embedding"] * (sample.text is not None)
    if sample.latents is not None:
        parts.append("latents of {} channels x {} frames, {}x{}".format(*sample.latents.shape[1:]))
    return ", ".join(parts)


def _against_manifest(url: str, content: ShardContent, size: int, checksum: str) -> list[str]:
    stored = recorded(url)
    if stored is None:
        logger.info("%s: no manifest entry", url)
        return []
    found = content.record(size, checksum)
    return [
        f"{name} is {getattr(found, name)}, the manifest says {getattr(stored, name)}"
        for name in ("samples", "bytes", "sha256", "fingerprint")
        if getattr(found, name) != getattr(stored, name)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
