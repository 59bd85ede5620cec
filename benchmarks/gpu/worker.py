"""The process that measures; `python -m benchmarks.gpu` starts it."""

from __future__ import annotations

import json
import logging
import platform
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import CalledProcessError, check_output

import torch

from benchmarks.gpu.attention import attention
from benchmarks.gpu.overhead import overhead
from benchmarks.gpu.part import Part
from benchmarks.gpu.reconstruction import reconstruction
from benchmarks.gpu.rendering import rendering
from benchmarks.gpu.report import Cells, Report
from benchmarks.gpu.sampling import sampling
from benchmarks.gpu.step import step

PARTS: dict[str, Callable[[Part], None]] = {
    "attention": attention,
    "step": step,
    "sampling": sampling,
    "reconstruction": reconstruction,
    "gsplat": rendering,
    "overhead": overhead,
}
PACKAGES = ("torch", "triton", "gsplat", "lightning", "diffusers")


def about(device: torch.device, command: str) -> Cells:
    """Card, versions and command."""
    card = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if device.type == "cuda" else None
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        "command": command, "card": card, "GiB": memory, "driver": _driver(), "CUDA": torch.version.cuda,
        "cuDNN": cudnn, "Python": platform.python_version(), **{name: _version(name) for name in PACKAGES},
    }  # fmt: skip


def _driver() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return check_output(query, text=True).strip()
    except (OSError, CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main(settings: str) -> None:
    """Measures what the settings (JSON) say."""
    given = json.loads(settings)
    device = torch.device(given["device"])
    if device.type == "cuda":
        torch.cuda.set_device(0)
    report = Report(Path(given["folder"]), about(device, given["command"]))
    report.write()
    for name, seconds in given["shares"].items():
        torch.manual_seed(0)
        PARTS[name](Part(name, seconds, report, device, given["tiny"]))
    report.write()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.simplefilter("ignore")
    main(sys.argv[1])
