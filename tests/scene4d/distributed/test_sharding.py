"""Reading and writing parameters that FSDP2 made DTensors (one gloo rank; values are those of plain tensors)."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from scene4d.distributed.sharding import gather, local, reshard, scatter


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture(params=["plain", "sharded"])
def network(request):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    if request.param == "sharded":
        mesh = request.getfixturevalue("mesh")
        for part in (*made, made):
            fully_shard(part, mesh=mesh)
    return made


def test_gather_copies_and_scatter_splits_alike(network):
    for parameter in network.parameters():
        whole = gather(parameter)
        assert type(whole) is torch.Tensor and whole.shape == parameter.shape
        again = scatter(whole, parameter)
        assert isinstance(again, DTensor) == isinstance(parameter, DTensor)
        assert torch.equal(gather(again), whole)
        whole.zero_()
        assert gather(parameter).any()


def test_local_values_share_memory_and_reach_the_next_forward(network):
    x = torch.ones(1, 4)
    with torch.no_grad():
        network(x)  # leaves the root gathered
        reshard(network)
        for parameter in network.parameters():
            local(parameter).zero_()
        assert not network(x).any()
