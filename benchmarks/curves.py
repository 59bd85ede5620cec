"""Training curves from TensorBoard's files, as numbers and as a picture with one panel per run.

    python -m benchmarks.curves docs/curves/diffusion diffusion_stage2=runs/diffusion_stage2 ...

writes docs/curves/diffusion.csv (run, value, step, number) and .webp. Runs that the table holds already and that are
not named again stay, so that a curve outlives its run. A resumed run has several files; later ones win.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from scene4d.atomic import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, dict[int, float]]  # value, step, number


def read_run(folder: str | Path) -> Curves:
    """All training and validation scalars of a run's folder.

    Raises:
        ValueError: There is no folder, or no event file in it.
    """
    files = sorted(Path(folder).glob("events.out.tfevents.*"))
    if not files:
        raise ValueError(
            f"{str(folder)!r} has no events.out.tfevents.* file; give a trainer's default_root_dir"
        )
    curves: Curves = {}
    for file in files:
        events = EventAccumulator(str(file), size_guidance={SCALARS: 0}).Reload()
        for name in events.Tags()[SCALARS]:
            if name.startswith(("train/", "val/")):
                curves.setdefault(name, {}).update({e.step: e.value for e in events.Scalars(name)})
    return curves


def read_table(path: Path) -> dict[str, Curves]:
    """The runs of a table that `table` wrote; none if there is no file."""
    runs: dict[str, Curves] = {}
    if path.is_file():
        for row in csv.DictReader(path.read_text().splitlines()):
            run = runs.setdefault(row["run"], {})
            run.setdefault(row["value"], {})[int(row["step"])] = float(row["number"])
    return runs


def table(runs: dict[str, Curves]) -> Iterable[str]:
    """Lines of the table, in order of runs, values and steps."""
    yield "run,value,step,number\n"
    for run, curves in runs.items():
        for value, points in sorted(curves.items()):
            yield from (f"{run},{value},{step},{number:.4g}\n" for step, number in sorted(points.items()))


def picture(runs: dict[str, Curves], columns: int = 3) -> Figure:
    """A panel a run: its scores (dB) if it has any, else its losses; dots are held-out scenes, lines training."""
    from matplotlib.figure import Figure

    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (run, curves) in zip(panels, runs.items()):
        kind = "psnr" if any("psnr" in name for name in curves) else "loss"
        for name, points in sorted(curves.items()):
            if name.split("/")[1].split("_")[0] == kind and not name.startswith("train/loss_"):
                steps, numbers = zip(*sorted(points.items()))
                held_out = name.startswith("val/")
                panel.plot(
                    steps, numbers if held_out else _smooth(numbers), ".-" if held_out else "-", label=name,
                    linewidth=1,
                )  # fmt: skip
        panel.set_title(f"{run} ({'dB' if kind == 'psnr' else kind})", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.legend(fontsize=6)
    for panel in panels[len(runs) :]:
        panel.axis("off")
    return figure


def _smooth(numbers: tuple[float, ...], half: int = 3) -> list[float]:
    """Mean of a number and its neighbours."""
    windows = [numbers[max(0, k - half) : k + half + 1] for k in range(len(numbers))]
    return [sum(window) / len(window) for window in windows]


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.curves", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="path of the table and the picture, without suffix")
    parser.add_argument("runs", nargs="*", help="NAME=FOLDER, read from the trainer's folder")
    args = parser.parse_args(arguments)
    runs = read_table(args.output.with_suffix(".csv"))
    for named in args.runs:
        name, separator, folder = named.partition("=")
        if not separator:
            parser.error(f"{named!r} is not NAME=FOLDER")
        runs[name] = read_run(folder)
    if not runs:
        parser.error(f"no run given, and {args.output.with_suffix('.csv')} does not exist")
    write_text(args.output.with_suffix(".csv"), "".join(table(runs)))
    with replacing(args.output.with_suffix(".webp")) as unfinished:
        picture(runs).savefig(unfinished, dpi=75, format="webp", pil_kwargs={"lossless": True})


if __name__ == "__main__":
    main()
