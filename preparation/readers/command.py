"""All readers of raw data sets share this command: its options, the split into train and val, and captions."""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from preparation.readers.raw_scenes import RawScenes, Reader, scene_name
from preparation.readers.windows import RigClips
from preparation.writing import jobs

SPLIT_BUCKETS = 10_000  # the split by names is exact to one in so many


def run(reader: type[Reader], description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Runs the command of a reader.

    Args:
        reader: Class of the reader; its fields become options.
        description: Text of `--help`.
        arguments: Command line; None takes that of the process.

    Raises:
        SystemExit: Nothing can be read at all, or finished shards were made with other options.
    """
    options = _parser(reader, description).parse_args(arguments)
    chosen = reader(**{field.name: getattr(options, field.name) for field in fields(reader)})
    if isinstance(chosen, RigClips):
        chosen = chosen.for_split(options.split)
    jobs.run(options.name, options, lambda: _open(chosen, options))


def _scenes_of_split(reader: Reader, options: argparse.Namespace) -> list[Path]:
    scenes = sorted(reader.find_scenes(options.root))
    if options.val_share > 0:
        held_out = options.val_share * SPLIT_BUCKETS
        names = [scene_name(scene, options.root).encode() for scene in scenes]
        in_val = [zlib.crc32(name) % SPLIT_BUCKETS < held_out for name in names]
        scenes = [scene for scene, val in zip(scenes, in_val) if val == (options.split == "val")]
    if not scenes:
        raise ValueError(f"{options.root} holds no scene of this format for split {options.split}")
    return scenes


def _open(reader: Reader, options: argparse.Namespace) -> tuple[RawScenes, list[Path]]:
    captions = _captions(options.captions) if options.captions else {}
    source = RawScenes(reader, options.name, options.root, captions, options.license)
    return source, _scenes_of_split(reader, options)


def _captions(path: Path) -> dict[str, str]:
    try:
        captions = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object, caption by scene name: {error}") from error
    if not isinstance(captions, dict):
        raise ValueError(f"{path}: expected a JSON object, caption by scene name")
    return captions


def _size(text: str) -> tuple[int, int]:
    """`256x448` or `256` -> (height, width)."""
    sides = [int(side) if side.isdigit() else 0 for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"size must be HEIGHTxWIDTH or one number of pixels, got {text!r}")
    return sides[0], sides[-1]


def _parser(reader: type[Reader], description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the data set")
    jobs.add_options(parser, unit="scenes (pixelSplat: chunks)")
    add(
        "--name",
        default=reader.source,
        help="name of the source, the first word of shards and keys (%(default)s)",
    )
    add(
        "--val-share",
        type=float,
        default=0.0,
        help="share of the scenes that --split val takes, chosen by their names",
    )
    add("--captions", type=Path, help="JSON file of captions by scene name, as reports name scenes")
    add("--license", default=reader.terms, help="SPDX name and attribution (%(default)s)")
    for field in fields(reader):
        kind = _size if field.name == "size" else type(field.default)
        text = f"{field.metadata['help']} (default: {field.default})"
        add(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=text)
    return parser
