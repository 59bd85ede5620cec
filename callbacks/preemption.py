"""What a run needs to survive being stopped: a last checkpoint, and signals that Lightning leaves alone."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from callbacks.last_checkpoint import LastCheckpoint
from callbacks.resuming import SameParameters


def with_last_checkpoint(given: Sequence[L.Callback]) -> list[L.Callback]:
    """The callbacks of a training with those that let it go on after it was stopped.

    Args:
        given: The trainer's callbacks; a `LastCheckpoint` among them stays the only one.
    """
    own = any(isinstance(callback, LastCheckpoint) for callback in given)
    return [SameParameters(), *given, *([] if own else [LastCheckpoint()])]


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Keeps Lightning from handling signals.

    Its handler of SIGTERM ends a training with status 0 and no checkpoint, and calls other ranks within the
    handler, which may hang; that of SLURM saves within the handler. `scene4d.interruption` does it instead.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
