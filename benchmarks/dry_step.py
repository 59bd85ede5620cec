"""One optimizer step of a training, on ranks that exist or on ranks that do not.

The step is that of the project: its network, its checkpointing, FSDP2 or DDP, the config's optimizer. In a dry run
tensors have shapes and no data, and the process group has the given number of ranks, of which one is here. What it
counts is what would happen, as far as it depends on shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.grids import Grid
from benchmarks.live_memory import LiveMemory
from benchmarks.traffic import Collective, Traffic
from benchmarks.training_setup import Setup
from callbacks.step_flops import StepFlops
from lightning_modules.video_diffusion import VideoDiffusion
from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.distributed.fsdp import shard_blocks
from scene4d.distributed.view_parallel import split_views


@dataclass(frozen=True)
class Plan:
    """How a step is shared among ranks.

    Attributes:
        strategy: "fsdp2" or "ddp".
        ranks: Number of ranks.
        replicas: Copies of the weights of FSDP2, each split over ranks / replicas (HSDP); 1 splits over all.
        checkpointing: What the backward pass computes again.
        accumulated: Batches of every rank per optimizer step.
        views: Neighbouring ranks of FSDP2 that share a batch, each with some views of its grids.

    Raises:
        ValueError: The number of copies, or of ranks that share a batch, does not divide the number of ranks.
    """

    strategy: str
    ranks: int
    replicas: int = 1
    checkpointing: str = "none"
    accumulated: int = 1
    views: int = 1

    def __post_init__(self) -> None:
        if self.ranks % self.replicas:
            raise ValueError(
                f"{self.ranks} GPUs cannot hold {self.replicas} copies of the weights of equal size"
            )
        if self.ranks % self.views:
            raise ValueError(
                f"{self.ranks} GPUs cannot be grouped by {self.views}, each on some views of a grid"
            )


@dataclass
class Step:
    """What a rank needs for a step; bytes, and floating point operations of one batch.

    Attributes:
        parameters: Its part of the weights and the autoencoder.
        optimizer: Its part of the optimizer's state and of the averages.
        gradients: Its part of the gradients.
        buckets: What DDP keeps beside the gradients.
        peak: The most that is alive at one time, all of the above included.
        gathered: The part of `peak` that holds whole weights and gradients.
        flops: All that a batch computes.
        model_flops: The same without what checkpointing computes again.
        collectives: Operations between ranks of one batch.
    """

    parameters: int = 0
    optimizer: int = 0
    gradients: int = 0
    buckets: int = 0
    peak: int = 0
    gathered: int = 0
    flops: int = 0
    model_flops: int = 0
    collectives: list[Collective] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Bytes that live from step to step."""
        return self.parameters + self.optimizer + self.gradients + self.buckets

    @property
    def activations(self) -> int:
        """What else is alive at the peak: activations, whole gradients of a block, and temporaries."""
        return self.peak - self.kept - self.gathered


class Ready:
    """A network with its optimizer on this rank, and what a step does.

    Args:
        setup: The training.
        grid: Grids of a batch.
        plan: How it is shared among ranks.
        network: What `network_of` returns; on the meta device it gets tensors without data.
    """

    def __init__(self, setup: Setup, grid: Grid, plan: Plan, network: nn.Module) -> None:
        self.setup, self.grid, self.plan = setup, grid, plan
        self.network = self.called = network
        dry = next(network.parameters()).is_meta
        if dry:
            network.to_empty(device="cpu")
        self.buckets: list[Tensor] = []
        if plan.strategy == "ddp" and dry:  # the real one looks into tensors
            self.buckets = [torch.empty(sum(p.numel() for p in self.trained()), dtype=torch.float32)]
        elif plan.strategy == "ddp":
            self.called = DistributedDataParallel(network)
        self.optimizer = setup.module.make_optimizer(self.trained())
        for group in self.optimizer.param_groups:
            group["foreach"] = True  # the default on a GPU, which needs more memory
        self.averages = [p.detach().clone() for p in self.trained()] if setup.averages else []
        self._fill_state()

    def trained(self) -> list[nn.Parameter]:
        """Parameters that train."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def _fill_state(self) -> None:
        """Makes the optimizer's state, and the gradients of earlier batches of the step."""
        for parameter in self.trained():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        if self.plan.accumulated == 1:
            self.optimizer.zero_grad()

    def inputs(self) -> tuple[Tensor, ...]:
        """What a batch gives to `loss`."""
        grid = self.grid
        if isinstance(self.setup.module, VideoDiffusion):
            network = self.network
            latents = torch.zeros_like(grid.latents(network.channels))  # type: ignore[arg-type]
            text = torch.zeros(grid.batch, network.text_length, network.base.config.text_dim)  # type: ignore
            given = torch.zeros(latents.shape[:3], dtype=torch.bool)
            return latents, given, text, torch.full((grid.batch,), 0.5), torch.zeros_like(latents)
        return (torch.zeros(grid.batch, grid.views, grid.frames, 3, grid.height, grid.width),)

    def loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The loss of a batch; of a reconstruction, the mean of its predictions in place of rendering and losses."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.setup.half):
            if isinstance(self.setup.module, VideoDiffusion):
                return self.setup.module.flow.loss(self.called, *inputs).mean()
            found = vars(self.called(*inputs))
            tensors = [x for x in [*found.values(), *found["poses"]] if isinstance(x, Tensor)]
            return sum((x.float().mean() for x in tensors if x.requires_grad), start=torch.zeros(()))

    def backward(self) -> None:
        """Gradients of a batch."""
        self.loss(self.inputs()).backward()

    def update(self) -> None:
        """Clips, and takes the optimizer step."""
        nn.utils.clip_grad_norm_(self.trained(), 1.0, foreach=True)
        self.optimizer.step()

    def state(self) -> Step:
        """Bytes that live from step to step; call it while there are gradients."""
        states = [
            x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, Tensor)
        ]
        gradients = [p.grad for p in self.trained() if p.grad is not None]
        weights = [*self.network.parameters(), *self.network.buffers()]
        return Step(
            parameters=stored(weights) + self.setup.autoencoder,
            optimizer=stored(states + self.averages),
            gradients=stored(gradients),
            buckets=stored(self.buckets),
        )


