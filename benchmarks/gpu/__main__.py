"""Measures attention, training steps, sampling and reconstruction on one GPU.

    python -m benchmarks.gpu --folder runs/gpu
    python -m benchmarks.gpu --parts attention step --seconds 200
    python -m benchmarks.gpu --device cpu --scale tiny --folder /tmp/rehearsal

No weights and no data are needed: networks of full size are made on the device with random weights. Every part has a
share of the seconds and stops starting rows when it is used up; what was left out is listed. Rows are written to
gpu.json and gpu.md as soon as they are measured. They are measured in a process of their own: if it dies, or an error
leaves the device useless, the next one goes on with the row after. `--device cpu --scale tiny` runs the same code.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)
SHARES = {  # of the seconds; starts of processes and the building of networks take the rest
    "attention": 0.26, "step": 0.24, "sampling": 0.16, "reconstruction": 0.14, "gsplat": 0.07, "overhead": 0.07,
}  # fmt: skip
STARTS = 6  # processes, one after the other
KILL_AFTER = 30  # seconds beyond the given ones


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--parts",
        nargs="+",
        choices=list(SHARES),
        default=list(SHARES),
        help="What is measured, in this order.",
    )
    add("--folder", type=Path, default=Path("runs/gpu"), help="Where tables and profiles are written.")
    add("--seconds", type=float, default=350, help="All parts together take about so long.")
    add("--device", default="cuda", choices=["cuda", "cpu"], help="Where it is measured.")
    add(
        "--scale",
        default="full",
        choices=["full", "tiny"],
        help="Sizes; tiny ones rehearse the code on a CPU.",
    )
    add("--resume", action="store_true", help="Keeps the rows in the folder and measures the others.")
    return parser.parse_args(arguments)


def shares(parts: Sequence[str], seconds: float) -> dict[str, float]:
    """Seconds of every part; parts that are not measured leave theirs to the others."""
    total = sum(SHARES[part] for part in parts)
    return {part: seconds * 0.94 * SHARES[part] / total for part in parts}


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts measuring processes until all rows are there; returns 0 if the last one ended well."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = options_of(given)
    file = options.folder / "gpu.json"
    if not options.resume:
        file.unlink(missing_ok=True)
    command = f"python -m benchmarks.gpu {shlex.join(given)}".strip()
    end = time.monotonic() + options.seconds + KILL_AFTER
    for _ in range(STARTS):
        before = _rows(file)
        code = _run(options, command, end - time.monotonic())
        if code == 0 or time.monotonic() > end or _rows(file) == before:
            break
        log.warning("the measuring process ended with %d; the next one goes on", code)
    if (table := file.with_suffix(".md")).exists():
        log.info("%s", table.read_text(encoding="utf-8"))
    return code


def _run(options: argparse.Namespace, command: str, seconds: float) -> int:
    settings = {
        "folder": str(options.folder), "device": options.device, "tiny": options.scale == "tiny",
        "command": command, "shares": shares(options.parts, options.seconds),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.worker", json.dumps(settings)])
    try:
        return process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _rows(file: Path) -> int:
    """Number of rows that were begun."""
    if not file.exists():
        return 0
    return sum(len(part["rows"]) for part in json.loads(file.read_text())["parts"].values())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sys.exit(main())
