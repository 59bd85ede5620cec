"""Averaging on parameters that FSDP2 made DTensors (one gloo rank; values are those of plain tensors)."""

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from callbacks.ema import ExponentialMovingAverage, trainable
from scene4d.distributed.sharding import gather, local, reshard, scatter


class Holder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded(mesh) -> Holder:
    module = Holder()
    for layer in module.network:
        fully_shard(layer, mesh=mesh)
    fully_shard(module.network, mesh=mesh)
    return module


def run(module: Holder, ema: ExponentialMovingAverage) -> None:
    ema._build(module)
    for _ in range(3):
        with torch.no_grad():
            for parameter in trainable(module).values():
                local(parameter).add_(1.0)
        ema.update(module)


def test_sharded_averages_equal_plain_ones(mesh):
    module, plain = sharded(mesh), Holder()
    ours, theirs = ExponentialMovingAverage(0.5), ExponentialMovingAverage(0.5)
    run(module, ours)
    run(plain, theirs)
    assert all(isinstance(value, DTensor) for value in ours.averages.values())
    for name, value in theirs.current().items():
        assert torch.equal(gather(ours.current()[name]), value), name


def test_swap_reaches_the_gathered_parameters_and_comes_back(mesh):
    module, ema, x = sharded(mesh), ExponentialMovingAverage(0.5), torch.ones(1, 4)
    run(module, ema)
    reference = Holder()
    reference.load_state_dict({name: gather(value) for name, value in ema.current().items()})
    trained = {name: gather(p) for name, p in trainable(module).items()}
    with torch.no_grad():
        before = module.network(x)  # leaves the root gathered
        ema._put(module)
        torch.testing.assert_close(module.network(x), reference.network(x))
        ema._put_back(module)
        assert torch.equal(module.network(x), before)
    reshard(module)
    assert all(torch.equal(gather(p), trained[name]) for name, p in trainable(module).items())


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_during_validation_holds_the_trained_values(mesh, whole):
    """Whole weights, or a distributed checkpoint of shards."""
    module, ema = sharded(mesh), ExponentialMovingAverage(0.5)
    run(module, ema)
    trained = {name: gather(p) for name, p in trainable(module).items()}
    ema._put(module)
    options = StateDictOptions(full_state_dict=whole, cpu_offload=True)  # as Lightning asks for them
    for name, value in get_model_state_dict(module, options=options).items():
        assert isinstance(value, DTensor) != whole and torch.equal(gather(value), trained[name]), name
    assert all(torch.equal(gather(p), gather(ema.averages[name])) for name, p in trainable(module).items())


def test_state_goes_back_to_shards(mesh):
    module, ema, again = sharded(mesh), ExponentialMovingAverage(0.5), ExponentialMovingAverage(0.5)
    run(module, ema)
    again.load_state_dict(ema.state_dict())
    again._build(module)
    for name, value in again.averages.items():
        assert isinstance(value, DTensor) and torch.equal(gather(value), gather(ema.averages[name]))
    parameter = next(module.parameters())
    assert scatter(torch.zeros(parameter.shape), parameter).placements == parameter.placements
