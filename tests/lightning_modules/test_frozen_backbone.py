"""The static stage: the frozen network runs without gradients and in the trainer's precision, the head trains."""

import pytest
import torch
from test_gaussian_reconstruction import build
from textured_wall import make_batch
from torch.autograd.graph import saved_tensors_hooks

from scene4d.networks.vggt.dpt_head import decode


class Kept:
    """Counts the bytes that autograd keeps for the backward pass, those of parameters aside."""

    def __init__(self):
        self.bytes = 0

    def pack(self, tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor

    def of(self, call, *inputs):
        self.bytes = 0
        with saved_tensors_hooks(self.pack, lambda x: x):
            result = call(*inputs)
        return self.bytes, result


def kept_by_parts(network, images):
    kept = Kept()
    tokens, seen = kept.of(network.aggregator, images)
    depth, _ = kept.of(decode, network.depth_head, seen, images)
    cameras, _ = kept.of(network.camera_head, seen.camera[:, 0], None)
    gaussians, _ = kept.of(decode, network.gaussian_head, seen, images)
    return {"tokens": tokens, "depth": depth, "cameras": cameras, "gaussians": gaussians}


@pytest.mark.parametrize("half", [False, True])
def test_nothing_of_the_frozen_network_is_kept_for_the_backward_pass(half):
    images, found, kinds = make_batch(t=1).images[:, :3], [], []
    for trainable in ("^gaussian_head", ".*"):
        network = build(trainable=[trainable]).network
        layer = network.aggregator.frame_blocks[0].mlp.fc1
        layer.register_forward_hook(lambda module, given, out: kinds.append(out.dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(kept_by_parts(network, images))
    assert kinds == [torch.bfloat16 if half else torch.float32] * 2
    frozen, trained = found
    assert [frozen[name] for name in ("tokens", "depth", "cameras")] == [0, 0, 0]
    assert frozen["gaussians"] > 0 and all(size > 0 for size in trained.values())


def test_gradients_reach_the_head_alone():
    module = build(trainable=["^gaussian_head"])
    with torch.autocast("cpu", torch.bfloat16):
        module.training_step(make_batch(t=1), 0).backward()
    reached = {name.split(".")[0] for name, p in module.network.named_parameters() if p.grad is not None}
    assert reached == {"gaussian_head"}
    assert all(
        p.grad.isfinite().all() for p in module.network.gaussian_head.parameters() if p.grad is not None
    )
