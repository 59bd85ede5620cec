"""The networks have what the protocols ask for, with the same arguments in the same order; more are optional."""

import inspect

import pytest
import torch
from torch import nn

from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.networks.contracts import Autoencoder, DiffusionNetwork, SceneNetwork
from scene4d.networks.pretrained import load_initial_weights, read_weights
from scene4d.networks.vggt import ReconstructionNetwork

TINY = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2
)  # fmt: skip


def tiny_scene_network():
    return ReconstructionNetwork(
        image_size=32, patch_size=8, dim=16, depth=4, heads=2, embedder_depth=1, camera_depth=1, camera_heads=2,
        layers=(0, 1, 2, 3), head_channels=(8, 8, 8, 8), head_features=8, head_hidden=8,
    )  # fmt: skip


NETWORKS = [
    (lambda: WanGridTransformer(**TINY), DiffusionNetwork),
    (tiny_scene_network, SceneNetwork),
    (lambda: PatchAutoencoder(channels=4, width=64, depth=1), Autoencoder),
]


@pytest.mark.parametrize("make, protocol", NETWORKS, ids=lambda x: getattr(x, "__name__", "network"))
def test_networks_have_the_members_of_their_protocol(make, protocol):
    network = make()
    wanted = {
        name: member
        for base in protocol.__mro__[:-2]
        for name, member in vars(base).items()
        if not name.startswith("_")
    }
    assert {"named_parameters", "state_dict", "eval"} <= wanted.keys()
    for name, member in wanted.items():
        assert hasattr(network, name), name
        if name in ("forward", "encode", "decode"):
            ours, theirs = (
                list(inspect.signature(x).parameters.values()) for x in (getattr(type(network), name), member)
            )
            assert ours[: len(theirs)] == theirs, name
            assert all(x.default is not x.empty for x in ours[len(theirs) :]), (
                name
            )  # no caller has to know them


def test_blocks_hold_nearly_all_weights():
    for network in (WanGridTransformer(**TINY | {"num_layers": 20}), tiny_scene_network()):
        blocks = list(network.blocks)
        inside = {id(p) for block in blocks for p in block.parameters()}
        assert blocks and all(isinstance(block, nn.Module) for block in blocks)
        assert len(inside) == sum(len(list(block.parameters())) for block in blocks)  # no block in another
        assert len(inside) > 0.5 * len(list(network.parameters()))


def test_a_network_says_which_weights_files_may_leave_out(tmp_path):
    torch.manual_seed(0)
    network, path = tiny_scene_network(), tmp_path / "vggt.pt"
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("gaussian_head.")}
    torch.save(weights | {"track_head.x": torch.zeros(1)}, path)
    kept = load_initial_weights(network, path)
    assert kept and all(name.startswith("gaussian_head.") for name in kept)
    base = WanGridTransformer(**TINY)
    part = {k: v for k, v in base.state_dict().items() if ".attn1." in k}
    torch.save(part, path)
    with pytest.raises(ValueError, match="is absent there"):
        load_initial_weights(base, path)
    base.has_weights = True  # as with `pretrained` or `weights`
    assert set(load_initial_weights(base, path)) == base.state_dict().keys() - part.keys()


def state(network):
    """Everything that modules hold beside parameters, submodules and buffers."""
    return {
        (name, key): value if isinstance(value, int | float | str | tuple | None) else id(value)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if key not in ("_parameters", "_modules", "_buffers")
    } | {
        (name, "hooks"): len(module._forward_hooks) + len(module._forward_pre_hooks)
        for name, module in network.named_modules()
    }


def test_a_call_leaves_nothing_on_modules(monkeypatch):
    network, during = WanGridTransformer(**TINY), []
    before = state(network)
    block = network.base.blocks[0]
    run = block.forward
    monkeypatch.setattr(block, "forward", lambda *x: during.append(state(network)) or run(*x))
    latents, mask = torch.randn(1, 2, 3, 4, 4, 4), torch.ones(1, 2, 3, dtype=torch.bool)
    network(latents, torch.rand(1), None, latents, mask)
    changed = [key for key in before if during[0][key] != before[key]]
    assert during[0].keys() - before.keys() <= {("base.blocks.0", "forward")} and not changed
    monkeypatch.undo()
    assert state(network) == before


def test_blocks_take_the_positions_through_the_compiler():
    network = WanGridTransformer(**TINY)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    latents, sigmas = torch.randn(1, 2, 3, 4, 4, 4), torch.rand(1)
    with torch.no_grad():
        plain = network(latents, sigmas)
        for block in network.blocks:
            block.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(network(latents, sigmas), plain)
        other = torch.randn(1, 3, 2, 4, 4, 4)  # another grid, not the one that was compiled first
        assert network(other, sigmas).shape == other.shape


@pytest.mark.parametrize("content", [b"hello\n", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_weight_file_of_another_kind_is_one_line_that_says_so(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="weights.pt' cannot be read: it is no file of PyTorch|nothing else is ever"
    ):
        read_weights(path)
