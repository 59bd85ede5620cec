import pytest
import torch

from lightning_modules.schedules import StagedWarmup
from scene4d.stages import Stage


def test_every_stage_warms_up_to_its_own_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = StagedWarmup(
        optimizer, [Stage(4, warmup_steps=2), Stage(7, lr=1.0, warmup_steps=2), Stage(9, lr=4.0)]
    )
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 2, 2, 2, 0.5, 1, 1, 4, 4, 4, 4])
