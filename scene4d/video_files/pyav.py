"""PyAV, or an object in its place that says what to install: without it everything runs that touches no video."""

from __future__ import annotations

NEEDED = "videos are read and written by PyAV: pip install 'av>=14.1,<19'"

__all__ = ["av"]


class Missing:
    """Stands in for PyAV where it cannot be imported."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def __getattr__(self, name: str) -> None:
        """Fails on first use.

        Raises:
            ModuleNotFoundError: Always; names the package and why it cannot be imported.
        """
        if name.startswith("__"):  # what inspects modules asks for these
            raise AttributeError(name)
        raise ModuleNotFoundError(f"{NEEDED} ({self.error})", name="av") from self.error


try:
    import av
except ImportError as error:
    av = Missing(error)  # type: ignore[assignment]
