"""The loss of held-out scenes is the same number whenever and however they are batched."""

import math

import pytest
import torch

from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.evaluation.fixed_losses import FixedLosses
from scene4d.pipelines import GridGenerator
from scene4d.types import SceneBatch


def batch(keys: list[str]) -> SceneBatch:
    latents = torch.stack([torch.full((2, 2, 4, 3, 3), float(ord(key))) / 100 for key in keys])
    reference = torch.zeros(len(keys), 2, 5, dtype=torch.bool)
    reference[:, 0] = True
    return SceneBatch(
        images=torch.zeros(len(keys), 2, 5, 3, 24, 24), cameras=None, frame_times=torch.zeros(len(keys), 5),
        reference=reference, source=["objects"] * len(keys), keys=keys, latents=latents,
    )  # fmt: skip


def losses(batches: list[SceneBatch], flow: RectifiedFlow) -> tuple[float, int]:
    generator = GridGenerator(
        lambda x, *_: x * 0.5, torch.nn.Identity(), flow
    )  # any function of the noisy grid
    evaluation = FixedLosses()
    evaluation.start(torch.device("cpu"))
    for one in batches:
        evaluation.add(generator, one)
    row, *levels = evaluation.compute()
    assert (row.source, row.method, row.score) == ("objects", "network", "loss")
    assert [level.score for level in levels] == [f"loss_at_{sigma}" for sigma in (0.25, 0.5, 0.75, 1.0)]
    assert sum(level.value for level in levels) / 4 == pytest.approx(row.value, rel=1e-6)
    return row.value, row.count


def test_losses_do_not_depend_on_batches_and_count_scenes_once():
    flow = RectifiedFlow("data")
    together, count = losses([batch(["a", "b", "c"])], flow)
    alone, again = losses([batch([key]) for key in "abc"] + [batch(["c"])], flow)
    assert count == again == 3
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=1e-6, atol=0)
    assert losses([batch(["a", "b"])], flow)[0] != together


def test_a_diverged_network_has_no_finite_loss():
    generator = GridGenerator(lambda x, *_: x * torch.nan, torch.nn.Identity(), RectifiedFlow("data"))
    evaluation = FixedLosses()
    evaluation.start(torch.device("cpu"))
    evaluation.add(generator, batch(["a"]))
    row, *_ = evaluation.compute()
    assert math.isnan(row.value) and row.count == 1
