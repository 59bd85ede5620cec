"""The three architectures on one base: each is the base on a video, and attends where it should on a grid."""

import pytest
import torch
from safetensors.torch import save_file
from test_wan import SIZES, flat, inputs, make_pair

from scene4d.networks import WanGridTransformer
from scene4d.networks.pretrained import load_initial_weights
from scene4d.networks.wan import Diagonal, Fused, Parallel, Sequential, ViewAfterView

ALL = [Fused(), Fused(Diagonal()), Sequential(), Parallel()]


def from_base(architecture, plain, tmp_path, **kwargs):
    """The architecture on the weights of a plain model, which know nothing of it."""
    save_file({f"base.{name}": x for name, x in plain.state_dict().items()}, tmp_path / "base.safetensors")
    network = WanGridTransformer(**{**SIZES, **kwargs}, text_length=3, architecture=architecture)
    kept = load_initial_weights(network, tmp_path / "base.safetensors")
    assert kept == list(network.new_weights)
    return network


@pytest.mark.parametrize("architecture", ALL)
def test_a_video_is_what_the_base_makes_of_it_bitwise(architecture, tmp_path):
    _, plain = make_pair()
    network = from_base(architecture, plain, tmp_path)
    x, sigmas, text = inputs(2, 1, 5)
    expected = plain(flat(x), sigmas * 1000, text, return_dict=False)[0]
    assert torch.equal(flat(network(x, sigmas, text)), expected)


@pytest.mark.parametrize("architecture", [Sequential(), Parallel()])
def test_without_training_the_views_are_videos_of_their_own(architecture, tmp_path):
    _, plain = make_pair()
    network = from_base(architecture, plain, tmp_path)
    x, sigmas, text = inputs(2, 3, 4)
    for view in range(3):
        expected = plain(flat(x[:, [view]]), sigmas * 1000, text, return_dict=False)[0]
        torch.testing.assert_close(flat(network(x, sigmas, text)[:, [view]]), expected, rtol=1e-4, atol=1e-5)


def only_columns(network):
    """Sets the new layers so that the network does to columns what it did to rows."""
    for block in network.blocks:
        if isinstance(network.architecture, Sequential):
            torch.nn.init.eye_(block.project_view.weight)
            torch.nn.init.zeros_(block.attn1.to_out[0].weight)
            torch.nn.init.zeros_(block.attn1.to_out[0].bias)
    if isinstance(network.architecture, Parallel):
        weight = network.blocks[-1].synchronize_rows.weight.data
        eye = torch.eye(len(weight))
        weight.copy_(torch.cat([-eye, eye], 1))


@pytest.mark.parametrize("architecture", [Sequential(), Parallel()])
def test_a_column_is_to_the_new_layers_what_a_video_is_to_the_base(architecture, tmp_path):
    _, plain = make_pair()
    network = from_base(architecture, plain, tmp_path)
    only_columns(network)
    x, sigmas, text = inputs(2, 3, 4)
    ours = network(x, sigmas, text)
    for time in range(4):
        column = x[:, :, time].transpose(1, 2)
        expected = plain(column, sigmas * 1000, text, return_dict=False)[0]
        torch.testing.assert_close(ours[:, :, time].transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [Sequential(), Parallel()])
def test_new_weights_mix_views_and_get_gradients(architecture):
    network = WanGridTransformer(**SIZES, text_length=3, architecture=architecture)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, sigmas, text = inputs(1, 3, 4)
    edited = x.clone()
    edited[0, 1, 2] += 1
    moved = (network(edited, sigmas, text) - network(x, sigmas, text)).abs().amax((0, 3, 4, 5)) > 0
    assert moved[1].all() and moved[:, 2].all()
    network(x, sigmas, text).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_one_layer_of_a_sequential_network_reaches_the_whole_grid():
    network = WanGridTransformer(**{**SIZES, "num_layers": 1}, text_length=3, architecture=Sequential())
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, sigmas, text = inputs(1, 3, 4)
    edited = x.clone()
    edited[0, 1, 2] += 1
    moved = (network(edited, sigmas, text) - network(x, sigmas, text)).abs().amax((0, 3, 4, 5)) > 0
    assert moved.all()  # first along the column, then along the rows


@pytest.mark.parametrize(
    "architecture, new",
    [(Fused(), 0), (Sequential(), 2 * (4 * 48 * 49 + 2 * 48 + 48 * 49)), (Parallel(), 3 * 48 * 97)],
)
def test_number_of_new_parameters(architecture, new):
    network = WanGridTransformer(**SIZES, architecture=architecture)
    parameters = dict(network.named_parameters())
    assert sum(parameters[name].numel() for name in network.new_weights) == new


def test_view_layers_start_from_the_weights_of_a_pretrained_base(tmp_path):
    _, plain = make_pair()
    plain.save_pretrained(tmp_path / "transformer")
    network = WanGridTransformer(pretrained=str(tmp_path), architecture=Sequential())
    for block in network.blocks:
        for name, weight in block.attn1.state_dict().items():
            assert torch.equal(block.attn_view.state_dict()[name], weight)


def test_trained_weights_of_a_view_layer_are_not_replaced(tmp_path):
    torch.manual_seed(0)
    trained = WanGridTransformer(**SIZES, architecture=Sequential())
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    network = WanGridTransformer(**SIZES, architecture=Sequential())
    assert load_initial_weights(network, tmp_path / "trained.safetensors") == []
    for name, weight in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name


def test_positions_of_the_two_rules():
    assert ViewAfterView(21).places(2, 3).tolist() == [[0, 1, 2], [21, 22, 23]]
    assert Diagonal().places(2, 3).tolist() == [[0, 1, 2], [1, 2, 3]]
    with pytest.raises(ValueError, match="22 latent frames exceed max_latent_frames = 21"):
        ViewAfterView(21).places(2, 22)
