"""Rounds the weights of a safetensors file to 8 bits with a scale per row, which halves a float16 file.

python -m preparation.eight_bits runs/base_video/base_video.safetensors assets/small/weights/base_video.safetensors
"""

from __future__ import annotations

import argparse

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scene4d.atomic import replacing
from scene4d.networks.eight_bits import to_eight_bits


def main(args: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the safetensors file to read")
    parser.add_argument("target", help="the safetensors file to write")
    options = parser.parse_args(args)
    with safe_open(options.source, "pt") as file:
        header = file.metadata()
    with replacing(options.target) as temporary:
        save_file(to_eight_bits(load_file(options.source)), temporary, metadata=header)


if __name__ == "__main__":
    main()
