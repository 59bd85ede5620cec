"""One part of the benchmark: its rows, one after the other, as long as its seconds last."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.report import UNFINISHED, Cells, Report

log = logging.getLogger(__name__)
POISON = ("CUDA error", "CUDA kernel errors", "device-side assert", "illegal", "cudaError", "launch failure")


class Part:
    """Measures rows.

    Args:
        name: The part.
        seconds: No row is started after so many seconds, those of earlier processes included.
        report: Where rows go.
        device: Where it is measured.
        tiny: Whether sizes are those of a rehearsal.

    Attributes:
        start: When the part began, less the seconds of earlier processes.
    """

    def __init__(self, name: str, seconds: float, report: Report, device: torch.device, tiny: bool) -> None:
        self.name, self.seconds, self.report, self.device, self.tiny = name, seconds, report, device, tiny
        self.table = report.table(name)
        self.start = time.monotonic() - self.table.seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.start)

    def row(self, labels: Cells, measure: Callable[[], Cells], needs: float = 0.0) -> Cells:
        """Measures a row, unless it is known or there is no time; an error becomes a cell.

        Args:
            labels: The first cells, which name the row.
            measure: Returns the other cells.
            needs: Seconds that the row takes at least.

        Returns:
            All cells of the row, none if it was left out.
        """
        name = ", ".join(map(str, labels.values()))
        if name in self.table.rows:
            return self.table.rows[name]
        if self.left < needs or self.left <= 0:
            self.table.left_out = sorted({*self.table.left_out, name})
            return {}
        self.table.rows[name] = labels | {"error": UNFINISHED}
        self.report.write()
        cells, poisoned = self._measured(measure)
        self.table.rows[name] = labels | cells
        self.table.left_out = [x for x in self.table.left_out if x != name]
        self.table.seconds = time.monotonic() - self.start
        self.report.write()
        log.info("%6.1f s %s: %s", self.table.seconds, self.name, self.table.rows[name])
        if poisoned:  # no later call would succeed: the next process goes on
            raise SystemExit(75)
        return self.table.rows[name]

    def _measured(self, measure: Callable[[], Cells]) -> tuple[Cells, bool]:
        poisoned = False
        try:
            cells = measure()
        except Exception as error:  # the cell tells it; the other rows are still wanted
            log.debug("%s", error, exc_info=True)
            text = (str(error).strip().splitlines() or [""])[0]
            cells = {"error": f"{type(error).__name__}: {text}"[:200]}
            memory = isinstance(error, torch.cuda.OutOfMemoryError)
            poisoned = not memory and any(x in str(error) for x in POISON)
        if not poisoned:
            forget(self.device)
        return cells, poisoned


def forget(device: torch.device) -> None:
    """Frees what nobody needs any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
