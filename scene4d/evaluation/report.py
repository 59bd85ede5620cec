"""Joins the scores of several runs to one `metrics.json` and a readable table.

    python -m scene4d.evaluation.report --demo runs/diffusion.json runs/reconstruction.json \\
        --shipped shipped/diffusion.json shipped/reconstruction.json --started 1700000000 --made grid.mp4 \\
        --output metrics.json

`metrics.json` is `{"demo": PARTS, "shipped": PARTS, "minutes": x}`. PARTS has a list of rows for each part, `diffusion`
and `reconstruction`; a row is `{"source": s, "method": m, "score": s, "value": mean over scenes, "count": scenes}`. The
perceptual distance is the score `lpips_vgg` or `squeezenet_distance`, after the network that made it. Minutes are
wall time since `--started`, so that the pauses of an interrupted run are included.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from scene4d.atomic import write_json
from scene4d.evaluation.rows import Row

log = logging.getLogger(__name__)

Parts = dict[str, list[Row]]  # rows by part, for example "diffusion"

RUNS = ("demo", "shipped")
HEADERS = {
    "psnr": "PSNR", "psnr_foreground": "PSNR fg", "ssim": "SSIM", "iou": "IoU", "lpips_vgg": "LPIPS (VGG)",
    "squeezenet_distance": "SqueezeNet", "rotation_deg": "rotation", "depth_abs_rel": "depth",
}  # fmt: skip


def read_parts(paths: Iterable[str | Path]) -> Parts:
    """Joins what `MetricsExport` wrote for the parts of one run.

    Raises:
        ValueError: A file is missing or holds no rows; names it.
    """
    parts: Parts = {}
    for path in paths:
        try:
            parts |= parse_parts(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read scores from {str(path)!r}: {error}") from error
    return parts


def parse_parts(content: object) -> Parts:
    """Makes rows of what JSON holds of them.

    Raises:
        ValueError: There is no part, or one that is no list of rows.
    """
    if not isinstance(content, dict) or not content:
        raise ValueError(f"expected rows by part, got {type(content).__name__} {str(content)[:60]}")
    try:
        return {part: [_row(row) for row in rows] for part, rows in content.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a list of rows for each of {', '.join(content)}: {error}") from error


def _row(entries: dict[str, object]) -> Row:
    """One row of JSON; null, which stands for NaN, is kept."""
    row = Row(**entries)  # type: ignore[arg-type]  # checked below
    texts = all(isinstance(x, str) for x in (row.source, row.method, row.score))
    if not texts or not isinstance(row.value, (int, float, type(None))) or not isinstance(row.count, int):
        raise ValueError(
            f"a row must hold three texts, a number and a whole number, got {str(entries)[:100]}"
        )
    return row


def share_baselines(runs: Mapping[str, Parts]) -> None:
    """Gives every run what only another one scored on as many scenes: baselines do not depend on its weights."""
    for ours in runs.values():
        for theirs in runs.values():
            for part in ours.keys() & theirs.keys():
                scenes, known = _scenes(ours[part]), {(row.source, row.method) for row in ours[part]}
                same = {k for k, count in _scenes(theirs[part]).items() if scenes.get(k) == count}
                ours[part] += [
                    r for r in theirs[part] if r.source in same and (r.source, r.method) not in known
                ]


def table(runs: Mapping[str, Parts]) -> str:
    """The scores of all runs: one section per source, one line per method, one column per score.

    What all runs have in common, the baselines, stands there once; other lines name their run.

    Args:
        runs: Rows by part, by the name of the run.
    """
    sections = []
    for part in _union(runs.values()):
        rows = {run: parts.get(part, []) for run, parts in runs.items()}
        for source in _union([row.source for row in found] for found in rows.values()):
            of_source = {run: [row for row in found if row.source == source] for run, found in rows.items()}
            sections.append("\n".join(_section(f"{part}, {source}", of_source)))
    return "\n\n".join(sections)


def _section(title: str, runs: Mapping[str, list[Row]]) -> list[str]:
    """Header and one line per method, or per method and run where runs differ."""
    scores = _union([row.score for row in rows] for rows in runs.values())
    lines = {}
    for method in _union([row.method for row in rows] for rows in runs.values()):
        found = {run: [row for row in rows if row.method == method] for run, rows in runs.items()}
        same = all(rows == next(iter(found.values())) for rows in found.values())
        for run, rows in found.items():
            if rows:
                lines[method if same else f"{method} ({run})"] = rows
    width = max(36, len(title), *(len(name) + 2 for name in lines))
    headers = [HEADERS.get(score, score) for score in scores]
    columns = [max(10, len(header) + 2) for header in headers]
    table = [f"{title:{width}}{'scenes':>8}" + _cells(headers, columns)]
    for name, rows in lines.items():
        values = {row.score: row.value for row in rows}
        cells = _cells([_number(values.get(score)) for score in scores], columns)
        table.append(f"  {name:{width - 2}}{max(row.count for row in rows):>8}{cells}")
    return table


def _cells(texts: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths))


def _scenes(rows: Iterable[Row]) -> dict[str, int]:
    """The number of scenes of every source."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.source] = max(row.count, counts.get(row.source, 0))
    return counts


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    """All texts once, in order of appearance."""
    return list(dict.fromkeys(text for group in groups for text in group))


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
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        runs, minutes = {run: parse_parts(content[run]) for run in RUNS}, float(content["minutes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path!r} is no metrics.json: {error!r}") from error
    log.info("%s", table(runs))
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
        runs = {"demo": read_parts(options.demo), "shipped": read_parts(options.shipped)}
        share_baselines(runs)
        minutes = round((time.time() - options.started) / 60, 2)
        write_json(options.output, {**runs, "minutes": minutes})
    show(options.output, options.made)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
