"""Latents, cameras and depth are float32 whatever the trainer's precision, and weights that train are, too."""

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.networks import PatchAutoencoder, WanAutoencoder, WanGridTransformer
from scene4d.networks.autoencoder import decode_grid, encode_grid
from scene4d.networks.autoencoder.layers import positions
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.networks.vggt.dpt_head import decode, position_embedding
from scene4d.networks.vggt.rope import patch_rotation, time_rotation
from scene4d.networks.vggt.view_matcher import ViewMatcher
from scene4d.networks.wan.positions import GridRotaryEmbedding

CPU = torch.device("cpu")
WAN = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2
)  # fmt: skip


def scrambled(module):
    """Random weights in the place of zeros and identities, which hide rounding."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def both(call):
    """The results of a call without and with the autocast of a bf16-mixed trainer."""
    with torch.no_grad():
        plain = call()
        with torch.autocast("cpu", torch.bfloat16):
            return plain, call()


def assert_same(plain, mixed):
    assert mixed.dtype == torch.float32 and torch.equal(plain, mixed)


@pytest.fixture(scope="module", params=["patch", "refined", "wan"])
def autoencoder(request, tmp_path_factory):
    if request.param != "wan":
        refinement = 4 if request.param == "refined" else 0
        return scrambled(PatchAutoencoder(channels=8, width=64, depth=1, refinement=refinement)).eval()
    folder = tmp_path_factory.mktemp("wan")
    AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1).save_pretrained(folder / "vae")
    return WanAutoencoder(str(folder))


def test_autoencoders(autoencoder):
    images = torch.rand(1, 2, 5, 3, 16, 16)
    plain, mixed = both(lambda: encode_grid(autoencoder, images))
    assert_same(plain, mixed)
    assert_same(*both(lambda: decode_grid(autoencoder, plain)))
    assert_same(plain, encode_grid(autoencoder, images.double()).detach())


def test_training_an_autoencoder():
    codec = scrambled(PatchAutoencoder(channels=8, width=64, depth=1)).eval()
    video = torch.rand(1, 3, 5, 16, 16)
    for k in range(2):
        assert_same(*both(lambda k=k: codec(video)[k]))


@pytest.fixture(scope="module")
def network():
    return scrambled(ReconstructionNetwork(
        image_size=32, patch_size=8, dim=16, depth=4, heads=2, embedder_depth=1, camera_depth=1, camera_heads=2,
        layers=(0, 1, 2, 3), head_channels=(8, 8, 8, 8), head_features=8, head_hidden=8, image_skip=4,
    )).eval()  # fmt: skip


@pytest.mark.parametrize("half_tokens", [False, True])
@pytest.mark.parametrize("head", ["depth_head", "point_head", "gaussian_head"])
def test_dense_heads(network, head, half_tokens):
    images = torch.rand(1, 2, 2, 3, 32, 32)
    with torch.no_grad():
        tokens = network.aggregator(images)
    if half_tokens:  # as a trainer in bfloat16 might hand them over
        tokens.layers = {k: layer.bfloat16() for k, layer in tokens.layers.items()}
    assert_same(*both(lambda: decode(getattr(network, head), tokens, images)))


@pytest.mark.parametrize("start", [None, torch.rand(1, 3, 9)])
def test_camera_head(network, start):
    tokens = torch.randn(1, 3, 32)
    assert_same(*both(lambda: network.camera_head(tokens, start)[-1]))
    assert_same(*both(lambda: network.camera_head(tokens.bfloat16(), start)[-1]))


def test_view_matcher_behind_its_features():
    matcher = scrambled(ViewMatcher(16, 8, width=16))
    features = torch.nn.functional.normalize(torch.randn(2, 64, 64), dim=-1)
    matcher.encoder.forward = lambda images: features
    plain, mixed = both(lambda: matcher(torch.rand(1, 2, 3, 32, 32), 4, 4))
    for name in ("patches", "camera", "poses"):
        assert_same(getattr(plain, name), getattr(mixed, name))


TABLES = {
    "grid": lambda: GridRotaryEmbedding(24, (1, 2, 2))(torch.zeros(1, 2, 20, 4, 8, 8)).cosine,
    "patches": lambda: patch_rotation(8, 9, 5, 16, 100.0, CPU)[0],
    "time": lambda: time_rotation(30, 16, 100.0, CPU)[1],
    "dense head": lambda: position_embedding(16, 7, 9, 9 / 7, CPU),
    "autoencoder": lambda: positions(torch.zeros(1, 1, 6, 7, 16)),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_of_positions(table):
    plain, mixed = both(table)
    assert_same(plain, mixed)
    torch.set_default_dtype(torch.bfloat16)  # as a trainer in true bfloat16 sets it
    try:
        assert_same(plain, table())
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def half_network(tmp_path):
    """A pretrained network in bfloat16 whose self-attention trains."""
    scrambled(WanTransformer3DModel(patch_size=(1, 2, 2), out_channels=4, **WAN)).save_pretrained(
        tmp_path / "transformer"
    )
    network = WanGridTransformer(pretrained=str(tmp_path), text_length=3, dtype="bfloat16")
    trainable_parameters(network, [r"\.attn1\."])
    return network


def test_weights_that_train_have_a_float32_master(half_network):
    for name, parameter in half_network.named_parameters():
        assert parameter.requires_grad == (".attn1." in name)
        assert not parameter.requires_grad or parameter.dtype == torch.float32, name
    frozen = half_network.base.blocks[0].ffn.net[-1].weight
    assert frozen.dtype == torch.bfloat16
    module = torch.nn.Linear(2, 2).double()
    trainable_parameters(module, ["weight"])
    assert module.weight.dtype == torch.float64  # more than float32 is no fault


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_a_mixed_network_trains_with_and_without_autocast(half_network, checkpointing):
    checkpoint_blocks(half_network, checkpointing)
    latents, sigmas, text = torch.randn(1, 2, 3, 4, 4, 4), torch.rand(1), torch.randn(1, 3, 16)
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[:, 0] = True

    def run():
        half_network.zero_grad()
        out = half_network(latents, sigmas, text, latents, mask)
        out.float().square().mean().backward()
        return out.detach(), [p.grad for p in half_network.parameters() if p.requires_grad]

    plain, gradients = run()
    with torch.autocast("cpu", torch.bfloat16):
        mixed, again = run()
    assert torch.equal(plain, mixed) and plain.isfinite().all()
    assert all(g.dtype == torch.float32 and g.abs().sum() > 0 for g in gradients if g.numel() > 48)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again))
    weight = half_network.base.blocks[0].attn1.to_q.weight
    before = weight.detach().clone()
    torch.optim.SGD([weight], lr=1e-5 / float(weight.grad.abs().max())).step()
    assert not torch.equal(weight, before)  # in bfloat16 so small a step would be lost


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="dtype is 'float8', expected 'float32' or 'bfloat16'"):
        WanGridTransformer(dtype="float8")
