"""Losses of the first steps of every small config, of two checkouts: a change of form must not change a digit.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.seeded_losses /tmp/before . --steps 20

Each config trains with seed 0 on one thread from the committed shards and weights; where a config reads the larger
training set, `data/small`, the committed shards stand in for it. Prints one line per config: whether all losses are
equal, the first step that differs, and the last loss of each checkout.
"""

from __future__ import annotations

import csv
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

log = logging.getLogger(__name__)

WEIGHTS = "assets/small/weights"
STEPS_OF_SCHEDULE = "--model.init_args.lr_scheduler.init_args.total_steps"  # older configs wrote it again


@dataclass(frozen=True)
class Run:
    """One training: its configs, later ones over earlier ones, and the weight files it starts from."""

    name: str
    configs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def arguments(self, steps: int, folder: Path) -> list[str]:
        """The arguments of `main.py`."""
        given = ["fit", *(x for config in self.configs for x in ("--config", f"configs/small/{config}.yaml"))]
        if self.weights:
            files = ", ".join(f"{WEIGHTS}/{name}.safetensors" for name in self.weights)
            given += ["--model.init_args.initial_weights", f"[{files}]"]
        return given + [
            *self.options, "--seed_everything", "0", "--trainer.max_steps", str(steps),
            "--trainer.log_every_n_steps", "1",
            "--trainer.val_check_interval", "null", "--trainer.limit_val_batches", "0",
            "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(folder),
            "--trainer.logger", "lightning.pytorch.loggers.CSVLogger",
            "--trainer.logger.init_args.save_dir", str(folder), "--trainer.logger.init_args.version", "losses",
            "--model.init_args.lr_scheduler.init_args.warmup_steps", "5",
        ]  # fmt: skip


LINEAR_CODEC = (
    "--data", "configs/data/small_videos_full.yaml", "--data.init_args.batch_size", "2", "--network.channels", "48",
    "--data.init_args.train_defaults.selection.init_args.frames", "9",
    "--output", "runs/autoencoder/linear_codec.safetensors",
)  # fmt: skip
SMALL = ("--data.init_args.batch_size", "2")
RUNS = (
    Run("autoencoder", ("autoencoder",), options=SMALL),
    Run("autoencoder_decoder", ("autoencoder", "autoencoder_decoder"), options=SMALL),
    Run("autoencoder_refinement", ("autoencoder", "autoencoder_refinement"), options=SMALL),
    Run("base_video", ("base_video",), options=SMALL),
    Run("diffusion_stage1", ("diffusion_stage1",)),
    Run("diffusion_stage2", ("diffusion_stage2",), ("base_video", "diffusion"), SMALL),
    Run("reconstruction_geometry", ("reconstruction_geometry",)),
    Run("reconstruction_joint", ("reconstruction_joint",), ("geometry",)),
    Run("reconstruction_static", ("reconstruction_static",)),
    Run("reconstruction_dynamic", ("reconstruction_dynamic",), ("geometry", "reconstruction")),
)


def losses(checkout: Path, run: Run, steps: int) -> list[str]:
    """`train/loss` of every step, as the numbers' shortest exact texts.

    Raises:
        RuntimeError: The training failed; holds the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = workplace(checkout.resolve(), Path(scratch))
        arguments = run.arguments(steps, Path(scratch) / "run")
        file = folder / "configs" / "small" / f"{run.configs[-1]}.yaml"
        if "total_steps" in file.read_text():
            arguments += [STEPS_OF_SCHEDULE, str(steps)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        commands = [["main.py", *arguments]]
        if run.name == "autoencoder" and (folder / "preparation" / "linear_codec.py").exists():
            commands.insert(
                0, ["-m", "preparation.linear_codec", *LINEAR_CODEC]
            )  # older checkouts did it in `fit`
        for command in commands:
            command = [sys.executable, "-W", "ignore", *command]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{run.name} in {checkout}: {done.stdout[-500:]}{done.stderr[-1500:]}")
        (table,) = (Path(scratch) / "run").rglob("metrics.csv")
        rows = csv.DictReader(table.read_text().splitlines())
        return [row["train/loss"] for row in rows if row.get("train/loss")]


def workplace(checkout: Path, scratch: Path) -> Path:
    """A folder that shows the checkout, with the committed shards in the place of the larger set."""
    folder = scratch / "checkout"
    shards = folder / "data" / "small"
    shards.mkdir(parents=True)
    for entry in checkout.iterdir():
        if entry.name not in ("data", "runs", "outputs", ".git"):
            (folder / entry.name).symlink_to(entry)
    for shard in (checkout / "assets" / "small" / "shards").glob("*.tar"):
        (shards / shard.name).symlink_to(shard)
    (shards / "rooms-train-000000.tar").symlink_to(checkout / "assets/small/shards/rooms-val-000000.tar")
    return folder


def verdict(before: list[str], after: list[str]) -> str:
    """Equal, or the first step that differs with both losses."""
    different = [k for k, pair in enumerate(zip(before, after)) if pair[0] != pair[1]]
    if not different and len(before) == len(after):
        return f"equal, {len(before)} steps, last {after[-1]}"
    if not different:
        return f"{len(before)} and {len(after)} steps"
    k = different[0]
    first, last = (f"{before[n]} and {after[n]}" for n in (k, -1))
    return f"differs from step {k + 1} of {len(before)} on: {first}; last {last}"


def main(args: list[str] | None = None) -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="checkout")
    parser.add_argument("after", type=Path, help="checkout")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each config, more than 5")
    parser.add_argument("--only", type=list[str], default=[], help="names of configs; none means all")
    options = parser.parse_args(args)
    for run in RUNS:
        if not options.only or run.name in options.only:
            found = [losses(checkout, run, options.steps) for checkout in (options.before, options.after)]
            log.info("%-24s %s", run.name, verdict(*found))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
