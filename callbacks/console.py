"""The output of a run: what trains, what it goes on from, what was written and scored, and a bar that counts steps."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from callbacks.sampling_progress import SamplingProgress

log = logging.getLogger(__name__)

OURS = ("callbacks", "datamodules", "lightning_modules", "scene4d")
THEIRS = ("lightning.pytorch", "lightning.fabric")
# warnings about what is meant so here, or what only the libraries can change
MEANT = (
    "No seed found",
    ".*LeafSpec",
    "Your `IterableDataset` has `__len__` defined",
    "Found .* in eval mode",
    "You have overridden `on_after_batch_transfer`",
    "The '.*_dataloader' does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "Mismatch dtype between input and weight",  # bfloat16 activations, float32 norms
    ".*callbacks used to create the checkpoint need to be provided",
    r"FSDP2-wrapped module \(.*\) returned a view tensor",  # nothing writes into outputs of a network
)


def calm_console() -> None:
    """Prints what this project reports on rank 0 and everything that warns; of Lightning only the latter.

    Lightning advertises products, says on every start which accelerators it does not use, and repeats options.
    """
    for message in MEANT:
        warnings.filterwarnings("ignore", message)
    for name in THEIRS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _Plain) for handler in logger.handlers):
            logger.addHandler(_Plain())


class _Plain(logging.Handler):
    """Writes the bare message to what sys.stdout is at that moment: a live progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(rank_zero_only, "rank", 0) == 0 or record.levelno >= logging.WARNING:
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()


class RunSummary(L.Callback):
    """Says in a few lines what trains, on what, and which checkpoint training goes on from."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One line per network."""
        device = f"{trainer.world_size} x {pl_module.device.type}"
        log.info("%s on %s, precision %s", type(pl_module).__name__, device, trainer.precision)
        for name, network in pl_module.named_children():
            if any(True for _ in network.parameters()):
                log.info("  %s", network_line(name, network))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint, if there is one."""
        if trainer.ckpt_path:
            log.info("goes on after step %d, from %s", trainer.global_step, trainer.ckpt_path)


def network_line(name: str, network: nn.Module) -> str:
    """A network's name, class, number of parameters, and how many of them train."""
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    share = {0: "none trains", total: "all train"}.get(trained, f"{_readable(trained)} train")
    kind = type(network).__name__.removeprefix("FSDP")  # FSDP2 gives the network a class of this name
    return f"{name:12} {kind:24} {_readable(total)} parameters, {share}"


def _readable(count: int) -> str:
    """Three digits and a unit."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


class StepBar(RichProgressBar):
    """Lightning's bar for runs that are counted in steps: it does not say "Epoch 0/-2"."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    @property
    def total_train_batches(self) -> int | float:
        """All batches of the run, those before a resume included: the bar counts from its first step."""
        if self.trainer.max_steps < 0:
            return super().total_train_batches
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches


def with_console(
    given: Sequence[L.Callback] | L.Callback | None, enable_progress_bar: bool | None
) -> list[L.Callback]:
    """The callbacks of a run with those of the console in front, so that the bar has ended when others report.

    Args:
        given: The trainer's callbacks; a progress bar among them stays the only one.
        enable_progress_bar: The trainer's option.
    """
    listed = [given] if isinstance(given, L.Callback) else list(given or [])
    own_bar = any(isinstance(callback, ProgressBar) for callback in listed)
    bars = [] if enable_progress_bar is False or own_bar else [StepBar()]
    progress = [] if enable_progress_bar is False else [SamplingProgress()]
    return [RunSummary(), *bars, *progress, *listed]
