"""TensorBoard without two numbers that say nothing here."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger


class StepLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger without `epoch`, which is 0 as the data has none, and `hp_metric`, always -1.

    Args:
        folder: Where the event files go.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs all numbers but the epoch's."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
