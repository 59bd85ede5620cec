"""Colours that configs name."""

from collections.abc import Sequence


def check_colour(name: str, colour: Sequence[float]) -> None:
    """Checks a colour of a config.

    Raises:
        ValueError: It is no RGB in [0, 1]; names the setting.
    """
    if len(colour) != 3 or not all(0 <= value <= 1 for value in colour):
        raise ValueError(f"{name} must be three numbers in [0, 1], got {list(colour)}")
