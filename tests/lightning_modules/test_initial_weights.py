"""Weights to start from keep their digits."""

import torch
from safetensors.torch import save_file
from torch import nn

from lightning_modules.training import Training


class HalfNetwork(nn.Linear):
    """Weights in bfloat16, as of a large base model."""

    blocks, has_weights, optional_weights, unused_weights = (), True, ("",), ()

    def __init__(self):
        super().__init__(4, 4, dtype=torch.bfloat16)


def test_float32_files_are_not_rounded_where_weights_train(tmp_path):
    tuned = {"weight": torch.randn(4, 4)}
    save_file(tuned, tmp_path / "tuned.safetensors")
    module = Training(HalfNetwork, torch.optim.AdamW, None, [str(tmp_path / "tuned.safetensors")], ["weight"])
    module.configure_model()
    assert torch.equal(module.network.weight, tuned["weight"])
    assert module.network.bias.dtype == torch.bfloat16 and not module.network.bias.requires_grad
