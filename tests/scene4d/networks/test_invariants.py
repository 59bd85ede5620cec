"""What is checked when a base is loaded: a checkpoint that breaks it stops the run with one line."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_wan import make_pair

from scene4d.networks import WanGridTransformer
from scene4d.networks.wan import Fused, Parallel, Sequential
from scene4d.networks.wan.patches import ReferencePatchEmbedding


@pytest.fixture
def checkpoint(tmp_path):
    _, plain = make_pair()
    plain.save_pretrained(tmp_path / "transformer")
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", [Fused(), Sequential(), Parallel()])
def test_a_good_checkpoint_passes(checkpoint, architecture, dtype):
    WanGridTransformer(pretrained=str(checkpoint), architecture=architecture, text_length=3, dtype=dtype)


def test_a_checkpoint_with_nan_stops(checkpoint):
    (path,) = (checkpoint / "transformer").glob("*.safetensors")
    weights = load_file(path)
    weights["blocks.1.attn1.to_q.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="base model fails a check of the start: one view.*difference nan"):
        WanGridTransformer(pretrained=str(checkpoint), text_length=3)


def test_other_mathematics_in_diffusers_stop(checkpoint, monkeypatch):
    """As if a release rotated queries and keys in another way."""
    monkeypatch.setattr(
        "scene4d.networks.wan.attention.rotate", lambda x, positions: torch.roll(x, 1, dims=1)
    )
    with pytest.raises(ValueError, match="one view is not what it makes of a video"):
        WanGridTransformer(pretrained=str(checkpoint), text_length=3)


def test_references_that_leak_through_an_empty_mask_stop(checkpoint, monkeypatch):
    forward = ReferencePatchEmbedding.forward

    def leaky(self, latents, references=None, reference_mask=None):
        return forward(self, latents, references, None if reference_mask is None else ~reference_mask)

    monkeypatch.setattr(ReferencePatchEmbedding, "forward", leaky)
    with pytest.raises(ValueError, match="references change the output although none is given"):
        WanGridTransformer(pretrained=str(checkpoint), text_length=3)
