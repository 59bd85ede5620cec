"""Trains several architectures side by side, from the same weights and on the same batches."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import mean, median

import lightning as L
import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lightning_modules import VideoDiffusion
from lightning_modules.from_config import training_parser
from scene4d.evaluation.fixed_losses import FixedLosses
from scene4d.latent_grid import latent_reference_mask
from scene4d.networks.wan.invariants import TinyInput, base_output
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)
LAST = 50  # steps whose losses are averaged at the end


@dataclass(frozen=True)
class Result:
    """How the training of an architecture went.

    Attributes:
        difference: Largest difference to the base model on one view, before the first step.
        train_loss: Mean loss of the last 50 steps.
        val_loss: Loss of the first held-out batch of every source at fixed noise (`FixedLosses`) at the end, the mean
            over sources.
        seconds: Median duration of a step.
        time_ratio: Median over the steps of the duration of a step over that of the first architecture's.
        losses: Loss of every step.
    """

    difference: float
    train_loss: float
    val_loss: float
    seconds: float
    time_ratio: float
    losses: list[float]


@dataclass
class Trainee:
    """A model with its optimizer, and what its steps gave."""

    model: VideoDiffusion
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    clip: float
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, batch: SceneBatch, seed: int) -> None:
        """Takes one optimizer step, whose noise and text dropout follow from the seed."""
        start = time.perf_counter()
        loss = training_loss(self.model, batch, torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_([p for p in self.model.network.parameters() if p.requires_grad], self.clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(float(loss.detach()))


def training_loss(model: VideoDiffusion, batch: SceneBatch, generator: torch.Generator) -> Float[Tensor, ""]:
    """The loss of `VideoDiffusion.training_step`, without a trainer."""
    assert batch.latents is not None
    sigmas = model.flow.draw_sigmas(len(batch.latents), generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    text = model.captions.embed_for_training(batch, generator)
    mask = latent_reference_mask(batch.reference)
    return model.flow.loss(model.network, batch.latents, mask, text, sigmas, noise).mean()


def train(configs: Sequence[str], architectures: Mapping[str, str], steps: int) -> dict[str, Result]:
    """Trains every architecture, one step of each in turn, and logs a table in Markdown.

    Args:
        configs: Config files of the training, later ones over earlier ones.
        architectures: Class paths by name; times are compared with those of the first.
        steps: Optimizer steps of each.

    Raises:
        ValueError: An architecture does not equal the base on one view, or the config asks for what is not compared
            here.
    """
    trainees, data = {}, None
    for name, class_path in architectures.items():
        trainees[name], data = trainee(configs, class_path, steps)
    assert data is not None
    held_out = list(validation(data, next(iter(trainees.values())).model))
    differences = {name: from_base(x.model, held_out[0]) for name, x in trainees.items()}
    for number, batch in enumerate(islice(data.train_dataloader(), steps)):
        batch = with_latents(batch, next(iter(trainees.values())).model)
        for each in trainees.values():
            each.step(batch, seed=number)
    first = next(iter(trainees.values()))
    results = {
        name: Result(
            difference=differences[name],
            train_loss=mean(each.losses[-LAST:]),
            val_loss=validation_loss(each.model, held_out),
            seconds=median(each.seconds),
            time_ratio=median(own / base for own, base in zip(each.seconds, first.seconds)),
            losses=each.losses,
        )
        for name, each in trainees.items()
    }
    show(results, trainees, steps, configs)
    return results


def trainee(configs: Sequence[str], class_path: str, steps: int) -> tuple[Trainee, L.LightningDataModule]:
    """Builds the model and the data of a config with another architecture."""
    network = {"init_args": {"architecture": {"class_path": class_path}}}
    change = json.dumps({"model": {"init_args": {"network": network}}})
    parser = training_parser()
    options = parser.parse_args([x for part in (*configs, change) for x in ("--config", part)])
    clip = options.trainer.gradient_clip_val or float("inf")
    with suppress(KeyError):
        del options["trainer"]
    model, data = (parser.instantiate(options)[part] for part in ("model", "data"))
    model.trainable = None  # what the architecture says
    torch.manual_seed(0)
    model.configure_model()
    optimizer = model.make_optimizer([p for p in model.network.parameters() if p.requires_grad])
    schedule = None if model.make_scheduler is None else model.make_scheduler(optimizer, steps)
    data.setup("fit")
    return Trainee(model.train(), optimizer, schedule, clip), data


@torch.no_grad()
def with_latents(batch: SceneBatch, model: VideoDiffusion) -> SceneBatch:
    """Encodes a batch; all models have the same autoencoder."""
    return replace(batch, latents=model.generator.latents(batch))


def validation(data: L.LightningDataModule, model: VideoDiffusion) -> Iterator[SceneBatch]:
    """The first held-out batch of every source."""
    for loader in data.val_dataloader():
        yield with_latents(next(iter(loader)), model)


def validation_loss(model: VideoDiffusion, batches: list[SceneBatch]) -> float:
    """The mean over sources of the loss at fixed noise."""
    losses = FixedLosses()
    losses.start(torch.device("cpu"))
    for batch in batches:
        losses.add(model.generator, batch)
    return mean(row.value for row in losses.compute())


@torch.no_grad()
def from_base(model: VideoDiffusion, batch: SceneBatch) -> float:
    """Largest difference between the network and the base that it was made from, on one view of a scene.

    Raises:
        ValueError: They differ.
    """
    network = model.network
    base = WanTransformer3DModel.from_config(network.base.config)
    own = network.base.state_dict()
    base.load_state_dict({name: own[name] for name in base.state_dict()})
    assert batch.latents is not None and batch.text is not None
    given = TinyInput(batch.latents[:1, :1], torch.tensor([0.5]), batch.text[:1])
    difference = float((network(*given) - base_output(base, given)).abs().max())
    if not difference <= 1e-5:
        raise ValueError(
            f"{type(network.architecture).__name__} differs from its base by {difference} on one view"
        )
    return difference


def show(
    results: Mapping[str, Result], trainees: Mapping[str, Trainee], steps: int, configs: Sequence[str]
) -> None:
    """Logs a table in Markdown."""
    log.info("\n%s, %d steps each\n", ", ".join(configs), steps)
    log.info(
        "| | trained parameters | difference to the base at one view | loss of the last %d steps | "
        "fixed validation loss | median step | time ratio |",
        min(LAST, steps),
    )
    log.info("|---|---|---|---|---|---|---|")
    for name, x in results.items():
        trained = sum(p.numel() for p in trainees[name].model.network.parameters() if p.requires_grad)
        figures = f"{x.train_loss:.4f} | {x.val_loss:.4f} | {x.seconds:.2f} s | {x.time_ratio:.2f}"
        log.info("| %s | %.3f M | %.1e | %s |", name, trained / 1e6, x.difference, figures)
