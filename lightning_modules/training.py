"""The part that all LightningModules share: optimizer and schedule, weights to start from, and refusals."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.checkpoint_contents import checkpoint_tensors
from lightning_modules.frozen_base import FrozenBase, base_files, refuse_other_base
from lightning_modules.loss_figures import LossFigures
from lightning_modules.schedules import StagedWarmup
from lightning_modules.step_watch import StepWatch
from scene4d.distributed.checkpointing import Checkpointing, checkpoint_blocks
from scene4d.distributed.compiling import compile_blocks
from scene4d.distributed.fsdp import is_sharding, shard_blocks
from scene4d.distributed.view_parallel import split_views
from scene4d.evaluation.rows import Row
from scene4d.networks.contracts import TrainedNetwork
from scene4d.networks.deferred import allocate, deferred_weights, fill
from scene4d.networks.pretrained import checkpoint_averages, load_initial_weights, refuse_non_finite
from scene4d.networks.recorded_base import recorded_bases
from scene4d.networks.trainable import trainable_parameters
from scene4d.stages import Stage, check_stages

log = logging.getLogger(__name__)

Schedule = Callable[[Optimizer, int], LRScheduler]  # of an optimizer and the number of optimizer steps
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Training(L.LightningModule):
    """Builds `network`, loads and freezes its weights, and makes optimizer and schedule.

    Weights that no file and no checkpoint has given are fine to train, and refused in `validate`, `test` and
    `predict`. These use the averages of a checkpoint that has them (see `callbacks.ExponentialMovingAverage`).

    Training stops on all ranks when a loss or the gradient is NaN or infinite, and such weights are neither saved nor
    loaded. The learning rate and the norm of the gradient before clipping are logged as `train/learning_rate` and
    `train/gradient_norm`, every `trainer.log_every_n_steps` steps.

    Args:
        network: Builds the network.
        optimizer: Builds the optimizer from the parameters that train.
        lr_scheduler: Builds a schedule from the optimizer and the number of optimizer steps of the run; it is
            stepped after every optimizer step. None keeps the rate constant.
        initial_weights: Weight files that are loaded in this order, later ones over earlier ones.
        trainable: Regular expressions; parameters whose name matches one are trained, all others are frozen.
        stages: Learning rates of a training in stages, which take the place of `lr_scheduler`.

    Raises:
        ValueError: There are stages and a schedule, or a stage is impossible.
    """

    network: TrainedNetwork  # after `configure_model`
    harmless: Sequence[str] = ()  # prefixes of weights whose initial values change nothing
    checkpointing: Checkpointing = "none"
    compile_network = False

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerCallable,
        lr_scheduler: Schedule | None,
        initial_weights: Sequence[str],
        trainable: Sequence[str] | None,
        stages: Sequence[Stage] = (),
    ) -> None:
        super().__init__()
        if stages and lr_scheduler is not None:
            raise ValueError(
                "stages have learning rates of their own: set model.init_args.lr_scheduler to null"
            )
        check_stages(stages)
        self.stages = list(stages)
        self.make_network, self.make_optimizer, self.make_scheduler = network, optimizer, lr_scheduler
        self.initial_weights = list(initial_weights or [])  # null in a config means none, too
        self.trainable = None if trainable is None else list(trainable)
        self.untrained: list[str] = []  # names that still have their initial values
        self.results: dict[str, list[Row]] = {}
        self.pictures: dict[str, Float[Tensor, "c h w"]] = {}
        self.figures, self.frozen_base = LossFigures(), FrozenBase()
        self.watch = StepWatch(self.figures)

    def setup(self, stage: str) -> None:
        """Refuses precisions that keep no float32 weights, and strategies whose ranks would train apart.

        Raises:
            ValueError: The trainer's precision or strategy is another one; names those that work.
        """
        known = isinstance(self.trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        if not known and not is_sharding(self.device_mesh):
            name = type(self.trainer.strategy).__name__
            raise ValueError(f"trainer.strategy is {name}, which is not supported; use auto, ddp or fsdp2")
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision is {self.trainer.precision}, which keeps no float32 copy of the weights that "
                f"train; use {' or '.join(PRECISIONS)}"
            )

    def configure_model(self) -> None:
        """Builds the network once, on whatever device the strategy sets up.

        Raises:
            ValueError: Weights are missing or of another architecture, a pattern matches no parameter, or the
                network lacks members of `TrainedNetwork`.
        """
        if self.built:
            return
        with deferred_weights(is_sharding(self.device_mesh), initial=bool(self.initial_weights)):
            network = self.make_network()
        if not isinstance(network, TrainedNetwork):
            raise ValueError(
                f"network: {type(network).__name__} lacks members of scene4d.networks.contracts.TrainedNetwork"
            )
        # before weights are loaded: what trains becomes float32 and keeps all digits of the files
        count = len(trainable_parameters(network, self.patterns(network)))
        log.debug("%d parameter tensors of the network train", count)
        self._distribute(network)
        self.untrained = list(network.state_dict())
        if self.initial_weights:
            self.untrained = load_initial_weights(network, self.initial_weights)
        self.frozen_base.note(network, self.untrained)
        if network.has_weights:
            self.untrained = []
        self.network = network
        self.refuse_another_base()

    def _distribute(self, network: TrainedNetwork) -> None:
        """Changes the network's blocks for training on large machines, in the order in which this works."""
        checkpoint_blocks(network, self.checkpointing)
        if self.compile_network:
            compile_blocks(network)
        if is_sharding(mesh := self.device_mesh):
            half = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard_blocks(network, mesh, half)
            assert isinstance(network, nn.Module)
            if (sharing := getattr(self.trainer.strategy, "view_mesh", None)) is not None:
                split_views(network, sharing)
            if files := getattr(network, "deferred", {}):
                fill(network, files, self.trainer.strategy.root_device)
                refuse_non_finite(network.state_dict(), "pretrained weights")
            allocate(network, self.trainer.strategy.root_device)

    def refuse_another_base(self) -> None:
        """Checks that a checkpoint without its base, as the last of `initial_weights`, has been put onto that base.

        A subclass that builds more than the network calls it again, when all of the base is there.

        Raises:
            ValueError: It is another one; names both.
        """
        for record in recorded_bases(self.initial_weights[-1:]):
            if all(hasattr(self, name.split(".")[0]) for name in record["names"]):
                refuse_other_base(self.state_dict(), record, base_files(self, self.initial_weights))

    def patterns(self, network: TrainedNetwork) -> Sequence[str]:
        """Regular expressions of the names of parameters that train."""
        assert self.trainable is not None, "modules whose networks have no default demand it"
        return self.trainable

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of what trains and, unless the rate is constant, its schedule over the whole run.

        Raises:
            ValueError: A schedule has no end, because the run is limited by time alone.
        """
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.stages:
            return _by_step(optimizer, StagedWarmup(optimizer, self.stages))
        if self.make_scheduler is None:
            return optimizer
        steps = (
            self.trainer.estimated_stepping_batches if self.trainer.max_steps < 0 else self.trainer.max_steps
        )
        if steps == math.inf:
            raise ValueError("lr_scheduler needs the number of optimizer steps: give trainer.max_steps")
        return _by_step(optimizer, self.make_scheduler(optimizer, int(steps)))

    @property
    def built(self) -> bool:
        """Whether `configure_model` has built the network."""
        return hasattr(self, "network")

    @property
    def fitting(self) -> bool:
        """Whether this is training, its validation included (where `trainer.validating` is true, too)."""
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def configure_callbacks(self) -> list[L.Callback]:
        """What every training needs, whatever the config lists."""
        return [self.watch]

    def log_means(self, means: dict[str, Float[Tensor, ""]], count: int, shown: Sequence[str]) -> None:
        """Keeps figures of a batch of this rank for the log, which gets their means over all ranks.

        Args:
            means: Means over the samples of the batch, by name without "train/".
            count: The number of samples.
            shown: Names of what the progress bar shows at once, of rank 0.
        """
        found = {f"train/{name}": value for name, value in means.items()}
        self.log_dict({f"train/{name}": means[name] for name in shown}, prog_bar=True, logger=False)
        self.figures.add(found, count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what has diverged out of every checkpoint, and frozen weights that files give again.

        Raises:
            ValueError: The last step has diverged, or a weight is not finite.
        """
        self.watch.settle()
        refuse_non_finite(checkpoint_tensors(checkpoint), "no checkpoint is written")
        self.frozen_base.remove(self, checkpoint, base_files(self, self.initial_weights))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint holds every weight but those of its base. Outside training its averages replace the trained.

        Raises:
            ValueError: A weight or an average is not finite, or this run has another base than the checkpoint.
        """
        path = None if self._trainer is None else self.trainer.ckpt_path
        refuse_non_finite(checkpoint_tensors(checkpoint), f"checkpoint {str(path or 'file')!r} is of no use")
        self.frozen_base.restore(self, checkpoint, base_files(self, self.initial_weights))
        self.untrained = []
        if not self.fitting:
            averages = checkpoint_averages(checkpoint)
            checkpoint["state_dict"].update(averages)
            which = "averaged" if averages else "as trained, since it has no averages"
            log.info("weights of %s: %s", path or "the checkpoint", which)

    def on_train_start(self) -> None:
        """Says which parts of the network start untrained."""
        if self.initial_weights and self._untrained_parts():
            rank_zero_warn(f"no weights were given for {self._untrained_parts()}: it starts from scratch")
        self.untrained = []

    def on_validation_start(self) -> None:
        """Refuses to judge what was never trained; validation inside `fit` is fine."""
        if not self.fitting:
            self.refuse_untrained()

    def on_test_start(self) -> None:
        """Refuses to judge what was never trained."""
        self.refuse_untrained()

    def on_predict_start(self) -> None:
        """Refuses to use what was never trained."""
        self.refuse_untrained()

    def refuse_untrained(self) -> None:
        """Checks that training has shaped every part of the network.

        Raises:
            ValueError: Weights are missing; names the parts that have none.
        """
        if self._untrained_parts():
            raise ValueError(
                f"no weights were given for {self._untrained_parts()}; add the file that has them to "
                f"initial_weights={self.initial_weights} or give --ckpt_path"
            )

    def _untrained_parts(self) -> str:
        """Parts whose output no training has shaped, with the number of their tensors."""
        counts = Counter(
            name.split(".")[0] for name in self.untrained if not name.startswith(tuple(self.harmless))
        )
        return ", ".join(f"{part} ({count} tensors)" for part, count in counts.items())

    def step_generator(self, batch_index: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers that depend on the seed, the number of the batch and the rank alone.

        A resumed run repeats those of an uninterrupted one. The CPU's generator reads 32 bits of a seed: batches
        are counted through all ranks, so that no two of 2^32 meet, and the run's seed decides where counting starts.

        Args:
            batch_index: Number of the batch in the epoch, as `training_step` gets it.
            device: Where numbers are drawn; devices of different kinds draw different ones.
        """
        accumulated = self.trainer.accumulate_grad_batches
        number = self.global_step * accumulated + batch_index % accumulated
        start = torch.initial_seed() * 0x9E3779B1  # neighbouring seeds start far from each other
        ranks = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        return torch.Generator(device).manual_seed(
            (start + number * ranks["num_replicas"] + ranks["rank"]) % 2**32
        )


def _by_step(optimizer: Optimizer, schedule: LRScheduler) -> OptimizerLRScheduler:
    """An optimizer with a schedule that is stepped after every optimizer step."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
