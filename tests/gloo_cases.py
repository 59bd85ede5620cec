"""What two ranks make of their numbers; `test_many_ranks.py` starts both.

    python tests/gloo_cases.py FOLDER

Rank r writes what every case returns into `FOLDER/rank_r.json`, by the name of the case.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from callbacks import GridExport, HangWatch, StepTimes, Throughput
from lightning_modules.loss_figures import LossFigures
from scene4d.evaluation.table import SceneScores
from scene4d.types import SceneBatch

RANK = int(os.environ["RANK"])
SLOW = 0.05  # seconds that rank 1 needs longer for a step


def figures(folder):
    """Two samples of a source on rank 0 and one of another on rank 1; then rank 1 has nothing."""
    found = LossFigures()
    sources, losses = (["a", "a"], [1.0, 2.0]) if RANK == 0 else (["b"], [6.0])
    found.add({"train/loss": torch.tensor(sum(losses) / len(losses))}, len(losses))
    found.add_samples(sources, torch.tensor([0.1, 0.9])[: len(losses)], torch.tensor(losses))
    found.set_total("train/useless_scenes", 3 + RANK)
    first = found.take()
    if RANK == 0:
        found.add({"train/loss": torch.tensor(5.0)}, 4)
    return [first, found.take(), found.take()]


def scores(folder):
    """Rank 1 has no scene, then scenes of another source, and one that rank 0 has, too."""
    found, all_rows = SceneScores(["m"], ["psnr"]), []
    x = ("s", "x", 1.0)
    z = ("t", "z", 5.0)
    for scenes in ({0: [x, ("s", "y", 3.0)]}, {0: [x], 1: [z, x]}, {1: [z]}, {}):
        for source, key, value in scenes.get(RANK, []):
            found.update(source, key, "m", {"psnr": value})
        all_rows.append([[row.source, row.value, row.count] for row in found.compute()])
        found.reset()
    return all_rows


class Block(nn.Linear):
    def __init__(self, slow: float) -> None:
        super().__init__(8, 8)
        self.slow = slow
        self.register_buffer("norm", torch.ones(()))  # DDP sends it in every forward pass: ranks wait there

    def forward(self, x):
        time.sleep(0.005 + self.slow)
        return super().forward(x) * self.norm


class Network(nn.Module):
    def __init__(self, slow: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(0.0), Block(slow)])

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))


class Model(L.LightningModule):
    def __init__(self, slow: float = 0.0, validation: int = 0) -> None:
        super().__init__()
        self.network, self.validation = Network(slow), validation

    def training_step(self, batch, index):
        x = batch.images[..., 0, 0].mean((1, 2, 3)) if isinstance(batch, SceneBatch) else batch
        return self.network(x.reshape(-1, 1).expand(-1, 8)).sum()

    def validation_step(self, batch, index):
        for _ in range(self.validation):
            time.sleep(0.5)
            self.network(torch.ones(1, 8))

    def predict_step(self, batch, index):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Batches:
    """Items that take a while to come."""

    def __init__(self, items, seconds=0.0):
        self.items, self.seconds = items, seconds

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        for item in self.items:
            time.sleep(self.seconds)
            yield item


def fit(folder, model, batches, *callbacks, wait=0.0, **options):
    """What both ranks log, by step; rank 1 would log it, too, if it wrote files."""
    logged, logger = [], CSVLogger(folder)
    logger.log_metrics = lambda metrics, step=None: logged.append([step, metrics])
    validation = DataLoader(torch.ones(1, 1)) if model.validation else None
    trainer(folder, *callbacks, logger=logger, **options).fit(model, Batches(batches, wait), validation)
    return logged


def trainer(folder, *callbacks, **options):
    return L.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=2, strategy="ddp",
        callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        plugins=[LightningEnvironment()], enable_checkpointing=False, log_every_n_steps=1000,
        use_distributed_sampler=False, **options,
    )  # fmt: skip


def slow_data(folder):
    return fit(folder, Model(), [torch.ones(4)] * 9, StepTimes(4, peak_tflops=2.0), wait=SLOW * RANK)


def slow_block(folder):
    return fit(folder, Model(SLOW * RANK), [torch.ones(4)] * 9, StepTimes(4))


def other_shapes(folder):
    """Rank 1 meets a new shape, and counts its operations, in other steps than rank 0."""
    sizes = [4] * 8 if RANK == 0 else [4, 6, 4, 6, 2, 3, 5, 4]
    return fit(folder, Model(), [torch.ones(n) for n in sizes], StepTimes(4), accumulate_grad_batches=2)


def throughput(folder):
    """Grids of 2 x 3 frames on rank 0, of 4 x 3 on rank 1."""
    return fit(folder, Model(), [scene("a", 2 + 2 * RANK)] * 7, Throughput(6))


def patience(folder):
    """A validation of rank 0 that takes thrice the limit of the watch, while rank 1 waits for its end."""
    watch = HangWatch(timedelta(seconds=1.5))
    fit(folder, Model(validation=10 * (1 - RANK) + 1), [torch.ones(4)] * 2, Waits(), watch)
    return watch.watcher is None


def predicted(folder):
    """Three scenes on two ranks, of which rank 1 repeats its only one; four scenes of which three are wanted."""
    names = []
    for scenes, limit in (([["a", "c"], ["b", "b"]], 9), ([["a", "c"], ["b", "d"]], 3)):
        output = folder / f"scenes_{limit}"
        export = GridExport(str(output), limit=limit, sheets=False, view_videos=False, time_videos=False)
        run = trainer(folder, export, logger=False)
        run.predict(Model(), Batches([scene(key) for key in scenes[RANK]]))
        run.strategy.barrier()
        names.append(sorted(path.name for path in output.iterdir()))
    return names


def scene(key, views=2):
    """One grid of 3 frames per view, whose pictures the key decides."""
    images = torch.full((1, views, 3, 3, 16, 16), ord(key) / 128)
    return SceneBatch(
        images, None, torch.zeros(1, 3), torch.zeros(1, views, 3, dtype=torch.bool), ["s"], [key]
    )


class Waits(L.Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.strategy.barrier()


CASES = (figures, scores, slow_data, slow_block, other_shapes, throughput, patience, predicted)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {case.__name__: case(Path(sys.argv[1])) for case in CASES}
    (Path(sys.argv[1]) / f"rank_{RANK}.json").write_text(json.dumps(found))
