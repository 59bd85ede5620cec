"""The codec interface: compression, causality, clear errors; ours and diffusers' own class."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from scene4d.latent_grid import video_frames
from scene4d.networks.autoencoder import (
    PatchAutoencoder,
    WanAutoencoder,
    autoencoder_fingerprint,
    decode_grid,
    encode_grid,
)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return PatchAutoencoder(channels=8, width=64, depth=2).eval()


@pytest.fixture(scope="module")
def refined():
    torch.manual_seed(0)
    return PatchAutoencoder(channels=8, width=64, depth=2, refinement=4).eval()


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1).save_pretrained(folder / "vae")
    return WanAutoencoder(str(folder))


@pytest.mark.parametrize("settings, line", [
    ({"latents_std": [0.0] * 4}, r"latents_std in config.json of 'vae' must be 4 positive numbers"),
    ({"latents_mean": [0.0] * 3}, r"latents_mean in config.json of 'vae' must be 4 numbers, one per channel"),
])  # fmt: skip
def test_wan_latents_without_a_normalisation_are_refused(tmp_path, settings, line):
    settings = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4} | settings
    AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, **settings).save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match=line):
        WanAutoencoder(str(tmp_path))


def test_a_wan_autoencoder_with_nan_is_refused(tmp_path):
    settings = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    model = AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, **settings)
    next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="is spoilt: 1 of .* tensors hold NaN or infinity"):
        WanAutoencoder(str(tmp_path))


@pytest.mark.parametrize("name", ["small", "refined", "wan"])
def test_compression_and_causality(name, request):
    codec = request.getfixturevalue(name)
    images = torch.rand(1, 2, 9, 3, 32, 16)
    with torch.no_grad():
        latents = encode_grid(codec, images)
        assert latents.shape[:3] == (1, 2, 3) and latents.shape[-2:] == (4, 2)
        assert decode_grid(codec, latents).shape == images.shape
        torch.testing.assert_close(
            encode_grid(codec, images[:, :, :5]), latents[:, :, :2], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            encode_grid(codec, images[:, :, :1]), latents[:, :, :1], rtol=1e-4, atol=1e-5
        )


def test_refinement_starts_as_the_decoder_alone_and_sees_no_later_latent(small, tmp_path):
    torch.manual_seed(0)
    refined = PatchAutoencoder(channels=8, width=64, depth=2, refinement=4).eval()
    assert not refined.load_state_dict(small.state_dict(), strict=False).unexpected_keys
    latents = torch.randn(2, 8, 3, 2, 2)
    with torch.no_grad():
        plain = small.decode(latents)
        assert torch.equal(refined.decode(latents), plain)
        for parameter in refined.refine.parameters():
            parameter.normal_(std=0.5)
        whole = refined.decode(latents)
        assert not torch.allclose(whole, plain, atol=0.1)
        for count in (1, 2):  # latents from the start on, so many frames
            part = refined.decode(latents[:, :, :count])
            torch.testing.assert_close(part, whole[:, :, : video_frames(count)], rtol=1e-4, atol=1e-4)
        # each frame goes with the frames of its own latent and the one before, no other
        moved = plain.clone()
        moved[:, :, 2] += 1
        changed = (refined.refine(moved - 1) != refined.refine(plain - 1)).any(dim=4).any(3).any(1).any(0)
        assert changed.tolist() == [False, True, True, True, True, False, False, False, False]
        moved = plain.clone()
        moved[:, :, 4] += 1
        changed = (refined.refine(moved - 1) != refined.refine(plain - 1)).any(dim=4).any(3).any(1).any(0)
        assert changed.tolist() == [False] + 8 * [True]
    save_file(small.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"'refine.layers.0.weight' is absent there and \[4, 15, 3, 3\] in"):
        PatchAutoencoder(
            channels=8, width=64, depth=2, refinement=4, weights=str(tmp_path / "plain.safetensors")
        )


def test_size_must_be_divisible(small):
    with pytest.raises(ValueError, match="36 x 32"):
        encode_grid(small, torch.rand(1, 1, 1, 3, 36, 32))


def test_it_learns(small):
    torch.manual_seed(0)
    codec = PatchAutoencoder(channels=16, width=64, depth=1, noise=0.0)
    video = torch.nn.functional.interpolate(torch.rand(2, 3, 5, 4, 4), (5, 16, 16)) * 2 - 1
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = (codec(video)[0] - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_weights_round_trip_and_errors(tmp_path, small):
    save_file({k: v.half() for k, v in small.state_dict().items()}, tmp_path / "a.safetensors")
    again = PatchAutoencoder(channels=8, width=64, depth=2, weights=str(tmp_path / "a.safetensors"))
    torch.testing.assert_close(again.embed_first.weight, small.embed_first.weight, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"a.safetensors: .*'mean' is \[8\] there and \[4\] in"):
        PatchAutoencoder(channels=4, width=64, depth=2, weights=str(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="absent.safetensors' does not exist"):
        PatchAutoencoder(weights=str(tmp_path / "absent.safetensors"))
    (tmp_path / "b.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="cannot be read"):
        PatchAutoencoder(weights=str(tmp_path / "b.safetensors"))


def test_fingerprint_tells_autoencoders_apart(small, wan):
    own = autoencoder_fingerprint(small)
    assert len(own) == 16 and int(own, 16) >= 0 and own != autoencoder_fingerprint(wan)
    torch.manual_seed(1)
    again = PatchAutoencoder(channels=8, width=64, depth=2)
    assert autoencoder_fingerprint(again) != own
    again.load_state_dict(small.state_dict())
    assert autoencoder_fingerprint(again) == own == autoencoder_fingerprint(again.bfloat16())
    for name in ("std", "head_group.bias"):  # a buffer and the last weight
        changed = PatchAutoencoder(channels=8, width=64, depth=2)
        changed.load_state_dict(small.state_dict())
        changed.state_dict()[name][-1] += 1
        assert autoencoder_fingerprint(changed) != own, name
    before = autoencoder_fingerprint(wan)
    wan.mean[0, 0] += 1  # is in no state dict
    assert autoencoder_fingerprint(wan) != before
    wan.mean[0, 0] -= 1


def test_wan_encodes_and_decodes_video_by_video(wan, tmp_path):
    video = torch.rand(3, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        latents, wan.videos_at_once = wan.encode(video), 3
        together = wan.encode(video)
        torch.testing.assert_close(latents, together, rtol=1e-4, atol=1e-5)
        decoded, wan.videos_at_once = wan.decode(latents), 1
        torch.testing.assert_close(wan.decode(latents), decoded, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="videos_at_once must be at least 1, got 0"):
        WanAutoencoder(str(tmp_path), videos_at_once=0)