def network_of(setup: Setup, plan: Plan) -> nn.Module:
    """The network on the default device, checkpointed, and split over the ranks if the strategy does so."""
    network = setup.network()
    checkpoint_blocks(network, plan.checkpointing)  # type: ignore[arg-type]
    if plan.strategy == "fsdp2":
        half = torch.bfloat16 if setup.half else None  # as `Training` does
        shard_blocks(network, mesh_of(plan), half)  # type: ignore[arg-type]
        if plan.views > 1:
            shape = (plan.ranks // plan.views, plan.views)
            split_views(network, init_device_mesh("cpu", shape, mesh_dim_names=("batch", "view"))["view"])
    return network


def stored(tensors: list[Tensor]) -> int:
    """Bytes of the storages of tensors, of this rank's part where they are split."""
    memory = LiveMemory()
    memory.add(tensors)
    return memory.now


def mesh_of(plan: Plan) -> DeviceMesh:
    """One dimension, or two where the weights have copies."""
    if plan.replicas == 1:
        return init_device_mesh("cpu", (plan.ranks,), mesh_dim_names=("shard",))
    shape = (plan.replicas, plan.ranks // plan.replicas)
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))


def dry_step(setup: Setup, grid: Grid, plan: Plan) -> Step:
    """Counts what a rank needs for a step, and what it computes and sends.

    Raises:
        ValueError: The views of a grid cannot be split.
    """
    with absent_ranks(plan.ranks):
        with torch.device("meta"):
            network = network_of(setup, plan)
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _counted(Ready(setup, grid, plan, network))


def _counted(ready: Ready) -> Step:
    memory, traffic, everything, model = LiveMemory(), Traffic(), StepFlops(), StepFlops()
    memory.add([*ready.network.parameters(), *ready.network.buffers(), *ready.averages, *ready.buckets])
    memory.add(x for state in ready.optimizer.state.values() for x in state.values())
    memory.add(p.grad for p in ready.trained())
    undo = model.watch(ready.network.blocks)  # type: ignore[arg-type]
    with memory:
        with traffic, everything, model:
            loss = ready.loss(ready.inputs())
            model.backward = True
            loss.backward()
        undo()
        step = ready.state()
        del loss
        ready.update()
    step.peak, step.gathered = memory.peak + ready.setup.autoencoder, memory.gathered_at_peak
    step.flops, step.model_flops = everything.get_total_flops(), model.get_total_flops()
    step.collectives = traffic.collectives + _reduced_by_ddp(ready.plan, ready.buckets)
    return step


def _reduced_by_ddp(plan: Plan, buckets: list[Tensor]) -> list[Collective]:
    return [
        Collective("all-reduce", x.numel() * x.element_size(), tuple(range(plan.ranks)))
        for x in buckets
        if plan.ranks > 1
    ]


@contextmanager
def absent_ranks(count: int) -> Iterator[None]:
    """A process group of so many ranks, of which this process is the first and the others do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
