"""Both pipelines on the GPU against the CPU, and what samples may depend on."""

from dataclasses import replace

import pytest
import torch
from conftest import DEVICE
from textured_wall import make_batch, make_network
from tiny_models import patch_autoencoder, relative, scenes, wan

from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.pipelines import Captions, GridGenerator, Reconstructor, Sampling


def generator(device, sampling) -> GridGenerator:
    return GridGenerator(
        wan().to(device), patch_autoencoder().to(device), RectifiedFlow("data"), sampling, Captions()
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_generated_grid_is_that_of_the_cpu(guidance, note_error):
    batch = replace(scenes(), text=torch.randn(2, 1, 8))
    sampling = Sampling(3, guidance)
    expected = generator("cpu", sampling)(batch)
    found = generator(DEVICE, sampling)(batch.to(DEVICE))
    assert found.images.device.type == DEVICE.type and found.keys == expected.keys
    note_error("grid generator against the CPU", relative(found.images, expected.images))
    assert relative(found.images, expected.images) < 1e-4


def test_half_precision_stays_near(note_error):
    batch = scenes().to(DEVICE)
    pipeline = generator(DEVICE, Sampling(3))
    expected = pipeline(batch).images
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = pipeline(batch).images
    note_error("grid generator, autocast to bfloat16", relative(found, expected))
    assert found.dtype == torch.float32 and relative(found, expected) < 0.05


def test_samples_repeat_and_do_not_depend_on_their_batch():
    batch, pipeline = scenes(3).to(DEVICE), generator(DEVICE, Sampling(3))
    together = pipeline(batch).images
    assert torch.equal(together, pipeline(batch).images)
    for k in range(3):
        assert relative(pipeline(batch.sample(k)).images[0], together[k]) < 1e-5
    other = replace(pipeline.sampling, seed=1)
    again = GridGenerator(pipeline.network, pipeline.autoencoder, pipeline.flow, other)(batch).images
    assert not torch.equal(again, together)


@torch.no_grad()
def test_a_reconstruction_is_that_of_the_cpu(note_error):
    batch, network = make_batch(b=2), make_network()
    expected = Reconstructor(network)(batch)
    found = Reconstructor(make_network().to(DEVICE))(batch.to(DEVICE))
    pairs = {name: (getattr(found, name), getattr(expected, name)) for name in ("depths", "background")}
    pairs["c2w"] = found.cameras.c2w, expected.cameras.c2w
    for name in ("means", "scales", "opacities", "colors"):
        pairs[name] = getattr(found.gaussians, name), getattr(expected.gaussians, name)
    for name, (ours, theirs) in pairs.items():
        assert ours.device.type == DEVICE.type, name
        note_error(f"reconstructor against the CPU, {name}", relative(ours, theirs))
        assert relative(ours, theirs) < 1e-4, name
    turns = (found.gaussians.quats.cpu() * expected.gaussians.quats).sum(-1).abs()
    assert turns.min() > 1 - 1e-4  # q and -q are one rotation


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True])
def test_refined_cameras_and_depths_are_found_on_the_device(given, note_error):
    """Matches are arguments of maxima, so that a few pixels may differ."""
    batch, found = make_batch(targets=0, t=1, endless=True), {}
    for device in ("cpu", DEVICE):
        network = make_network()
        network.aggregator.matcher.log_temperature.data.fill_(6.0)  # so that matches are trusted
        here = batch.to(device)
        scene = Reconstructor(network.to(device), refine=True)(here.images, here.cameras if given else None)
        found[str(device)] = scene.depths
        assert scene.depths.device.type == scene.cameras.c2w.device.type == torch.device(device).type
    ours, expected = found[str(DEVICE)], found["cpu"]
    difference = ((ours.cpu() - expected).abs() / expected.abs()).median().item()
    note_error("refined depth against the CPU, median", difference)
    assert ours.isfinite().all() and difference < 1e-2
