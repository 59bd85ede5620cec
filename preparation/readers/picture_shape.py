"""Whether a picture belongs to its camera: copies of another size do, cut and turned pictures do not."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps

UPRIGHT = (0, 1)  # EXIF orientations of a picture that is stored as it is shown; some cameras write 0
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Shape:
    """What the pictures of a camera look like, in any size.

    Attributes:
        aspect: Width over height of what the camera sees.
        tolerance: Share by which the aspect may be off, beyond the rounding of both sides to whole pixels.
    """

    aspect: float
    tolerance: float = 0.0

    @classmethod
    def of(cls, width: float, height: float) -> Shape:
        """Shape of a camera whose pictures had that size, each side rounded up or down from those of larger ones."""
        return cls(width / height, 1 / width + 1 / height)

    def fits(self, width: int, height: int) -> bool:
        """Tells whether the sides are those of a scaled picture, each rounded up or down."""
        rounding = 1 + self.aspect
        return abs(width - self.aspect * height) <= max(rounding, self.tolerance * width)


def check_shape(name: str, size: tuple[int, int], shape: Shape | None) -> None:
    """Refuses a picture that does not have the shape of its camera.

    Args:
        name: File or view that the error names.
        size: Width and height of the picture in pixels.
        shape: Shape of the camera's pictures; None if that is not known.

    Raises:
        ValueError: The picture is cut, stretched or turned.
    """
    if shape is None or shape.fits(*size):
        return
    turned = ", as if one of them were turned" if shape.fits(*size[::-1]) else ""
    raise ValueError(
        f"{name}: is {size[0]}x{size[1]}, {size[0] / size[1]:.4g} times as wide as high, but its camera's pictures "
        f"are {shape.aspect:.4g} times as wide as high{turned}; expected whole pictures, of any size"
    )


def as_calibrated(image: Image.Image, name: str, shape: Shape | None) -> Image.Image:
    """Returns a picture with the pixels that its camera was calibrated on, whatever EXIF says about turning it.

    Programs differ in whether they obey EXIF. The camera's shape settles a quarter turn; all else is refused.

    Raises:
        ValueError: It cannot be known whether the picture is to be turned; names the file and the orientation.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in UPRIGHT:
        return image
    stored, shown = (shape is not None and shape.fits(*size) for size in (image.size, image.size[::-1]))
    if orientation not in QUARTER_TURNS or shape is None or (stored and shown):
        raise ValueError(
            f"{name}: EXIF orientation {orientation} turns the picture, and whether its camera was calibrated before "
            "or after that is not known; expected it upright, without that tag"
        )
    return ImageOps.exif_transpose(image) if shown else image  # if neither fits, check_shape says so
