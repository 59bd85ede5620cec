"""Work around training and prediction: averages, pictures, exports."""

from callbacks.ema import ExponentialMovingAverage
from callbacks.fsdp2 import FSDP2
from callbacks.gaussian_export import GaussianExport
from callbacks.grid_export import GridExport
from callbacks.grid_logging import GridLogging
from callbacks.hang_watch import HangWatch
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.metrics_export import MetricsExport
from callbacks.step_times import StepTimes
from callbacks.throughput import Throughput
from callbacks.weights_export import WeightsExport

__all__ = [
    "FSDP2",
    "ExponentialMovingAverage",
    "GaussianExport",
    "GridExport",
    "GridLogging",
    "HangWatch",
    "LastCheckpoint",
    "MetricsExport",
    "StepTimes",
    "Throughput",
    "WeightsExport",
]
