"""What a step of `main.py fit` with all callbacks costs over a bare loop with the same network, batch and optimizer.

    python -m benchmarks.overhead --config configs/small/diffusion_stage1.yaml --blocks 6 --steps 10

Both are measured in one run, in blocks that take turns, so that a slow moment of the machine hits both. Prints the
median seconds of each and their ratio; the first block of each does not count.
"""

from __future__ import annotations

import sys
import tempfile
from statistics import median

from jsonargparse import ArgumentParser

from main import main as train


def main() -> None:
    """Runs the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/small/diffusion_stage1.yaml")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        callback = '{"class_path": "benchmarks.bare_steps.BareSteps", "init_args": {"steps": %d}}'
        cli = train([
            "fit", "--config", options.config, "--trainer.max_steps", str(options.blocks * options.steps),
            "--trainer.limit_val_batches", "0", "--trainer.val_check_interval", "null",
            "--trainer.default_root_dir", folder, "--trainer.callbacks+", callback % options.steps,
        ])  # fmt: skip
    measured = next(c for c in cli.trainer.callbacks if type(c).__name__ == "BareSteps")
    framework, bare = median(measured.framework[1:]), median(measured.bare[1:])
    sys.stdout.write(f"| fit, s | bare, s | ratio |\n|---|---|---|\n| {framework:.4f} | {bare:.4f} | ")
    sys.stdout.write(f"{framework / bare:.3f} |\n")


if __name__ == "__main__":
    main()
