"""A checkpoint in diffusers' layout loads whole or not at all, and one line says what is wrong."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from test_wan import SIZES, make_pair

from scene4d.networks import PatchAutoencoder, WanAutoencoder, WanGridTransformer
from scene4d.networks.autoencoder import encode_grid
from scene4d.networks.pretrained import load_initial_weights


@pytest.fixture
def folder(tmp_path):
    _, plain = make_pair()
    plain.save_pretrained(tmp_path / "base/transformer", max_shard_size="20KB")
    return tmp_path / "base"


def change(folder, **settings):
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def shards(folder):
    return sorted((folder / "transformer").glob("*.safetensors"))


def line(folder):
    with pytest.raises(ValueError) as error:
        WanGridTransformer(pretrained=str(folder), text_length=3)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_missing_files_are_named(folder):
    for path in shards(folder)[1:2]:
        path.unlink()
        assert path.name in line(folder)
    for path in shards(folder):
        path.unlink()
    assert f"there are no *.safetensors files in '{folder / 'transformer'}'" in line(folder)
    (folder / "transformer/config.json").unlink()
    assert f"there is no '{folder / 'transformer/config.json'}'" in line(folder)
    assert "is no local folder" in line(folder / "nowhere")


def test_pickled_weights_are_not_read(folder):
    for path in (folder / "transformer").glob("*.safetensors*"):
        path.unlink()
    torch.save(make_pair()[1].state_dict(), folder / "transformer/diffusion_pytorch_model.bin")
    assert "there are no *.safetensors files" in line(folder)


@pytest.mark.parametrize("left", [5, -100])
def test_a_shard_that_is_cut_short_is_named(folder, left):
    path = shards(folder)[2]
    path.write_bytes(path.read_bytes()[:left])
    assert f"'{path}' is damaged or cut short" in line(folder)


@pytest.mark.parametrize("layers, problem", [(3, "they lack 'blocks.2."), (1, "does not: 'blocks.1.")])
def test_weights_of_another_depth_are_refused(folder, layers, problem):
    """diffusers would make up the third block, and forget the second one."""
    change(folder, num_layers=layers)
    assert problem in line(folder) and "(27 in all)" in line(folder)


def test_settings_of_another_kind_are_one_line(folder):
    change(folder, num_attention_heads=None)
    assert "config.json or *.safetensors.index.json is damaged (TypeError: " in line(folder)
    change(folder, num_attention_heads=SIZES["num_attention_heads"])
    next((folder / "transformer").glob("*.index.json")).write_text("{}")
    assert "config.json or *.safetensors.index.json is damaged (KeyError: 'weight_map')" in line(folder)
    (folder / "transformer/config.json").write_text("[]")
    assert "its config.json holds a list, expected settings by name" in line(folder)


def test_another_shape_is_one_line(folder):
    change(folder, in_channels=8)
    assert "patch_embedding.weight expected shape torch.Size([48, 8, 1, 2, 2])" in line(folder)


@pytest.mark.parametrize(
    "name, hint", [("CogVideoXTransformer3DModel", ""), ("WanModel", "end in -Diffusers")]
)
def test_another_class_is_refused(folder, name, hint):
    change(folder, _class_name=name)
    assert f"its config.json is of {name}, expected WanTransformer3DModel{'; ' * bool(hint)}" in line(folder)
    assert hint in line(folder)


def test_an_image_to_video_base_is_refused(tmp_path):
    sizes = SIZES | {"in_channels": 36}
    WanTransformer3DModel(patch_size=(1, 2, 2), out_channels=16, **sizes).save_pretrained(
        tmp_path / "transformer"
    )
    with pytest.raises(ValueError, match="no text-to-video base: it takes 36 channels and gives 16"):
        WanGridTransformer(pretrained=str(tmp_path))


def test_nothing_is_loaded_on_the_meta_device(folder, tmp_path):
    """Silence would leave weights that no file gave."""
    network, plain = make_pair()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1).save_pretrained(folder / "vae")
    codec = PatchAutoencoder(channels=4, width=64, depth=2)
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    with torch.device("meta"):
        empty = WanGridTransformer(**SIZES)
        for load in (
            lambda: WanGridTransformer(pretrained=str(folder)),
            lambda: WanAutoencoder(str(folder)),
            lambda: WanGridTransformer(**SIZES, weights=str(tmp_path / "w.safetensors")),
            lambda: PatchAutoencoder(
                channels=4, width=64, depth=2, weights=str(tmp_path / "codec.safetensors")
            ),
        ):
            with pytest.raises(ValueError, match="meta"):
                load()
    with pytest.raises(ValueError, match=r"w\.safetensors: weights cannot be loaded .* on the meta device"):
        load_initial_weights(empty, tmp_path / "w.safetensors")
    load_initial_weights(empty.to_empty(device="cpu"), tmp_path / "w.safetensors")
    assert all(torch.equal(x, empty.state_dict()[name]) for name, x in network.state_dict().items())


def test_sizes_that_fit_are_named():
    """As for TI2V-5B, whose autoencoder has stride 16 under a patch of 2: 144 does not fit, 160 does."""
    codec = PatchAutoencoder(channels=4, width=64, depth=2)
    codec.stride = 16
    with pytest.raises(
        ValueError, match="images are 152 x 256, .* autoencoder's 16: use 144 x 256 or 160 x 256"
    ):
        encode_grid(codec, torch.zeros(1, 1, 1, 3, 152, 256))
    network, _ = make_pair()
    with pytest.raises(ValueError, match="latents are 9 x 16, .*patch 2 x 2: use 8 x 16 or 10 x 16"):
        network(torch.zeros(1, 1, 1, 4, 9, 16), torch.ones(1))
    with pytest.raises(ValueError, match="latents are 1 x 16, .*: use 2 x 16$"):
        network(torch.zeros(1, 1, 1, 4, 1, 16), torch.ones(1))


def test_latents_and_captions_of_other_models_are_one_line():
    network, _ = make_pair()
    with pytest.raises(ValueError, match="latents have 16 channels, the network takes 4"):
        network(torch.zeros(1, 1, 1, 16, 4, 4), torch.ones(1))
    with pytest.raises(ValueError, match="captions have 384 channels, the network takes 16"):
        network(torch.zeros(1, 1, 1, 4, 4, 4), torch.ones(1), torch.zeros(1, 1, 384))


def test_one_broken_number_in_a_shard_stops(folder):
    path = shards(folder)[0]
    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="fails a check of the start"):
        WanGridTransformer(pretrained=str(folder), text_length=3)
