"""The generator keeps what is given, and a scene's noise is its own."""

from dataclasses import replace

import pytest
import torch

from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.latent_grid import latent_reference_mask
from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.pipelines import GridGenerator, Sampling
from scene4d.types import SceneBatch

SIZE = 32


@pytest.fixture(scope="module")
def generator() -> GridGenerator:
    torch.manual_seed(0)
    network = WanGridTransformer(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, text_dim=8, freq_dim=16, ffn_dim=32,
        num_layers=1, patch_size=(1, 1, 1),
    )  # fmt: skip
    for parameter in [*network.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)
    autoencoder = PatchAutoencoder(channels=4, width=64, depth=1).eval()
    return GridGenerator(network, autoencoder, RectifiedFlow("data"), Sampling(2))


def scenes(count: int = 2, both: bool = True) -> SceneBatch:
    reference = torch.zeros(count, 3, 9, dtype=torch.bool)
    reference[:, 0], reference[:, :, 0] = both, True
    return SceneBatch(
        images=torch.rand(count, 3, 9, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)), cameras=None,
        frame_times=torch.zeros(count, 9), reference=reference, source=["objects"] * count,
        keys=[f"scene{k}" for k in range(count)],
    )  # fmt: skip


def test_references_are_encoded_as_the_whole_grid_would_be(generator):
    batch = scenes()
    batch.reference[1, 2, :5] = True
    given = latent_reference_mask(batch.reference)
    ours, whole = generator.encode_references(batch.images, batch.reference), generator.encode(batch.images)
    torch.testing.assert_close(ours[given], whole[given], rtol=1e-4, atol=1e-5)
    assert ours.shape == whole.shape and ours[:, 1, 1:].abs().max() == 0


def test_given_frames_stay_and_views_given_whole_are_not_decoded(generator, monkeypatch):
    batch = scenes()
    batch.reference[1, 1] = True  # view 0 is given in both scenes
    latents, decode, shapes = torch.randn_like(generator.encode(batch.images)), generator.decode, []
    monkeypatch.setattr(generator, "decode", lambda x: shapes.append(x.shape) or decode(x))
    grid, reference = generator.complete(batch, latents), batch.reference
    assert [shape[1] for shape in shapes] == [2]
    assert torch.equal(grid[reference], batch.images[reference])
    torch.testing.assert_close(grid[~reference], decode(latents)[~reference], rtol=1e-4, atol=1e-5)
    whole = replace(batch, reference=torch.ones_like(reference))
    assert torch.equal(generator.complete(whole, latents), batch.images)


def test_a_grid_is_generated_from_its_references_alone(generator):
    batch = scenes()
    grid = generator(batch)
    assert torch.equal(grid.images[batch.reference], batch.images[batch.reference])
    assert grid.images.isfinite().all() and grid.keys == batch.keys
    hidden = torch.where(batch.reference[..., None, None, None], batch.images, 0.25)
    assert torch.equal(generator(replace(batch, images=hidden)).images, grid.images)


def test_a_sample_does_not_depend_on_the_batch_it_is_in(generator):
    batch = scenes(3)
    together = generator(batch).images
    for k in range(3):
        torch.testing.assert_close(generator(batch.sample(k)).images[0], together[k], rtol=1e-4, atol=1e-5)


def test_noise_follows_seed_source_and_key(generator):
    batch, shape = scenes(), torch.Size((3, 3, 4, 4, 4))
    noise = generator.noise(batch, shape)
    assert noise.shape == (2, *shape) and abs(float(noise.std()) - 1) < 0.1
    assert torch.equal(generator.noise(batch.sample(1), shape)[0], noise[1])
    assert not torch.equal(noise[0], noise[1])
    other = GridGenerator(generator.network, generator.autoencoder, generator.flow, Sampling(seed=1))
    elsewhere = replace(batch, source=["physics"] * 2)
    for changed in (other.noise(batch, shape), generator.noise(elsewhere, shape)):
        assert not torch.equal(changed, noise)


def test_stored_latents_are_used_if_they_are_this_autoencoder_s(generator):
    batch = scenes()
    latents = generator.encode(batch.images)
    assert torch.equal(generator.latents(batch), latents)
    stored = replace(batch, latents=latents.half(), autoencoder=generator.fingerprint)
    assert torch.equal(generator.latents(stored), latents.half().float())
    with pytest.raises(ValueError, match="'objects' were made by autoencoder other, the model's is"):
        generator.latents(replace(stored, autoencoder="other"))


def test_grids_are_made_from_pictures(generator):
    batch = scenes()
    unseen = torch.full((1,) * 6, torch.nan).expand(batch.images.shape)
    with pytest.raises(ValueError, match="'objects' gives latents, scores and predictions need pictures"):
        generator(replace(batch, images=unseen))
