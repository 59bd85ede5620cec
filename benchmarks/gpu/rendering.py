"""A training step of the reconstruction: how much of it is gsplat's, and how much ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.gpu.networks import vggt
from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from benchmarks.gpu.timing import synchronize, timed
from lightning_modules import GaussianReconstruction
from lightning_modules.supervision import render_outcome
from scene4d.losses import ImageLoss, weighted_losses
from scene4d.networks.trainable import trainable_parameters
from scene4d.rendering import render
from scene4d.types import Cameras, SceneBatch

SIZE, TINY_SIZE = (294, 518), (28, 42)
TRAINED = ("temporal", "^gaussian_head")  # configs/vggt_1b/reconstruction_dynamic.yaml
CASES = ((4, 1, 4), (4, 4, 4), (8, 4, 2))  # inputs, timesteps, targets
STEPS = 4


class Clock:
    """Wraps `rasterize`: when its forward pass and its backward pass begin and end, by the device's clock.

    Attributes:
        spans: Begin and end of every pass.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def now(self) -> torch.cuda.Event:
        """A mark on the device."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Seconds of all spans; forgets them."""
        synchronize(self.device)
        total = sum(begin.elapsed_time(end) for begin, end in self.spans) / 1e3
        self.spans.clear()
        return total

    def around(self, rasterize: Callable) -> Callable:
        """The function with marks; its backward pass begins at its results and ends at its inputs."""

        def marked(*tensors_and_sizes: object, **options: object) -> tuple[Tensor, Tensor, object]:
            tensors, rest = tensors_and_sizes[:5], tensors_and_sizes[5:]
            spans: list[torch.cuda.Event] = []
            inputs = _Mark.apply(lambda: self.spans.append((spans[0], self.now())), *tensors)
            begin = self.now()
            renders, alphas, info = rasterize(*inputs, *rest, **options)
            self.spans.append((begin, self.now()))
            renders, alphas = _Mark.apply(lambda: spans.append(self.now()), renders, alphas)
            return renders, alphas, info

        return marked if self.device.type == "cuda" else rasterize


class _Mark(torch.autograd.Function):
    """The identity; calls a function when its gradients are there."""

    @staticmethod
    def forward(ctx, reached, *tensors):
        ctx.reached = reached
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx, *grads):
        ctx.reached()
        return None, *grads


def rendering(part: Part) -> None:
    """Rows of growing size."""
    for inputs, times, targets in ((2, 1, 1),) if part.tiny else CASES:
        labels: Cells = {"inputs": inputs, "timesteps": times, "targets": targets}
        part.row(labels, partial(_row, part, inputs, times, targets))


def _row(part: Part, inputs: int, times: int, targets: int) -> Cells:
    size, clock, found = TINY_SIZE if part.tiny else SIZE, Clock(part.device), list[float]()
    module = GaussianReconstruction(
        partial(vggt, part.device, torch.float32, part.tiny), [ImageLoss()], trainable=list(TRAINED)
    )
    module.configure_model()
    trainable_parameters(module.network, TRAINED)
    trained = [p for p in module.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    batch = scene(inputs, times, targets, size, part.device)

    def step(number: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(part.device.type, torch.bfloat16):
            prediction = module.network(batch.images[:, :inputs])
            with torch.autocast(part.device.type, enabled=False):
                generator = torch.Generator().manual_seed(number)
                outcome = render_outcome(module.reconstructor, batch, prediction, "given", generator)
                loss = torch.stack([*weighted_losses(module.losses, outcome).values()]).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    with patch.object(render, "rasterize", clock.around(render.rasterize)):
        whole = timed(step, part.device, STEPS, 2, limit=5)
        clock.seconds()
        for number in range(STEPS if part.device.type == "cuda" else 0):
            step(number)
            found.append(clock.seconds())
    own = median(found) if found else None
    return {
        "step, s": whole.seconds, "host s": whole.host, "rasterize, s": own,
        "share": own / whole.seconds if own else None, "peak GB": whole.peak / 1e9,
        "Gaussians": inputs * math.prod(size), "images": times * (targets + 1),
    }  # fmt: skip


def scene(inputs: int, times: int, targets: int, size: tuple[int, int], device: torch.device) -> SceneBatch:
    """Random images of cameras in a row that look the same way."""
    views, (height, width) = inputs + targets, size
    images = torch.rand(1, views, times, 3, height, width, device=device)
    c2w = torch.eye(4, device=device).repeat(1, views, 1, 1)
    c2w[0, :, 0, 3] = torch.linspace(0, 0.3, views, device=device)
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], device=device)
    reference = torch.zeros(1, views, times, dtype=torch.bool, device=device)
    reference[:, :inputs] = True
    return SceneBatch(
        images=images, cameras=Cameras(c2w, intrinsics.expand(1, views, 3, 3).clone()),
        frame_times=torch.arange(times, device=device)[None] / 24, reference=reference, source=["objects"],
        keys=["random"], depths=torch.ones(1, views, times, height, width, device=device),
    )  # fmt: skip
