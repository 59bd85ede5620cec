"""The autoencoder learns, starts from principal components, and its decoder can go on alone."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_modules import AutoencoderTraining
from scene4d.networks.autoencoder import PatchAutoencoder, decode_grid, encode_grid
from scene4d.types import SceneBatch

DECODER = ["^decoder", "^from_latent", "^norm", "^head_", "^linear_out"]


def batch(seed: int) -> SceneBatch:
    """Smooth coloured waves that move."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(2, 1, 1, 3, 1, 1, generator=generator) * 6
    x = torch.arange(16).view(1, 1, 1, 1, 1, 16) / 3
    t = torch.arange(9).view(1, 1, 9, 1, 1, 1) / 4
    y = torch.arange(16).view(1, 1, 1, 1, 16, 1) / 5
    images = (torch.sin(x + y + t + phase) + 1) / 2
    return SceneBatch(
        images=images, cameras=None, frame_times=torch.zeros(2, 9), reference=torch.zeros(2, 1, 9, dtype=torch.bool),
        source=["objects"] * 2, keys=["a", "b"],
    )  # fmt: skip


def fit(module: AutoencoderTraining, steps: int, log_every: int = 50) -> None:
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=log_every,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch(k) for k in range(steps)], batch_size=None))


def module(refinement: int = 0, **options) -> AutoencoderTraining:
    torch.manual_seed(0)
    return AutoencoderTraining(
        lambda: PatchAutoencoder(channels=8, width=64, depth=1, refinement=refinement),
        lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        **options,
    )  # fmt: skip


def error(network: PatchAutoencoder) -> float:
    images = batch(100).images
    return float((decode_grid(network, encode_grid(network, images)) - images).square().mean())


def test_training_reconstructs_what_it_never_saw():
    trained = module()
    trained.configure_model()
    before = error(trained.network)
    fit(trained, 150)
    assert error(trained.network) < before / 10
    assert float(trained.network.std[0]) != 1.0  # the moments of the latents were followed


def test_a_decoder_alone_leaves_the_latents_as_they_are():
    trained = module(trainable=DECODER)
    trained.configure_model()
    images = batch(100).images
    before, latents = error(trained.network), encode_grid(trained.network, images)
    fit(trained, 60)
    assert torch.equal(encode_grid(trained.network, images), latents)
    assert error(trained.network) < before / 3


def test_refinement_alone_leaves_everything_else_as_it_is():
    trained = module(refinement=16, trainable=["^refine"])
    trained.configure_model()
    before = error(trained.network)
    weights = {name: p.clone() for name, p in trained.network.named_parameters()}
    fit(trained, 60)
    assert error(trained.network) < before / 2
    changed = {n for n, p in trained.network.named_parameters() if not torch.equal(p, weights[n])}
    assert changed == {n for n in weights if n.startswith("refine.")}


def test_a_pattern_that_names_nothing_is_an_error():
    wrong = module(trainable=["^decodr"])
    with pytest.raises(ValueError, match="decodr"):
        wrong.configure_model()


@pytest.mark.parametrize("log_every, kept", [(0, 0), (2, 1), (5, 3)])
def test_figures_wait_for_the_log_and_for_nothing_else(log_every, kept):
    trained = module()
    trained.configure_model()
    fit(trained, 3, log_every)
    expected = {"train/loss", "train/psnr"} if kept else set()
    assert len(trained.figures._values) == kept
    assert trained.figures.take().keys() == expected
