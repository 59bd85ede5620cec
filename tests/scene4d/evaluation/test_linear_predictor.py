"""A linear map from references to the grid: fitted once, kept in a file of its autoencoder."""

import math

import pytest
import torch

from scene4d.evaluation.baselines import copy_fixed_view, copy_freeze_time
from scene4d.evaluation.linear_predictor import (
    LinearPredictor,
    read_linear_predictor,
    write_linear_predictor,
)


def random_grid(b: int = 2, v: int = 3, t: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, v, t, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def affine_grid(seed: int) -> torch.Tensor:
    """Grids whose generated frames are an exact linear map of the references, another one a channel."""
    grid = random_grid(seed=seed)
    weights = torch.tensor([[0.5, 0.3, 0.2, 0.1], [1.0, 0.0, -0.5, 0.0], [0.0, 1.0, 0.0, 0.25]])
    a, b, c = copy_freeze_time(grid), copy_fixed_view(grid), copy_fixed_view(copy_freeze_time(grid))
    features = torch.stack([a, b, c, torch.ones_like(a)], -1)
    made = torch.einsum("bvtchwk,ck->bvtchw", features, weights)
    made[:, 0], made[:, :, 0] = grid[:, 0], grid[:, :, 0]
    return made


def test_it_finds_a_linear_world():
    predictor = LinearPredictor(identity, identity, ridge=1e-8).fit(affine_grid(k) for k in range(3))
    held_out = affine_grid(9)
    seen = held_out.clone()
    seen[:, 1:, 1:] = math.nan  # it may not look at what it predicts
    torch.testing.assert_close(predictor.predict(seen)[:, 1:, 1:], held_out[:, 1:, 1:], rtol=1e-3, atol=1e-3)


def test_it_works_in_latents_of_fewer_frames():
    encode = lambda x: x[:, :, ::2, :, ::4, ::4] * 3  # noqa: E731
    enlarge = lambda z: z.repeat_interleave(4, 4).repeat_interleave(4, 5)  # noqa: E731
    decode = lambda z: enlarge(z).repeat_interleave(2, 2)[:, :, :5]  # noqa: E731
    predictor = LinearPredictor(encode, decode).fit([random_grid(t=5)])
    assert predictor.weights.shape == (3, 4)
    assert predictor.predict(random_grid(t=5)).shape == (2, 3, 5, 3, 16, 16)


def test_it_survives_still_scenes():
    still = copy_freeze_time(random_grid())
    predicted = LinearPredictor(identity, identity).fit([still]).predict(still)
    torch.testing.assert_close(predicted[:, 1:, 1:], still[:, 1:, 1:], rtol=0, atol=0.01)


def test_it_errors():
    predictor = LinearPredictor(identity, identity)
    with pytest.raises(ValueError, match="not fitted"):
        predictor.predict(random_grid())
    with pytest.raises(ValueError, match="at least one batch"):
        predictor.fit([])


def test_it_is_read_as_it_was_written(tmp_path):
    weights = torch.rand(5, 4, dtype=torch.float64)
    write_linear_predictor(tmp_path / "new" / "linear.safetensors", weights, "a" * 16)
    assert torch.equal(read_linear_predictor(tmp_path / "new" / "linear.safetensors", "a" * 16), weights)
    with pytest.raises(ValueError, match="fitted to autoencoder aaaaaaaaaaaaaaaa, the model's is bbb"):
        read_linear_predictor(tmp_path / "new" / "linear.safetensors", "bbb")


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("absent.safetensors", "text.safetensors"):
        with pytest.raises(ValueError, match=rf"{name}.*preparation.linear_predictor makes it"):
            read_linear_predictor(tmp_path / name, "a")


@pytest.mark.parametrize("weights", [torch.zeros(3), torch.zeros(3, 5), torch.full((3, 4), torch.nan)])
def test_weights_that_cannot_be_are_one_line(tmp_path, weights):
    write_linear_predictor(tmp_path / "linear.safetensors", weights, "abc")
    with pytest.raises(ValueError, match="linear.safetensors': weights must be finite `z 4`"):
        read_linear_predictor(tmp_path / "linear.safetensors", "abc")
