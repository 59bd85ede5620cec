"""Opens pictures that may come from strangers."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image

# Pillow's formats that it decodes itself: for EPS it would start Ghostscript, whatever the file is called
FORMATS = (
    "AVIF", "BMP", "DDS", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip


def open_picture(source: str | Path | IO[bytes]) -> Image.Image:
    """`PIL.Image.open` without the formats that start another program.

    Raises:
        OSError: It is missing, or no picture of these formats.
    """
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
