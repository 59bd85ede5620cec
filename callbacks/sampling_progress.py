"""How far a sample is: predictions of a large model take minutes each."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from scene4d.pipelines import GridGenerator

LINES = 4  # per sample, where there is no bar

T = TypeVar("T")
log = logging.getLogger(__name__)


class SamplingProgress(L.Callback):
    """Shows during `predict` how many of a sample's network evaluations are done.

    In a terminal a bar below that of the run counts them. Elsewhere, as in a log file, about four lines per sample do.
    """

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watches the generator of the model, if it has one."""
        generator, bar = getattr(pl_module, "generator", None), trainer.progress_bar_callback
        if not isinstance(generator, GridGenerator):
            return
        if isinstance(bar, RichProgressBar) and bar.is_enabled and sys.stdout.isatty():
            generator.watch = partial(with_bar, bar)
        else:
            generator.watch = with_lines

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watches no longer."""
        generator = getattr(pl_module, "generator", None)
        if isinstance(generator, GridGenerator):
            generator.watch = unwatched

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Watches no longer."""
        self.on_predict_end(trainer, pl_module)


def unwatched(evaluations: Iterator[T], count: int) -> Iterator[T]:
    """Changes nothing, as a generator does that nobody watches."""
    return evaluations


def with_bar(bar: RichProgressBar, evaluations: Iterator[T], count: int) -> Iterator[T]:
    """Counts evaluations in a row of a progress bar, which is gone when the last one is done."""
    progress = bar.progress
    if progress is None:  # the bar has not begun, or has ended
        yield from evaluations
        return
    row = progress.add_task("Sampling", total=count)
    try:
        for evaluation in evaluations:
            progress.update(row, advance=1)
            progress.refresh()
            yield evaluation
    finally:
        progress.remove_task(row)


def with_lines(evaluations: Iterator[T], count: int) -> Iterator[T]:
    """Says about four times per sample how many evaluations are done, and after how many seconds."""
    start, marks = time.perf_counter(), {-(-count * k // LINES) for k in range(1, LINES + 1)}
    for done, evaluation in enumerate(evaluations, 1):
        if done in marks:
            log.info("sampling: %d of %d steps, %.1f s", done, count, time.perf_counter() - start)
        yield evaluation
