"""The strategy `fsdp2`: parameters, gradients and optimizer split over all ranks, and checkpoints that ranks share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from callbacks.checkpoint_files import read_checkpoint
from scene4d.distributed.checkpoint_folder import read_folder, write_folder
from scene4d.distributed.fsdp import SHARD
from scene4d.distributed.sharding import scatter


class FSDP2(ModelParallelStrategy):
    """Splits parameters, gradients and the optimizer's state over ranks (FSDP2), each of which has its own batch.

    `--trainer.strategy fsdp2` splits over all ranks. Numbers are those of `ddp`, up to the order of sums. Checkpoints
    are folders, to which every rank writes its part at the same time; they can be read on any number of ranks, by any
    strategy. The LightningModule splits its network in `configure_model`.

    Args:
        replicas: The number of copies of the parameters, each split over ranks / replicas ranks (hybrid sharding).
            With as many as nodes, only gradients are sent between nodes.
        timeout: Time after which a rank gives up waiting for the others.

    Raises:
        ValueError: `replicas` does not divide the number of ranks.
    """

    def __init__(self, replicas: int = 1, timeout: timedelta | None = default_pg_timeout) -> None:
        super().__init__(timeout=timeout)
        if replicas < 1:
            raise ValueError(f"trainer.strategy: replicas must be at least 1, got {replicas}")
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Starts communication, and arranges the ranks in the mesh along which parameters are split."""
        ranks = self.num_nodes * self.num_processes
        if ranks % self.replicas:
            raise ValueError(
                f"trainer.strategy: replicas {self.replicas} must divide the number of ranks, which is {ranks}"
            )
        self._data_parallel_size, self._tensor_parallel_size = ranks, 1  # Lightning makes a mesh of its own
        super().setup_environment()
        self._device_mesh = self._mesh(ranks)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def _mesh(self, ranks: int) -> DeviceMesh:
        device = self.root_device.type
        if self.replicas == 1:
            return init_device_mesh(device, (ranks,), mesh_dim_names=(SHARD,))
        shape = (self.replicas, ranks // self.replicas)
        return init_device_mesh(device, shape, mesh_dim_names=("replicate", SHARD))

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The number of ranks that read different data, and which of them this one is."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Before, as with other strategies: parameters are split when the model is configured."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning gives the optimizer its state back, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's rows of the weights, as DTensors."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """This rank's rows of what the optimizer keeps, as DTensors."""
        return Strategy.optimizer_state(self, optimizer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Gives the weights of `load_checkpoint` to the model; of whole ones, each rank takes its rows."""
        assert self.lightning_module is not None
        own, found = self.lightning_module.state_dict(), checkpoint["state_dict"]
        fitting = {n: x for n, x in found.items() if n in own and x.shape == own[n].shape}
        found = {**found, **{n: scatter(x, own[n]) for n, x in fitting.items() if _is_split(own[n])}}
        self.lightning_module.load_state_dict(found, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives what `load_checkpoint` found to the optimizers; of whole tensors, each rank takes its rows."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            kept = {number: _split_as(parameters[number], x) for number, x in state["state"].items()}
            optimizer.load_state_dict({**state, "state": kept})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object = None
    ) -> None:
        """Writes a folder, each rank its own file in it; every rank must call it.

        Raises:
            OSError: The disk is full or read-only on any rank; names the file.
            ValueError: The path is an address, or that of a file.
        """
        write_folder(checkpoint, self._path(filepath), self.device_mesh)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a folder, each rank its own rows of what is split, or a file that another strategy has written.

        Raises:
            ValueError: It is missing, damaged, or no checkpoint; names the file.
        """
        path = self._path(checkpoint_path)
        return read_folder(path, self.device_mesh) if path.is_dir() else read_checkpoint(path)

    def _path(self, given: str | Path) -> Path:
        """Rank 0's path."""
        if "://" in str(given):
            raise ValueError(f"checkpoint {str(given)!r}: fsdp2 writes to folders, not to addresses")
        return Path(self.broadcast(given))


def _is_split(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def _split_as(parameter: Tensor, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What the optimizer keeps for a parameter, with tensors of its shape split as it is."""
    return {
        name: scatter(x, parameter) if isinstance(x, Tensor) and x.shape == parameter.shape else x
        for name, x in kept.items()
    }


StrategyRegistry.register(
    "fsdp2", FSDP2, description="parameters, gradients and optimizer split over all ranks"
)
