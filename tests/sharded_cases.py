"""Trainings of both modules whose ranks together see the same batches, however many ranks there are.

    python tests/sharded_cases.py FOLDER CASE [CASE ...]

Every case is a JSON object: module, strategy, steps, and options of the module. Rank 0 writes the losses of all steps,
means over the batches of a step, into `FOLDER/NAME.json`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from functools import partial
from hashlib import sha256
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from textured_wall import make_batch, make_network

import callbacks  # noqa: F401 - registers fsdp2
from callbacks.checkpoint_files import WholeCheckpoints
from callbacks.ema import ExponentialMovingAverage
from lightning_modules import GaussianReconstruction, VideoDiffusion
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.agreement import from_all_ranks
from scene4d.distributed.sharding import gather
from scene4d.losses import ImageLoss
from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.types import SceneBatch

GLOBAL = 4  # batches of an optimizer step


def grid(number):
    """A grid of 2 views x 5 frames whose pictures follow from the number."""
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(1, 2, 5, 3, 32, 32, generator=generator)
    reference = torch.zeros(1, 2, 5, dtype=torch.bool)
    reference[:, 0] = reference[:, :, 0] = True
    return SceneBatch(images, None, torch.arange(5)[None] / 12, reference, ["s"], [str(number)])


def scene(number):
    """A wall seen from cameras that follow from the number."""
    return make_batch(wall_depth=2 + number % 7 / 20)


class Batches:
    """Rank r of n takes batches r, r + n, ..."""

    def __init__(self, make, trainer):
        self.make, self.trainer = make, trainer

    def __len__(self):
        return 10**6

    def __iter__(self):
        ranks = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        number = self.trainer.global_step * GLOBAL + ranks["rank"]
        while True:
            yield self.make(number)
            number += ranks["num_replicas"]


class Losses(L.Callback):
    def __init__(self):
        self.losses, self.waiting = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.waiting.append(outputs["loss"].item() * trainer.accumulate_grad_batches)
        if len(self.waiting) == trainer.accumulate_grad_batches:
            found = from_all_ranks(sum(self.waiting) / len(self.waiting))
            self.losses.append(sum(found) / len(found))
            self.waiting = []


def module(kind, options):
    torch.manual_seed(0)
    adam = partial(torch.optim.AdamW, lr=3e-3 if kind == "diffusion" else 0.03)
    if kind == "reconstruction":
        trainable = ["^gaussian_head", "temporal", "blocks.1"]
        return GaussianReconstruction(make_network, [ImageLoss()], adam, trainable=trainable, **options)
    network = partial(
        WanGridTransformer, num_attention_heads=2, attention_head_dim=12, in_channels=4, text_dim=8, freq_dim=16,
        ffn_dim=32, num_layers=2, patch_size=(1, 1, 1),
    )  # fmt: skip
    autoencoder = partial(PatchAutoencoder, channels=4, width=64, depth=1)
    return VideoDiffusion(
        network, autoencoder, RectifiedFlow(prediction="data"), adam, trainable=[""], **options
    )


def run(folder, ranks, name, kind, strategy, steps, clip=0.05, resumed=None, saved=None, **options):
    losses, average = Losses(), ExponentialMovingAverage(0.5)
    trainer = L.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", devices=ranks, strategy=strategy,
        callbacks=[losses, average], enable_progress_bar=False, enable_model_summary=False, logger=False,
        plugins=[LightningEnvironment(), WholeCheckpoints()], enable_checkpointing=False,
        use_distributed_sampler=False, accumulate_grad_batches=GLOBAL // ranks, gradient_clip_val=clip,
    )  # fmt: skip
    made = module(kind, options)
    made.hparams.clear()  # those of a config are plain values; functions are not
    trainer.fit(made, Batches(grid if kind == "diffusion" else scene, trainer), ckpt_path=resumed)
    if saved:
        trainer.save_checkpoint(folder / saved)
    averages = {name: gather(value) for name, value in average.current().items()}
    weights = [gather(x) for x in (*made.parameters(), *averages.values())]
    if trainer.is_global_zero:
        digest = sha256(b"".join(x.numpy().tobytes() for x in weights)).hexdigest()
        norm = float(torch.stack([x.double().norm() for x in averages.values()]).norm())
        (folder / f"{name}.json").write_text(
            json.dumps({"losses": losses.losses, "averages": norm, "digest": digest})
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    count = int(os.environ["WORLD_SIZE"])
    if count > 1:
        dist.init_process_group("gloo")
    for text in sys.argv[2:]:
        run(Path(sys.argv[1]), count, **json.loads(text))
