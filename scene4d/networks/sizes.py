"""Heights and widths that fit, said in one line."""

from __future__ import annotations


def refuse_size(what: str, size: tuple[int, int], multiples: tuple[int, int], whose: str) -> None:
    """Checks that height and width are multiples of what somebody needs.

    Args:
        what: What has the size; the message begins with it.
        size: Height and width.
        multiples: What they must be divisible by.
        whose: Who needs it, for example "the patch 2 x 2".

    Raises:
        ValueError: One is not; names the nearest sizes that fit.
    """
    if not any(x % multiple for x, multiple in zip(size, multiples)):
        return
    smaller = [x // multiple * multiple for x, multiple in zip(size, multiples)]
    larger = [-(-x // multiple) * multiple for x, multiple in zip(size, multiples)]
    fit = [f"{height} x {width}" for height, width in (smaller, larger) if height and width]
    raise ValueError(
        f"{what} are {size[0]} x {size[1]}, both must be divisible by {whose}: use {' or '.join(fit)}"
    )
