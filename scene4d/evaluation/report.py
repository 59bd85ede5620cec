"""Joins the scores of several runs to one `metrics.json` and a readable table.

    python -m scene4d.evaluation.report --demo runs/diffusion.json runs/reconstruction.json \\
        --shipped assets/small/metrics.json --started 1700000000 --made grid.mp4 --output metrics.json

`metrics.json` is `{"demo": BLOCK, "shipped": BLOCK, "minutes": x}` with BLOCK `{"diffusion": {SOURCE:
{"scenes": n, METHOD: {score: mean}}}, "reconstruction": {"scenes": n, METHOD: {score: mean}, error: mean}}`.
Minutes are wall time since `--started`: pauses of an interrupted run are included.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from scene4d.atomic import write_json

log = logging.getLogger(__name__)

PARTS = ("diffusion", "reconstruction")
RUNS = ("demo", "shipped")
TRAINED = (
    "sample", "one_step", "sample_static_reference", "sample_other_reference", "pose_free", "given_cameras",
)  # fmt: skip
UNITS = {
    "psnr": "PSNR", "psnr_foreground": "PSNR fg", "ssim": "SSIM", "perceptual": "perceptual", "iou": "IoU",
    "sharpness": "sharpness",
}  # fmt: skip


def read_block(paths: list[str]) -> dict[str, Any]:
    """Joins what `MetricsExport` wrote for the parts of one run.

    Raises:
        ValueError: A file is missing, no JSON, or has neither part; names it.
    """
    block: dict[str, Any] = {}
    for path in paths:
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read scores from {path!r}: {error}") from error
        if not isinstance(content, dict) or not content or not content.keys() <= set(PARTS):
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path!r} holds {found}, expected {' or '.join(PARTS)}")
        block |= content
    return block


def share_baselines(blocks: dict[str, dict[str, Any]]) -> None:
    """Gives every run the baselines that another one scored on the same scenes; they do not depend on its weights."""
    for block in blocks.values():
        for other in blocks.values():
            for source, methods in other.get("diffusion", {}).items():
                ours = block.get("diffusion", {}).get(source)
                if ours is not None and ours["scenes"] == methods["scenes"]:
                    missing = {k: v for k, v in methods.items() if k not in ours and k not in TRAINED}
                    ours |= missing


def table(blocks: dict[str, dict[str, Any]]) -> str:
    """The scores of all runs, a section a source; what no run trained is listed once.

    Args:
        blocks: By name of the run, for example demo and shipped.
    """
    lines: list[str] = []
    grids = {run: block["diffusion"] for run, block in blocks.items() if "diffusion" in block}
    for source in _union(grids.values()):
        runs = {run: sources[source] for run, sources in grids.items() if source in sources}
        lines += _section(f"diffusion, {source}", runs)
    found = {run: block["reconstruction"] for run, block in blocks.items() if "reconstruction" in block}
    if found:
        lines += _section("reconstruction, novel views", found)
        for run, block in found.items():
            errors = {k: v for k, v in block.items() if k != "scenes" and not isinstance(v, dict)}
            lines.append(f"  {run}: " + ", ".join(f"{k} {_number(v)}" for k, v in errors.items()))
    return "\n".join(lines)


def _section(title: str, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Header, one row a trained method and run, one row a baseline."""
    methods = _union({k: v for k, v in run.items() if isinstance(v, dict)} for run in runs.values())
    scores = _union(run[method] for run in runs.values() for method in methods if method in run)
    scenes = max(run.get("scenes", 0) for run in runs.values())
    lines = [
        "",
        f"{title} ({scenes} held-out scenes)".ljust(46) + "".join(f"{UNITS.get(s, s):>12}" for s in scores),
    ]
    for method in methods:
        having = [run for run, block in runs.items() if method in block]
        for run in having if method in TRAINED else having[:1]:
            name = f"{method} ({run})" if method in TRAINED else method
            row = runs[run][method]
            lines.append(f"  {name:44}" + "".join(f"{_number(row.get(s)):>12}" for s in scores))
    return lines


def _union(groups) -> list[str]:
    """Keys of all dictionaries in order of appearance."""
    return list(dict.fromkeys(key for group in groups for key in group))


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def show(path: str, made: list[str]) -> None:
    """Prints the table of a `metrics.json` and what was made.

    Raises:
        ValueError: The file is missing or not of this format; names it.
    """
    try:
        content = json.loads(Path(path).read_text())
        blocks, minutes = {run: content[run] for run in RUNS}, content["minutes"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path!r} is no metrics.json: {error!r}") from error
    log.info("%s", table(blocks))
    log.info("\nmade, %.1f minutes after the first start:", minutes)
    for made_path in [*made, path]:
        log.info("  %s%s", made_path, "" if Path(made_path).exists() else "  (missing)")


def main(args: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", nargs="+", default=[], help="JSON files of the run that just ended")
    parser.add_argument("--shipped", nargs="+", default=[], help="JSON files of the committed weights")
    parser.add_argument(
        "--started", type=float, default=time.time(), help="when it first began, seconds since 1970"
    )
    parser.add_argument("--made", nargs="*", default=[], help="files and folders to list")
    parser.add_argument("--output", required=True, help="metrics.json, to write or, without --demo, to show")
    options = parser.parse_args(args)
    if options.demo or options.shipped:
        blocks = {"demo": read_block(options.demo), "shipped": read_block(options.shipped)}
        share_baselines(blocks)
        minutes = round((time.time() - options.started) / 60, 2)
        write_json(options.output, {**blocks, "minutes": minutes})
    show(options.output, options.made)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
