"""Invariants of the grid wrapper: it must be the base model wherever the base model is defined."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.kernels.attention import fused_view_time_attention
from scene4d.networks import WanGridTransformer
from scene4d.networks.wan import Fused, Parallel, Sequential, ViewAfterView
from scene4d.networks.wan.positions import GridRotaryEmbedding

SIZES = dict(
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=4,
    text_dim=16,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
)


def make_pair(**kwargs):
    """A wrapper and a plain diffusers model with the same random weights."""
    torch.manual_seed(0)
    wrapper = WanGridTransformer(**SIZES, text_length=3, **kwargs)
    for parameter in wrapper.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain = WanTransformer3DModel(patch_size=(1, 2, 2), out_channels=4, **SIZES)
    plain.load_state_dict(wrapper.base.state_dict())
    return wrapper, plain


def inputs(b, v, n):
    torch.manual_seed(1)
    return torch.randn(b, v, n, 4, 4, 4), torch.rand(b), torch.randn(b, 3, 16)


def flat(grid):
    return grid.flatten(1, 2).transpose(1, 2)


def test_one_view_is_the_base_bitwise():
    wrapper, plain = make_pair()
    x, sigmas, text = inputs(2, 1, 5)
    expected = plain(flat(x), sigmas * 1000, text, return_dict=False)[0]
    assert torch.equal(flat(wrapper(x, sigmas, text)), expected)


def test_one_timestep_is_the_base_on_v_frames_bitwise():
    wrapper, plain = make_pair(architecture=Fused(ViewAfterView(1)))
    x, sigmas, text = inputs(2, 5, 1)
    expected = plain(flat(x), sigmas * 1000, text, return_dict=False)[0]
    assert torch.equal(flat(wrapper(x, sigmas, text)), expected)


def test_full_attention_and_dense_positions_are_the_base_on_all_frames(monkeypatch):
    wrapper, plain = make_pair(architecture=Fused(ViewAfterView(3)))
    monkeypatch.setattr(
        "scene4d.networks.wan.attention.fused_view_time_attention",
        lambda q, k, v, grid, backend: fused_view_time_attention(
            q, k, v, grid=(1, 1, q.shape[1]), backend=backend
        ),
    )
    x, sigmas, text = inputs(1, 2, 3)
    expected = plain(flat(x), sigmas * 1000, text, return_dict=False)[0]
    assert torch.equal(flat(wrapper(x, sigmas, text)), expected)


def test_rotary_embedding_equals_the_table_bitwise():
    _, plain = make_pair()
    rope = GridRotaryEmbedding(24, (1, 2, 2))
    x = torch.randn(1, 1, 7, 4, 6, 4)
    ours, (cosine, sine) = rope(x), plain.rope(flat(x))
    assert torch.equal(ours.cosine, cosine)
    assert torch.equal(ours.sine, sine * torch.tensor([-1.0, 1.0]).repeat(12))
    assert ours.grid == (1, 7, 6)


def test_views_are_placed_at_multiples_of_the_maximal_length():
    rope = GridRotaryEmbedding(24, (1, 1, 1), ViewAfterView(21))
    two, one = rope(torch.zeros(1, 2, 3, 4, 1, 1)), rope(torch.zeros(1, 1, 24, 4, 1, 1))
    assert torch.equal(two.cosine[0, :, 0], one.cosine[0, [0, 1, 2, 21, 22, 23], 0])
    assert two.grid == (2, 3, 1)


def test_one_layer_mixes_only_row_and_column():
    torch.manual_seed(0)
    wrapper = WanGridTransformer(**{**SIZES, "num_layers": 1}, text_length=3)
    for parameter in wrapper.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, sigmas, text = inputs(1, 3, 4)
    edited = x.clone()
    edited[0, 1, 2] += 1
    moved = (wrapper(edited, sigmas, text) - wrapper(x, sigmas, text)).abs().amax((0, 3, 4, 5)) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1, :], expected[:, 2] = True, True
    assert torch.equal(moved, expected)


def test_empty_reference_mask_is_no_reference():
    wrapper, _ = make_pair()
    x, sigmas, text = inputs(1, 2, 3)
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    assert torch.equal(wrapper(x, sigmas, text, torch.randn_like(x), mask), wrapper(x, sigmas, text))


def test_references_are_added_by_their_patch_embedding():
    wrapper, _ = make_pair(reference_bias=False)
    x, sigmas, text = inputs(1, 2, 3)
    reference = torch.randn_like(x)
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[:, 0] = True
    added = x + reference * mask[..., None, None, None]
    torch.testing.assert_close(wrapper(x, sigmas, text, reference, mask), wrapper(added, sigmas, text))


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
@pytest.mark.parametrize("architecture", [Fused(), Sequential(), Parallel()])
def test_two_grids_before_one_backward_and_checkpointing_give_equal_gradients(architecture, checkpointing):
    def gradients(checkpointing):
        torch.manual_seed(0)
        network = WanGridTransformer(**SIZES, text_length=3, architecture=architecture)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        checkpoint_blocks(network, checkpointing)
        a, sigmas, text = inputs(1, 2, 3)
        b = torch.randn(1, 3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
        (network(a, sigmas, text).square().sum() + network(b, sigmas, text).square().sum()).backward()
        return {name: p.grad for name, p in network.named_parameters()}

    plain, again = gradients("none"), gradients(checkpointing)
    assert all(torch.equal(plain[name], again[name]) for name in plain) and plain.keys() == again.keys()


def test_saved_base_loads_in_plain_diffusers(tmp_path):
    wrapper, _ = make_pair()
    wrapper.base.save_pretrained(tmp_path / "transformer")
    _, info = WanTransformer3DModel.from_pretrained(
        tmp_path, subfolder="transformer", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    again = WanGridTransformer(pretrained=str(tmp_path), text_length=3)
    x, sigmas, text = inputs(1, 2, 3)
    assert torch.equal(again(x, sigmas, text), wrapper(x, sigmas, text))


def test_captions_are_padded_as_the_checkpoint_saw_them(tmp_path):
    """512 tokens for Wan, whatever captions lie beside them in the batch."""
    wrapper, plain = make_pair()
    plain.save_pretrained(tmp_path / "transformer")
    pretrained = WanGridTransformer(pretrained=str(tmp_path))
    x, sigmas, text = inputs(1, 1, 2)
    longer = torch.nn.functional.pad(text, (0, 0, 0, 4))  # a batch mate has 7 tokens
    padded = torch.nn.functional.pad(text, (0, 0, 0, 509))
    expected = plain(flat(x), sigmas * 1000, padded, return_dict=False)[0]
    for caption in (text, longer):
        assert torch.equal(flat(pretrained(x, sigmas, caption)), expected)
    assert torch.equal(pretrained(x, sigmas), pretrained(x, sigmas, 0 * text))
    assert WanGridTransformer(**SIZES).text_length == 1
    with pytest.raises(ValueError, match="a caption has 7 tokens, text_length is 3"):
        wrapper(x, sigmas, longer)


def test_clear_errors(tmp_path):
    wrapper, _ = make_pair()
    with pytest.raises(ValueError, match="5 x 4.*divisible by the patch 2 x 2"):
        wrapper(torch.randn(1, 2, 3, 4, 5, 4), torch.rand(1))
    with pytest.raises(ValueError, match="22 latent frames exceed max_latent_frames = 21"):
        wrapper(torch.randn(1, 2, 22, 4, 4, 4), torch.rand(1))
    with pytest.raises(ValueError, match="holds transformer/config.json"):
        WanGridTransformer(pretrained=str(tmp_path / "absent"))
