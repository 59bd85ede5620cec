"""The time in blocks: waiting around them does not count, and compiling and checkpointing stay as they are."""

import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from callbacks.block_times import BlockTimes, seconds
from callbacks.rank_figures import RankTimes, rank_figures

CPU = torch.device("cpu")


class Block(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)

    def forward(self, x):
        time.sleep(0.01)
        return super().forward(x)


def taken(times):
    return [seconds(*pair) for pair in times.take()]


def test_waiting_around_a_block_does_not_count():
    """FSDP2 gathers parameters in a hook that it puts in front of others, and frees them in one behind."""
    block, times = Block(), BlockTimes()
    block.register_forward_pre_hook(lambda *_: time.sleep(0.1), prepend=True)
    block.register_forward_hook(lambda *_: time.sleep(0.1))
    times.watch([block], CPU)
    times.active = True
    block(torch.ones(1, 8))
    (measured,) = taken(times)
    assert 0.01 <= measured < 0.09


def test_what_checkpoints_compute_again_and_validations_do_not_count():
    block, times = Block(), BlockTimes()
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    times.watch([block], CPU)
    times.active = True
    loss = block(torch.ones(1, 8, requires_grad=True)).sum()
    loss.backward()
    times.active = False
    block(torch.ones(1, 8))
    assert len(taken(times)) == 1 and not taken(times)
    times.active = True
    times.remove()
    times.active = True
    block(torch.ones(1, 8))
    assert not taken(times)


def test_a_compiled_block_stays_one_graph():
    graphs, block, times = [], nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), BlockTimes()
    x = torch.ones(2, 8)
    expected = block(x)
    block.compile(backend=lambda graph, _: graphs.append(graph) or graph)
    times.watch([block], CPU)
    times.active = True
    for _ in range(3):
        assert torch.equal(block(x), expected)
    assert len(taken(times)) == 3
    assert len(graphs) == 1  # hooks within it would have cut it


def rank(own, data=1.0, steps=2, memory=1.0):
    return RankTimes(steps, [data * steps, 2.0 * steps, 3.0 * steps, 4.0 * steps], own * steps, 10.0, memory)


def test_figures_of_many_ranks():
    figures = rank_figures([rank(1.0), rank(1.0, memory=7.0), rank(1.0), rank(3.0, data=5.0)], peak=4.0)
    assert figures["train/straggler_spread"] == 3 and figures["train/straggler_rank"] == 3
    assert figures["train/seconds_data"] == 2 and figures["train/seconds_data_slowest"] == 5
    assert figures["train/memory_gb"] == 7
    assert figures["train/tflops_per_second"] == pytest.approx(40 / (20 + 20 + 20 + 28))  # of one device
    assert figures["train/mfu"] == pytest.approx(figures["train/tflops_per_second"] / 4)
    assert sum(figures[f"train/share_{x}"] for x in ("data", "forward", "backward", "optimizer")) == 1


def test_figures_of_one_rank_and_of_ranks_without_a_timed_step():
    alone = rank_figures([rank(1.0)], peak=None)
    assert not {"train/mfu", "train/straggler_rank", "train/seconds_data_slowest"} & alone.keys()
    assert rank_figures([rank(0.0, steps=0)], None) == {}
    some = rank_figures([rank(0.0, steps=0, memory=9.0), rank(1.0)], None)
    assert some["train/straggler_rank"] == 1 and some["train/memory_gb"] == 9
