"""Means over items that are unevenly shared among ranks."""

import pytest
import torch
import torch.distributed as dist

from scene4d.distributed.agreement import share_of_mean

CPU = torch.device("cpu")


def test_a_single_process_keeps_its_mean():
    assert share_of_mean(3, CPU) == share_of_mean(0, CPU) == 1.0


@pytest.mark.parametrize("counts", [(4, 4), (3, 1), (2, 0), (0, 0), (1, 2, 0)])
def test_over_ranks_every_item_counts_alike(monkeypatch, counts):
    """The average over ranks of weight times mean is the mean over all items."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: len(counts))
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.fill_(sum(counts)))
    means = [10.0 + rank for rank in range(len(counts))]
    parts = [share_of_mean(count, CPU) * mean for count, mean in zip(counts, means)]
    total = sum(count * mean for count, mean in zip(counts, means))
    assert sum(parts) / len(counts) == pytest.approx(total / max(sum(counts), 1))
