"""One training step of both stages of configs/vggt_1b, at VGGT-1B's width and a reduced depth, from a weight file."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from textured_wall import make_batch

from lightning_modules.from_config import training_parser
from scene4d.networks.vggt import ReconstructionNetwork

pytestmark = pytest.mark.slow  # 0.3 billion parameters
CONFIGS = Path(__file__).parents[2] / "configs/vggt_1b"
SHALLOW = {"depth": 4, "embedder_depth": 2, "camera_depth": 1, "layers": [0, 1, 2, 3]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Random weights in bfloat16, with the names of VGGT-1B."""
    torch.manual_seed(0)
    network = ReconstructionNetwork(**SHALLOW, gaussian_head=False, temporal=False)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({name: x.bfloat16() for name, x in network.state_dict().items()}, path)
    return path


def build(stage, base):
    changes = {
        "network": {"init_args": SHALLOW}, "initial_weights": [str(base)], "checkpointing": "full",
    }  # fmt: skip
    parts = [str(CONFIGS / f"reconstruction_{stage}.yaml"), json.dumps({"model": {"init_args": changes}})]
    parser = training_parser()
    config = parser.parse_args([argument for part in parts for argument in ("--config", part)])
    del config["trainer"]
    module = parser.instantiate(config).model
    module.log = module.log_dict = lambda *_, **__: None
    module.trainer = SimpleNamespace(
        accumulate_grad_batches=1, global_step=0, distributed_sampler_kwargs=None, max_steps=10
    )  # fmt: skip
    module.configure_model()
    return module


def wall():
    """Three views of 56 x 56, the multiple of the patch."""
    batch = make_batch(inputs=2, targets=1)
    flat = batch.images.flatten(0, 2)
    grown = torch.nn.functional.interpolate(flat, (56, 56), mode="bilinear")
    batch.images = grown.unflatten(0, batch.images.shape[:3])
    batch.depths = torch.nn.functional.interpolate(batch.depths.flatten(0, 1), (56, 56)).unflatten(0, (1, 3))
    batch.cameras.intrinsics[..., :2, :] *= 56 / 32
    return batch


@pytest.mark.parametrize("stage, trains", [("static", ("gaussian_head.",)),
                                           ("dynamic", ("gaussian_head.", "aggregator.temporal_blocks."))])  # fmt: skip
def test_gradients_reach_exactly_what_trains(base, stage, trains):
    module = build(stage, base)
    loss = module.training_step(wall(), 0)
    loss.backward()
    assert loss.isfinite()
    named = dict(module.network.named_parameters())
    reached = {name for name, p in named.items() if p.grad is not None}
    assert reached == {name for name in named if name.startswith(trains)}
    still = {name for name in reached if not named[name].grad.any()}
    # temporal attention is the identity: what lies in front of its two zero layers waits for the second step
    assert all(name.startswith("aggregator.temporal") for name in still)
    zero = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")
    assert not any(name.endswith(zero) for name in still)
